"""What the GPUs of a demonstration drew, in a line: reckoned as the collector does it, whose account comes minutes later."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pyarrow as pa

    from warpline_proto.client import QueryClient

WORDS: Final = {
    "active": "at work",
    "execution_idle": "held by a program and idle for 5 s or more",
    "busy_wait": "in busy-wait",
    "spinning": "spinning",
}
"""State -> how it is said here; the others together are not known."""
_TIME: Final = "SELECT min(time_ns) AS start_ns, max(time_ns) AS end_ns FROM device_samples"


class _Reader:
    """A collector, asked as the analysis asks."""

    def __init__(self, client: QueryClient) -> None:
        self._client = client

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """Rows of one SELECT."""
        assert not parameters, "the energy account fills its questions itself"
        return self._client.query(sql)


def line(client: QueryClient) -> str:
    """Energy of all GPUs and its parts by state, as far as their readings go."""
    from warpline_analysis.energy.account import account, windows
    from warpline_tui.words import energy

    [time] = client.query(_TIME).to_pylist()
    if time["start_ns"] is None:
        return "energy: no GPU was read"
    joules: dict[str, float] = defaultdict(float)
    gpus = set()
    for window_ns in windows(time["start_ns"], time["end_ns"] + 1):
        for row in account(_Reader(client), window_ns, {}, time["end_ns"]).to_pylist():
            joules[WORDS.get(row["state"], "not known")] += row["joules"] or 0.0
            gpus.add(row["gpu_uuid"])
    parts = [f"{energy(drawn)} {words}" for words, drawn in sorted(joules.items(), key=lambda part: -part[1])]
    seconds = (time["end_ns"] - time["start_ns"]) / 1e9
    whole = f"{len(gpus)} GPUs drew {energy(sum(joules.values()))} in {seconds:.0f} s"
    return f"energy, of made-up readings: {whole}: {', '.join(parts)}"
