"""`warpline power plan`: what lower clocks, fewer active GPUs or a cap would have saved of what was recorded, and its price."""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from warpline_cli import asking
from warpline_cli.power import accounted
from warpline_cli.streams import tell

if TYPE_CHECKING:
    from warpline_analysis.energy.headroom import Choice, Curve
    from warpline_analysis.energy.money import Money
    from warpline_analysis.energy.plan import Plan
    from warpline_analysis.energy.proposal import Bounds, Proposal, Settings
    from warpline_analysis.energy.workloads import Workload

SLOWDOWNS: Final = (0.0, 0.02, 0.05, 0.1)
"""Parts of time that a limit may add, side by side."""
CURVES_BYTES_MAX: Final = 16 * 2**20
LINES_SHOWN: Final = 40


def arguments(parser: argparse.ArgumentParser) -> None:
    """Over which time, what is assumed, and how to print it."""
    from warpline_analysis.energy.plan_rows import POOLS

    accounted.arguments(parser, " proposal")
    parser.add_argument(
        "--pool", choices=tuple(POOLS), default="job", help="GPUs that can stand in for each other (%(default)s)"
    )
    parser.add_argument(
        "--trigger", type=float, default=3.0, metavar="S", help="low activity before clocks go down (%(default)s)"
    )
    parser.add_argument(
        "--cooldown", type=float, default=5.0, metavar="S", help="time clocks stay up after work (%(default)s)"
    )
    parser.add_argument(
        "--low-watts", type=float, metavar="W", help="power with low clocks (told from an empty GPU of the model)"
    )
    parser.add_argument(
        "--wake-ms", type=float, metavar="MS", help="how long clocks take to go up (as measured, else 1 to 500)"
    )
    parser.add_argument(
        "--curves", metavar="FILE", help="CSV of runs at several limits: power_limit, time_per_epoch, average_power"
    )
    parser.epilog = (
        "Nothing is changed on any GPU: all figures are replays of what was recorded, as 'at least' and 'at most'."
    )


def run(options: argparse.Namespace) -> int:
    """Print the plan; exit 0 whatever could be saved."""
    from warpline_analysis.energy.plan import plan
    from warpline_analysis.energy.workloads import workloads
    from warpline_proto.errors import QueryError

    money = accounted.money(options)
    settings, curves = _settings(options), _curves(options.curves)
    with asking.trusted(options) as query:
        span = accounted.span(options, query)
        start_ns = max(span.start_ns, span.first_window_ns or span.start_ns)
        try:
            found = plan(query, start_ns, span.end_ns, money, settings)
        except ValueError as error:
            raise QueryError(str(error), "ask for less with --since and --until") from error
        jobs = workloads(query, start_ns, span.end_ns)
    if options.json:
        json.dump(_document(found, jobs, curves, money), sys.stdout, indent=2)
        sys.stdout.write("\n")
    elif options.csv:
        _csv(found)
    else:
        sys.stdout.write(text(found, jobs, curves, money))
    if not found.gpus:
        tell("nothing is accounted in this time: the collector does so about twelve minutes after GPUs were sampled")
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    from warpline_analysis.energy.lowering import Rule
    from warpline_analysis.energy.proposal import Settings
    from warpline_proto.errors import ConfigError

    given = {"--low-watts": options.low_watts, "--wake-ms": options.wake_ms}
    for option, value in given.items():
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{option} {value} is no power or time", "give a number that is not negative")
    try:
        rule = Rule(options.trigger, options.cooldown)
    except ValueError as error:
        raise ConfigError(str(error), "give --trigger and --cooldown in seconds") from error
    wake = None if options.wake_ms is None else options.wake_ms / 1e3
    return Settings(rule, options.pool, options.low_watts, wake)


def _curves(path: str | None) -> Mapping[str, Curve]:
    from warpline_analysis.energy.headroom import curves
    from warpline_proto.errors import ConfigError

    if path is None:
        return {}
    try:
        with Path(path).open("rb") as stream:
            read = stream.read(CURVES_BYTES_MAX + 1)
        if len(read) > CURVES_BYTES_MAX:
            raise ValueError(f"over {CURVES_BYTES_MAX >> 20} MiB")
        return curves(read.decode().splitlines())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--curves {path}: {error}", "a CSV such as Zeus' tables of power limits") from error


