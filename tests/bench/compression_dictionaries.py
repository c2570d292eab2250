"""Whether a trained zstd dictionary would make the parts of a stream smaller than the ones that the stream builds of itself.

    python tests/bench/compression_dictionaries.py [--json]

Parts are those that an agent sends as Arrow: keyframes of clusters, steps, kernel names; of recorded traces with several steps
and of the made-up 10 MB step, a frame a step. A dictionary is trained on all inputs but one and tried on that one, so that it
knows the schema and what programs have in common, but not this program. `own` is what the stream does: the newest earlier part of
the table, nothing at first; `trained` has one dictionary for all; `both` begins with the trained one. Bytes are of zstd alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import zstandard

sys.path.insert(0, str(Path(__file__).parent))

from compression import Tally, frame_of
from compression_inputs import SOURCES, Load, recorded, synthetic

from warpline_proto import wire
from warpline_proto.kernel_deltas import Sender
from warpline_proto.stream import LEVEL, RENEW_RATIO
from warpline_proto.tables import KERNEL_CLUSTERS

STEPS_MAX: Final = 40
TRAINED_BYTES: Final = 64 * 1024
REPEATS: Final = 8
"""The trainer wants many samples: pieces of so many sizes are cut from each part."""
WAYS: Final = ("own", "trained", "both")
Parts = Mapping[str, Sequence[bytes]]
"""Table -> what is sent of it as Arrow, in order."""


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    data = Path(os.environ.get("WARPLINE_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")).resolve()
    loads = [each for each in recorded(data) if each.name in SOURCES] + [synthetic(data, STEPS_MAX)]
    sent = {load.name: parts(load) for load in loads}
    rows = [compared(name, sent) for name in sent]
    print(json.dumps(rows, indent=2) if options.json else page(rows))
    return 0


def parts(load: Load) -> Parts:
    """What a stream sends of an input as Arrow before zstd: of clusters only the rows that go whole."""
    sender, found = Sender(), defaultdict(list)
    for number, ranks in enumerate(islice(load.steps, STEPS_MAX)):
        for part in frame_of(number, ranks, Tally(), names=number == 0).parts:
            plain = wire.unpack(part)
            if part.table == KERNEL_CLUSTERS.name:
                whole = sender.pack(wire.to_batch(part, plain).rows).whole
                if whole is None:
                    continue
                plain = wire.to_ipc(whole.schema, [whole])
            found[part.table].append(plain)
    return found


def compared(name: str, sent: Mapping[str, Parts]) -> dict[str, Any]:
    """Bytes of the first part of each table, and of the later ones in the mean, by way."""
    row: dict[str, Any] = {"input": name}
    for table, own in sent[name].items():
        dictionary = _trained([part for other in sent if other != name for part in sent[other].get(table, ())])
        sizes = {way: _sizes(own, dictionary, way) for way in WAYS}
        row[table] = {
            way: {"first": each[0], "later": round(sum(each[1:]) / len(each[1:]), 1) if len(each) > 1 else None}
            for way, each in sizes.items()
        }
    return row


def _trained(samples: Sequence[bytes]) -> zstandard.ZstdCompressionDict:
    cut: list[bytes | bytearray | memoryview[int]] = [
        sample[: len(sample) * (at + 1) // REPEATS] for sample in samples for at in range(REPEATS)
    ]
    return zstandard.train_dictionary(TRAINED_BYTES, cut)


def _sizes(parts_sent: Sequence[bytes], trained: zstandard.ZstdCompressionDict, way: str) -> list[int]:
    """As the stream does it: a part that its dictionary serves badly becomes the next one."""
    newest = trained if way != "own" else None
    sizes = []
    for plain in parts_sent:
        alone = len(zstandard.ZstdCompressor(level=LEVEL).compress(plain))
        size = alone if newest is None else len(zstandard.ZstdCompressor(level=LEVEL, dict_data=newest).compress(plain))
        sizes.append(min(size, alone))
        if (way == "own" and (newest is None or size > RENEW_RATIO * alone)) or (way == "both" and newest is trained):
            newest = zstandard.ZstdCompressionDict(plain, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return sizes


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row for each input and table."""
    lines = ["| input | table | " + " | ".join(f"{way} first | {way} later" for way in WAYS) + " |", "| --- " * 8 + "|"]
    for row in rows:
        for table, ways in row.items():
            if table != "input":
                cells = (str(ways[way][part] or "") for way in WAYS for part in ("first", "later"))
                lines.append(f"| {row['input']} | {table} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
