"""Figures of energy: how exact the account is, what the guard saves and costs, and what accounting itself costs.

    python tests/bench/energy.py [--quick] [--json]

`states_error_joules`: account against plain loops over made-up telemetry (energy_truth.py). `guard_saving_percent` and
`guard_latency_p95_percent`: the bursty-serving replay (energy_replay.py), SM clock alone, beside the paper's 22 and 29 %.
`rows_per_second`: samples accounted in a second of one core, 10,000 GPUs at one a second (energy_rows.py).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

import energy_replay
import energy_rows
import energy_truth

CLOCKS: Final = {"sm": "SM clock", "sm_memory": "SM and memory clock"}


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--quick", action="store_true", help="3 and 4 seeds instead of 20, 1,000 GPUs, 2 hours of reports"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = figures(options.quick)
    print(json.dumps(found, indent=2) if options.json else table(found))
    return 0


def figures(quick: bool) -> dict[str, Any]:
    """All of them; the four that are compared between versions first."""
    truth, replay, rows = energy_truth.figures(quick), energy_replay.figures(quick), energy_rows.figures(quick)
    return {
        "states_error_joules": truth["states_error_joules"],
        "guard_saving_percent": replay["guard_saving_percent"],
        "guard_latency_p95_percent": replay["guard_latency_p95_percent"],
        "rows_per_second": rows["rows_per_second"],
        "truth": truth,
        "replay": replay,
        "rows": rows,
    }


def table(found: Mapping[str, Any]) -> str:
    """Markdown."""
    return "\n\n".join([*_truth(found["truth"]), *_replay(found["replay"]), *_rows(found["rows"])])


def _truth(truth: Mapping[str, Any]) -> list[str]:
    whole, states = (
        ", ".join(f"{name} {value:.2f} %" for name, value in truth[f"truth_error_percent_by_{what}"].items())
        for what in ("gpu", "state")
    )
    return [
        f"Largest difference between account and plain loops over {truth['seeds']} seeds: {truth['states_error_joules']:.1e} J, "
        f"{truth['states_error_seconds']:.1e} s.",
        f"Against the truth between the samples, all joules of a GPU: {whole}; by state of the first: {states}.",
    ]


def _replay(replay: Mapping[str, Any]) -> list[str]:
    base = replay["base"]
    delays = [name.removeprefix("sm_") for name in base if name.startswith("sm_") and not name.startswith("sm_memory")]
    lines = ["| clocks | delay | mean W | saving | paper | p95 s | p95 | paper |", "|---|---|---|---|---|---|---|---|"]
    for clocks, words in CLOCKS.items():
        paper = replay["paper"][clocks]
        for delay in delays:
            each = base[f"{clocks}_{delay}"]
            lines.append(
                f"| {words} | {delay} | {each['mean_watts']:.1f} | {each['saving_percent']:.1f} % | {paper['saving']:.0f} % | "
                f"{each['p95_seconds']:.2f} | +{each['p95_percent']:.1f} % | +{paper['p95']:.0f} % |"
            )
    changed = ["| changed | SM: saving | p95 | SM and memory: saving | p95 |", "|---|---|---|---|---|"]
    for name, each in (
        ("nothing", replay["base"]),
        ("no backing off", replay["as_printed"]),
        *replay["sensitivity"].items(),
    ):
        cells = [each[f"{clocks}_100ms"] for clocks in CLOCKS]
        changed.append(
            f"| {name} | "
            + " | ".join(f"{c['saving_percent']:.1f} % | +{c['p95_percent']:.1f} %" for c in cells)
            + " |"
        )
    plain = (
        f"Without the guard: idle {base['idle_time_percent']:.1f} % of the time and {base['idle_energy_percent']:.1f} % of the "
        f"energy, {base['mean_watts']:.1f} W, p95 {base['p95_seconds']:.2f} s over {base['requests']:,} requests."
    )
    return [plain, "\n".join(lines), "\n".join(changed)]


def _rows(rows: Mapping[str, Any]) -> list[str]:
    spent, day = rows["account"], rows["day"]
    reports = ", ".join(
        f"{name.replace('_', ' ')} {day[name]['cpu_seconds']:.2f} s"
        for name in ("report_by_job", "report_by_gpu", "report_by_cause", "plan")
    )
    return [
        f"Accounting {rows['samples']:,} samples of {rows['gpus']:,} GPUs took {spent['cpu_seconds']:.1f} s of one core "
        f"({spent['wall_seconds']:.1f} s by the clock): {rows['rows_per_second']:,.0f} samples a second, "
        f"{rows['share_of_one_core']:.2%} of a core live, {rows['times_the_floor']:.0f} times a plain sum over the same rows, "
        f"at most {rows['peak_rss_mb']:,} MiB; {rows['intervals']:,} intervals, {rows['joules_off_counters']:.1e} J off the "
        "counters.",
        f"On {day['intervals']:,} intervals ({day['gpus']:,} GPUs, {day['hours']:.0f} hours), CPU: {reports}; at most "
        f"{day['peak_rss_mb']:,} MiB.",
    ]


if __name__ == "__main__":
    raise SystemExit(main())