def text(found: Plan, jobs: Sequence[Workload], curves: Mapping[str, Curve], money: Money) -> str:
    """Proposals as columns, what each assumes, and what jobs and measured curves tell."""
    from warpline_analysis.energy.money import JOULES_PER_KWH
    from warpline_tui.grid import grid

    lines = [
        f"{found.gpus} GPUs drew {found.total_joules / JOULES_PER_KWH:,.3f} kWh; could have been saved, at least to at most:",
        "",
    ]
    currency = [money.currency] if money.price_per_kwh else []
    heading = ["proposal", "kWh", "share", *currency, "wake-ups", "wait s", "not known kWh"]
    lines += grid(
        [heading, *(_cells(each, found, bool(currency)) for each in found.proposals)],
        [False, *[True] * (len(heading) - 1)],
    )
    for assumptions, alike in itertools.groupby(found.proposals, lambda each: each.assumptions):
        lines += ["", *(f"{each.name}: {each.meaning}" for each in alike), *(f"  - {words}" for words in assumptions)]
    if jobs:
        lines += [
            "",
            "jobs by energy (means of a second: spikes of milliseconds are not seen):",
            *grid(*_job_cells(jobs)),
        ]
    if curves:
        lines += [
            "",
            "measured at several limits: limit and energy saved by how much time may be added:",
            *grid(*_curve_cells(curves)),
        ]
    return "\n".join(lines) + "\n"


def _cells(each: Proposal, found: Plan, priced: bool) -> list[str]:
    from warpline_analysis.energy.money import JOULES_PER_KWH

    share = each.share(found.total_joules)
    kwh = (
        None
        if each.saved_joules is None
        else (each.saved_joules[0] / JOULES_PER_KWH, each.saved_joules[1] / JOULES_PER_KWH)
    )
    return [
        each.name, _both(kwh, ",.3f"), _both(share, ".1%"), *([_both(each.saved_cost, ",.2f")] if priced else []),
        _both(each.wakes, ",.0f"), _both(each.wait_seconds, ",.1f"), f"{each.unknown_joules / JOULES_PER_KWH:,.3f}",
    ]  # fmt: skip


def _both(bounds: Bounds | None, form: str) -> str:
    if bounds is None:
        return "-"
    low, high = (format(value, form) for value in bounds)
    return low if low == high else f"{low} to {high}"


def _job_cells(jobs: Sequence[Workload]) -> tuple[list[list[str]], list[bool]]:
    from warpline_analysis.energy.money import JOULES_PER_KWH

    rows = [["job", "kWh", "GPUs", "class", "near limit", "99 % below W", "headroom W", "most like"]]
    for job in jobs[:LINES_SHOWN]:
        near = "-" if job.near_share is None else f"{job.near_share:.1%}"
        alike = f"{job.alike[0][0]} ({job.alike[0][1]:.2f})" if job.alike else "-"
        headroom = "-" if job.headroom_watts is None else f"{job.headroom_watts:,.0f}"
        rows.append(
            [
                job.job,
                f"{job.joules / JOULES_PER_KWH:,.3f}",
                str(job.gpus),
                job.kind or "-",
                near,
                f"{job.p99_watts:,.0f}",
                headroom,
                alike,
            ]
        )
    return rows, [False, True, True, False, True, True, True, False]


def _curve_cells(curves: Mapping[str, Curve]) -> tuple[list[list[str]], list[bool]]:
    rows = [["workload", *(f"+{slowdown:.0%}" for slowdown in SLOWDOWNS)]]
    for name, choices in list(_chosen(curves).items())[:LINES_SHOWN]:
        rows.append([name, *(f"{each.limit_watts:g} W {each.saving:.1%}" for each in choices)])
    return rows, [False, *[True] * len(SLOWDOWNS)]


def _chosen(curves: Mapping[str, Curve]) -> Mapping[str, Sequence[Choice]]:
    from warpline_analysis.energy.headroom import best

    return {name: [best(curve, slowdown) for slowdown in SLOWDOWNS] for name, curve in curves.items()}


def _document(found: Plan, jobs: Sequence[Workload], curves: Mapping[str, Curve], money: Money) -> dict[str, Any]:
    return {
        **found.to_json(),
        "currency": money.currency if money.price_per_kwh else None,
        "jobs": [asdict(job) for job in jobs],
        "curves": {
            name: [{"slowdown_max": most, **asdict(each)} for most, each in zip(SLOWDOWNS, choices, strict=True)]
            for name, choices in _chosen(curves).items()
        },
    }


def _csv(found: Plan) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    rows = [dict(_flat(each, found)) for each in found.proposals]
    writer.writerow(rows[0])
    writer.writerows(each.values() for each in rows)


def _flat(each: Proposal, found: Plan) -> Iterator[tuple[str, object]]:
    yield "name", each.name
    bounds = {
        "saved_joules": each.saved_joules,
        "saved_share": each.share(found.total_joules),
        "saved_cost": each.saved_cost,
        "wakes": each.wakes,
        "wait_seconds": each.wait_seconds,
    }
    for name, both in bounds.items():
        yield f"{name}_at_least", None if both is None else both[0]
        yield f"{name}_at_most", None if both is None else both[1]
    yield "unknown_joules", each.unknown_joules
    yield "assumptions", "; ".join(each.assumptions)
