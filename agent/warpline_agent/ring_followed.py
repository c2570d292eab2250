"""One training process as its ring tells of it: records that wait for their step, steps, and when capture was on.

What waits stays in the ring as far as there is room, where an agent that is started again finds it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from warpline_hook import layout, ring
from warpline_hook.identity import job_name, launcher_place
from warpline_proto.errors import Refused, SourceError

from .hook_file import HookFile, open_file
from .hook_rows import Identity, identity_of
from .hook_search import Found
from .inferred_steps import InferredSteps
from .kernels import NO_STEP, Kernels, StepSpan, steps_at
from .nccl_join import NcclJoin, Operations
from .ring_file import Records, RingFile, Standing
from .ring_mark import LaneMark, Mark
from .ring_records import RingKernels, joined, possible

PENDING_RECORDS_MAX: Final = 400_000
"""Records that wait for the end of their step (20 MB); more are told without one."""
PENDING_NS: Final = 120_000_000_000
"""They wait no longer than this."""
FUTURE_NS: Final = 60_000_000_000
"""Clocks of one machine do not differ by so much."""
SPANS_MAX: Final = 4_096
"""Steps that are remembered."""
WINDOWS_MAX: Final = 256
"""Times of capture, and of loss, that are remembered."""

Window = tuple[int, int | None]
"""From and to, ns; None while it lasts."""
_EVER: Final = 1 << 62


class Ripe(NamedTuple):
    """Kernels, given to the steps that were captured whole; those steps; NCCL operations; all steps that are over.

    Operations come later than their step where it takes longer to know their kernels: `Followed.past` has the steps for them.
    """

    kernels: Kernels | None
    whole: list[StepSpan]
    operations: Operations | None
    over: list[StepSpan]


class _Part(NamedTuple):
    """Kernels that wait, none of them before a position in the lane."""

    position: int
    kernels: Kernels


def _end(span: StepSpan) -> int:
    return span.start_ns + span.duration_ns


@dataclass
class Followed:
    """`dropped` is what has been told by lane, `told_names` how many names; `inferred` is None once the hook has told a step.

    `impossible` counts records of a time to come.
    """

    file: RingFile
    name: str
    found: Found
    kernels: RingKernels = field(default_factory=RingKernels)
    identity: Identity = field(default_factory=Identity)
    steps: HookFile | None = None
    inferred: InferredSteps | None = field(default_factory=InferredSteps)
    spans: deque[StepSpan] = field(default_factory=lambda: deque(maxlen=SPANS_MAX))
    windows: deque[Window] = field(default_factory=lambda: deque(maxlen=WINDOWS_MAX))
    losses: deque[Window] = field(default_factory=lambda: deque(maxlen=WINDOWS_MAX))
    told_names: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    impossible: int = 0
    _pending: list[_Part] = field(default_factory=list)
    operations: NcclJoin = field(default_factory=NcclJoin)
    past: deque[StepSpan] = field(default_factory=lambda: deque(maxlen=SPANS_MAX))
    _told_to_ns: int = 0
    _stepless_to_ns: int = 0
    _missing: bool = False
    _lost: int = 0
    _lost_step: int | None = None
    _told: Mapping[str, Any] = field(default_factory=dict)

    def go_on(self, mark: Mark | None, now_ns: int) -> None:
        """Begin where an agent before this one ended, by its mark; what was lost with it is told with what found no room."""
        if mark is None:
            if not any(self.file.taken):
                self.dropped = {}
            return
        lost = self._lost_since(mark)
        self.file.leave_out(mark.told_ns, tuple(lane.read for lane in mark.lanes))
        self._told_to_ns = mark.told_ns
        waiting = {name: self.file.waiting(name) for name in lost}
        waiting["kernels"] = possible(waiting["kernels"])
        lost = {name: max(count - len(waiting[name]), 0) for name, count in lost.items()}
        self.dropped = {
            name: lane.dropped - lost.get(name, 0) for name, lane in zip(ring.LANES, mark.lanes, strict=True)
        }
        if mark.whole_ns:
            self.windows.append((mark.whole_ns, None))
        if any(lost.values()):
            left = [int(records["start_ns"].min()) for records in waiting.values() if len(records)]
            self.losses.append((mark.told_ns, min(left, default=now_ns)))
            self._lost = sum(lost.values())

    def lost_before(self, standing: Standing) -> str:
        """What an agent before this one took to its end, in words; empty where nothing."""
        step = standing.step if self._lost_step is None else self._lost_step
        waited = f"step {step}" if step >= 0 else "their step"
        return (
            f"{self._lost} that waited for the end of {waited} lost with an agent that was ended" if self._lost else ""
        )

    def _lost_since(self, mark: Mark) -> dict[str, int]:
        """Records by lane that were not told and are not beyond what is in the ring."""
        taken = dict(zip(ring.LANES, self.file.taken, strict=True))
        lanes = dict(zip(ring.LANES, mark.lanes, strict=True))
        return {name: max(lanes[name].read, taken[name]) - lanes[name].safe for name in ("kernels", "nccl")}

    def mark(self) -> Mark:
        """What is safe once all that was told up to now is."""
        read = dict(zip(ring.LANES, self.file.taken, strict=True))
        waiting = {"kernels": sum(len(part.kernels) for part in self._pending)}
        first = {"kernels": self._pending[0].position} if self._pending else {}
        if self.operations.position is not None:  # they are told in the order in which they lie there
            first["nccl"] = read["nccl"] = self.operations.position
        begun = self.windows[-1][0] if self._captures else 0
        lost = max((over for _, over in self.losses if over is not None), default=0)
        lanes = (
            LaneMark(read[name], read[name] - waiting.get(name, 0), self.dropped.get(name, 0)) for name in ring.LANES
        )
        keep = tuple(first.get(name, read[name]) for name in ring.LANES)
        return Mark(self._told_to_ns, begun and max(begun, lost), tuple(lanes), keep)

    def look_for_steps(self, folder: int | None) -> None:
        """Open the file of the hook beside the ring, where there is one by now."""
        if self.steps is not None:
            return
        process = self.file.process
        try:
            name = layout.file_name(process.namespace, process.pid, process.start_ticks)
            self.steps = HookFile(open_file(name, folder))
        except (SourceError, Refused, OSError):
            return

    def take_steps(self) -> None:
        """New steps, and who the process says it is."""
        try:
            for record in self.steps.take().records if self.steps is not None else ():
                start, duration = record.times["start"], record.times["duration"]
                if record.phase is not None or start is None or duration is None:
                    continue
                self._use_marked()
                if start + duration > self._told_to_ns:
                    self.spans.append(StepSpan(record.step, start, duration))
            if self._lost and self._lost_step is None and self.spans:
                self._lost_step = self.spans[0].step
            told = self.steps.identity() if self.steps is not None else {}
        except (Refused, OSError):
            self.close_steps()
            return
        if told and told is not self._told:
            self._told, self.identity = told, identity_of(told)
        elif self.identity.job is None and self.identity.rank is None:
            self.identity = identity_of(environment(self.file))

    def _use_marked(self) -> None:
        """The hook tells steps: none are inferred any more."""
        if self.inferred is not None:
            self.inferred = None
            self.spans = deque((span for span in self.spans if span.boundary is None), maxlen=SPANS_MAX)

    def take_events(self, events: Records, standing: Standing, now_ns: int) -> None:
        """When capture began and ended, and when CUPTI lost records."""
        events = self._not_to_come(events, now_ns)
        if len(events):
            for event in events[events["kind"] == ring.CAPTURE]:
                on = bool(event["value"] & ring.KERNELS)
                self._capture(int(event["start_ns"]) + (int(event["duration_ns"]) if on else 0), on)
            self._lose(events)
            self.operations.take_events(events)
        self._missing = standing.dropped["nccl"] > self.dropped.get("nccl", 0)
        if standing.capturing & ring.KERNELS and not self._captures:
            self.windows.append((now_ns, None))  # begun before this agent did

    def take_records(self, kernels: Records, operations: Records, taken: tuple[int, ...], now_ns: int) -> None:
        """New records of the kernel lane and of NCCL's; `taken` is how many of each lane had been read before."""
        before = dict(zip(ring.LANES, taken, strict=True))
        kernels, operations = (self._not_to_come(records, now_ns) for records in (kernels, operations))
        if len(kernels):
            self._lose(kernels)
            found = self.kernels.kernels(kernels, self.file)
            self.operations.take_kernels(kernels, found, self.file)
            if len(found):
                self._pending.append(_Part(before["kernels"], found))
                if self.inferred is not None:
                    self.spans.extend(self.inferred.take_kernels(found))
        if len(operations) or self._missing:
            self.operations.take_operations(operations, before["nccl"], missing=self._missing)
            if self.inferred is not None:
                self.spans.extend(self.inferred.take_operations(operations, self.file))

    def _not_to_come(self, records: Records, now_ns: int) -> Records:
        """Less those of a time to come: kernels would wait for ever, and no window of capture can begin or end there."""
        known = records["start_ns"] < now_ns + FUTURE_NS
        self.impossible += int(known.size - known.sum())
        return records if known.all() else records[known]

    def ripe(self, horizon_ns: int, *, final: bool) -> Ripe:
        """What is told now: all that began before the end of the last step that is over, or, with `final`, all there is.

        `horizon_ns` is the time before which nothing more comes; where no steps are told it takes their place.
        """
        over = [span for span in self.spans if _end(span) <= horizon_ns or final]
        self.spans = deque((span for span in self.spans if _end(span) > horizon_ns and not final), maxlen=SPANS_MAX)
        if final:
            self._told_to_ns = _EVER
        elif over:
            self._told_to_ns = max(self._told_to_ns, _end(over[-1]))
        elif not self._has_steps or self._waits_in_vain(horizon_ns):
            self._told_to_ns = self._stepless_to_ns = max(self._told_to_ns, horizon_ns)
        whole = [span for span in over if self._whole(span)]
        self.operations.advance(horizon_ns, self.windows, self.file, final=final)
        self._remember(over)
        return Ripe(self._ripe_kernels(whole), whole, self.operations.ripe(self._told_to_ns), over)

    def _remember(self, over: list[StepSpan]) -> None:
        """Keep steps as long as operations of them wait."""
        self.past.extend(over)
        first_ns = self.operations.first_ns
        while self.past and (first_ns is None or _end(self.past[0]) < first_ns) and self.past[0] not in over:
            self.past.popleft()

    @property
    def _has_steps(self) -> bool:
        """Whether steps are told, or were to be."""
        return self.steps is not None or (self.inferred is not None and self.inferred.boundary is not None)

    def _waits_in_vain(self, horizon_ns: int) -> bool:
        """Whether steps that are told at all have not been for too long."""
        kernels = sum(len(part.kernels) for part in self._pending)
        if kernels + self.operations.waiting > PENDING_RECORDS_MAX:
            return True
        firsts = [int(part.kernels.start_ns[0]) for part in self._pending[:1]]
        if self.operations.first_ns is not None:
            firsts.append(self.operations.first_ns)
        return bool(firsts) and min(firsts) < horizon_ns - PENDING_NS

    def _ripe_kernels(self, whole: list[StepSpan]) -> Kernels | None:
        told: list[Kernels] = []
        waiting: list[_Part] = []
        for part in self._pending:  # those that wait are not copied at each look
            early = part.kernels.start_ns < self._told_to_ns
            if early.all():
                told.append(part.kernels)
            elif early.any():
                told.append(part.kernels.select(early))
                waiting.append(_Part(part.position + int(early.argmin()), part.kernels.select(~early)))
            else:
                waiting.append(part)
        self._pending = waiting
        if not told:
            return None
        chosen = joined(told)
        return chosen.with_steps(steps_at(chosen.start_ns, whole))

    def close_steps(self) -> None:
        """Give the file of the hook back."""
        if self.steps is not None:
            self.steps.close()
            self.steps = None

    @property
    def _captures(self) -> bool:
        return bool(self.windows) and self.windows[-1][1] is None

    def _capture(self, at_ns: int, on: bool) -> None:
        if on and not self._captures:
            self.windows.append((at_ns, None))
            if self.inferred is not None:
                self.inferred.window(at_ns)
        elif not on and self._captures:
            self.windows[-1] = (self.windows[-1][0], at_ns)

    def _lose(self, records: Records) -> None:
        for gap in records[records["kind"] == ring.GAP]:
            self.losses.append((int(gap["start_ns"]), int(gap["start_ns"]) + int(gap["duration_ns"])))
            if self.inferred is not None:
                self.inferred.hole(int(gap["start_ns"]))

    def _whole(self, span: StepSpan) -> bool:
        """Whether capture was on all through a step, nothing of it was lost, and none of it was told without a step."""
        start, end = span.start_ns, span.start_ns + span.duration_ns
        if span.boundary is not None and start < self._stepless_to_ns:
            return False
        lost = any(begun < end and (over is None or over >= start) for begun, over in self.losses)
        return not lost and any(begun <= start and (over is None or over >= end) for begun, over in self.windows)


