"""The ledger: which frames of which agent are stored, so that a frame sent again is stored once and a gap is seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final

import pyarrow as pa

from warpline_proto.batch import Frame

SCHEMA: Final = pa.schema(
    [
        ("agent", pa.string()),
        ("boot", pa.string()),
        ("sequence", pa.int64()),
        ("frames", pa.int64()),
        ("missing", pa.int64()),
        ("lost", pa.int64()),
        ("first_ns", pa.int64()),
        ("last_ns", pa.int64()),
    ]
)
CREATE: Final = (
    "CREATE TABLE IF NOT EXISTS ledger (agent VARCHAR, boot VARCHAR, sequence BIGINT, frames BIGINT, missing BIGINT, "
    "lost BIGINT, first_ns BIGINT, last_ns BIGINT, PRIMARY KEY (agent, boot))"
)
REMOVE: Final = "DELETE FROM ledger WHERE agent = ? AND boot = ?"
UPSERT: Final = "INSERT OR REPLACE INTO ledger SELECT * FROM ledger_rows"
SOURCE: Final = "collector"
"""Name under which the collector reports what an agent lost on the way."""

TOGETHER_NS: Final = 60_000_000_000
"""Two boots of one agent that both send for so long are two agents: a restart ends the one before the other begins."""

EARLIER: Final = "(earlier)"
"""Boot of the one entry that stands for all of an agent's boots that sent nothing for long."""

Key = tuple[str, str]


@dataclass(frozen=True)
class Entry:
    """One boot of one agent: newest `sequence`, `frames` stored, `missing` numbers skipped, `lost` as the agent counts them."""

    agent: str
    boot: str
    sequence: int = 0
    frames: int = 0
    missing: int = 0
    lost: int = 0
    first_ns: int = 0
    last_ns: int = 0

    def after(self, frame: Frame) -> Entry:
        """The entry once `frame`, which is newer, is stored."""
        return replace(
            self,
            sequence=frame.sequence,
            frames=self.frames + 1,
            missing=self.missing + frame.sequence - self.sequence - 1,
            lost=max(self.lost, frame.lost),
            first_ns=self.first_ns or frame.created_ns,
            last_ns=frame.created_ns,
        )


@dataclass(frozen=True)
class Admission:
    """What to do with some frames: which are new, the entries that change, and rows of source_health about losses."""

    new: Sequence[bool]
    changed: Mapping[Key, Entry]
    losses: Sequence[Mapping[str, Any]]


def admit(frames: Sequence[Frame], entries: Mapping[Key, Entry]) -> Admission:
    """Frames in the order they came, against what is stored. A sequence at or below the newest stored is not new."""
    changed: dict[Key, Entry] = {}
    new: list[bool] = []
    losses: list[Mapping[str, Any]] = []
    starts: dict[str, list[Key]] = {}
    for frame in frames:
        key = (frame.agent, frame.boot)
        entry = changed.get(key) or entries.get(key) or Entry(frame.agent, frame.boot)
        new.append(frame.sequence > entry.sequence)
        if new[-1]:
            losses += _losses(frame, entry)
            if entry.frames and frame.created_ns // TOGETHER_NS != entry.last_ns // TOGETHER_NS:
                starts = starts or _starts(chain(entries, changed))
                others = (changed.get(other) or entries[other] for other in starts.get(frame.agent, ()))
                losses += _namesakes(frame, entry, others)
            changed[key] = entry.after(frame)
    return Admission(new, changed, losses)


def fold(entries: Mapping[Key, Entry], gone: Iterable[Key]) -> dict[Key, Entry]:
    """One entry an agent for its boots in `gone`, and for those folded before: what was counted stays counted."""
    folded: dict[Key, Entry] = {}
    for key in gone:
        agent, old = (key[0], EARLIER), entries[key]
        before = folded.get(agent) or entries.get(agent)
        folded[agent] = (
            replace(old, boot=EARLIER, sequence=0)
            if before is None
            else replace(
                before,
                frames=before.frames + old.frames,
                missing=before.missing + old.missing,
                lost=before.lost + old.lost,
                first_ns=min(before.first_ns, old.first_ns),
                last_ns=max(before.last_ns, old.last_ns),
            )
        )
    return folded


def to_table(entries: Iterable[Entry]) -> pa.Table:
    """Rows of the ledger."""
    return pa.Table.from_pylist([vars(entry) for entry in entries], schema=SCHEMA)


def from_rows(rows: Iterable[Mapping[str, Any]]) -> dict[Key, Entry]:
    """The entries in rows of the ledger."""
    return {(row["agent"], row["boot"]): Entry(**row) for row in rows}


def _losses(frame: Frame, entry: Entry) -> list[Mapping[str, Any]]:
    """Loss is never silence: rows that fell off at the agent and frames that never came are rows too."""
    found = [
        _loss(frame, batch.source, batch.table, "rows fell off at the agent before they were sent", batch.dropped)
        for batch in frame.batches
        if batch.dropped
    ]
    missing = frame.sequence - entry.sequence - 1
    if missing:
        first, last = entry.sequence + 1, frame.sequence - 1
        told = f"{missing} frames never arrived or were refused: {first} to {last} of boot {frame.boot}"
        found.append(_loss(frame, SOURCE, f"agent {frame.agent}", told, None))
    return found


def _starts(keys: Iterable[Key]) -> dict[str, list[Key]]:
    """The boots of each agent: all agents begin a minute together, and each is to look at its own alone."""
    found: dict[str, list[Key]] = defaultdict(list)
    for key in keys:
        found[key[0]].append(key)
    return dict(found)


def _namesakes(frame: Frame, entry: Entry, entries: Iterable[Entry]) -> list[Mapping[str, Any]]:
    """Said once a minute while another agent sends under the same name: their rows cannot be told apart."""
    for other in entries:
        if other.boot == frame.boot:
            continue
        together = min(other.last_ns, frame.created_ns) - max(other.first_ns, entry.first_ns)
        if together >= TOGETHER_NS and other.last_ns >= frame.created_ns - 2 * TOGETHER_NS:
            told = (
                f"two agents send as {frame.agent} at the same time (boots {frame.boot} and {other.boot}): give each machine a "
                "node of its own in [agent], or end one of them"
            )
            return [{**_loss(frame, SOURCE, f"agent {frame.agent}", told, None), "state": "busy"}]
    return []


def _loss(frame: Frame, source: str, subject: str, reason: str, dropped: int | None) -> Mapping[str, Any]:
    return {
        "node": _node(frame),
        "source": source,
        "time_ns": frame.created_ns,
        "subject": subject,
        "state": "dropped",
        "reason": reason,
        "dropped": dropped,
    }


def _node(frame: Frame) -> str:
    """The node the frame speaks of: what its first row says, else the agent's name."""
    for batch in frame.batches:
        if batch.rows.num_rows and (node := batch.rows.column("node")[0].as_py()):
            return str(node)
    return frame.agent