def inferred_only(ripe: Ripe) -> list[StepSpan]:
    """Steps that were inferred and of which no kernels are told."""
    with_kernels = ripe.kernels is not None and len(complete_steps(ripe.kernels)) > 0
    return [span for span in ripe.over if span.boundary is not None and not (with_kernels and span in ripe.whole)]


def complete_steps(kernels: Kernels) -> Kernels:
    """The records that lie in a step."""
    return kernels.select(kernels.step != NO_STEP)


def new_names(followed: Followed, kernels: Kernels) -> Kernels | None:
    """Records whose names have not been told yet; None where there are none."""
    fresh = kernels.select(np.flatnonzero(kernels.name_id >= followed.told_names))
    followed.told_names = max(followed.told_names, len(kernels.names))
    return fresh if len(fresh) else None


def environment(file: RingFile) -> Mapping[str, Any]:
    """Rank and job by the variables of launchers."""
    text = next((each.content for each in file.texts.values() if each.kind == ring.ENVIRONMENT), b"")
    lines = (line.partition("=") for line in text.decode("utf-8", "replace").splitlines())
    found = {name: value for name, _, value in lines}
    place = launcher_place(found)
    return {"job": job_name(found, place)[0], "rank": place.get("rank"), "world_size": place.get("world_size")}
