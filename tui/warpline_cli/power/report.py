"""`warpline power report`: joules, money and carbon by job, user, node, GPU or cause, from the energy account."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from warpline_cli import asking
from warpline_cli.power import accounted
from warpline_cli.streams import tell

if TYPE_CHECKING:
    from warpline_analysis.energy.money import Money
    from warpline_analysis.energy.report import Line

LINES_SHOWN: Final = 40


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to add up, over which time, and how to print it."""
    from warpline_analysis.energy.report import BY

    accounted.arguments(parser, "")
    parser.add_argument("--by", choices=tuple(BY), default="job", help="what one line stands for (%(default)s)")
    parser.epilog = (
        "Times are rounded to the ten minutes in which energy is accounted. Execution-idle is a share of the time in which a "
        "program was known to run; where that is not known both bounds are given."
    )


def run(options: argparse.Namespace) -> int:
    """Print the report; exit 0 whatever was wasted."""
    from warpline_analysis.energy.report import report

    money = accounted.money(options)
    with asking.trusted(options) as query:
        span = accounted.span(options, query)
        lines = report(query, options.by, span.start_ns, span.end_ns, money)
        whole = report(query, "all", span.start_ns, span.end_ns, money)
    if options.json:
        json.dump(_document(options.by, span, lines, whole, money), sys.stdout, indent=2)
        sys.stdout.write("\n")
    elif options.csv:
        _csv(lines)
    else:
        sys.stdout.write(text(options.by, lines, whole, money))
    if not lines:
        tell(_nothing(span.first_ns, span.last_ns))
    return 0


def text(by: str, lines: Sequence[Line], whole: Sequence[Line], money: Money) -> str:
    """The report as columns, the sum below, and what it rests on."""
    from warpline_tui.grid import grid

    if not lines:
        return ""
    heading = [by, "GPUs", "GPU-h", "kWh", *([money.currency] if money.price_per_kwh else []),
               *(["kg CO2"] if money.carbon_grams_per_kwh else []), "idle", "idle kWh", "avoidable", "busy-wait", "spinning",
               "empty", "not measured"]  # fmt: skip
    cells = [_cells(line, by) for line in lines[:LINES_SHOWN]]
    cells += [["total", *_cells(line, by)[1:]] for line in whole]
    table = grid([heading, *cells], [False, *[True] * (len(heading) - 1)])
    left = len(lines) - LINES_SHOWN
    notes = [f"({left} more lines: --json or --csv)"] if left > 0 else []
    notes += [note for line in whole for note in _notes(line)]
    return "\n".join([*table, "", *notes]) + "\n"


def _cells(line: Line, by: str) -> list[str]:
    from warpline_analysis.energy.money import JOULES_PER_KWH

    unattributed = f"(no {by} known)"
    seconds = line.total_seconds or 1.0
    money = [] if line.cost is None else [f"{line.cost:,.2f}"]
    carbon = [] if line.carbon_grams is None else [f"{line.carbon_grams / 1e3:,.2f}"]
    avoidable = "-" if line.avoidable_joules is None else f"{line.avoidable_joules / JOULES_PER_KWH:,.3f}"
    lower, upper = line.idle_shares()[1], line.idle_shares(upper=True)[1]
    idle = f"{lower:.1%}" if upper - lower < 0.001 else f"{lower:.1%}-{upper:.1%}"
    shares = [f"{line.seconds[state] / seconds:.1%}" for state in ("busy_wait", "spinning", "deep_idle")]
    unmeasured = (line.seconds["unobserved"] + line.seconds["blind"]) / seconds
    return [
        unattributed if line.key is None else line.key, str(line.gpus), f"{line.total_seconds / 3600:,.2f}",
        f"{line.total_joules / JOULES_PER_KWH:,.3f}", *money, *carbon, idle,
        f"{line.joules['execution_idle'] / JOULES_PER_KWH:,.3f}", avoidable, *shares, f"{unmeasured:.1%}",
    ]  # fmt: skip


def _notes(whole: Line) -> Iterator[str]:
    """What the figures rest on, as sentences."""
    by_threshold = ", ".join(
        f"{share:.1%} from {least} s on" for share, least in zip(whole.idle_shares(), (1, 5, 10), strict=True)
    )
    yield f"execution-idle over the time in which a program ran: {by_threshold}"
    if whole.idle_shares(upper=True)[1] - whole.idle_shares()[1] >= 0.001:
        highest = f"{whole.idle_shares(upper=True)[1]:.1%}"
        yield f"residency unknown: up to {highest} if a program was resident where nothing is known of it"
    counted = whole.counted_joules / whole.total_joules if whole.total_joules else 0.0
    yield (
        f"{counted:.1%} of the energy is by the GPUs' counters, the rest by their power; "
        f"{whole.error_joules:,.0f} J may belong to a neighbouring state, sensors themselves err by up to 5 %"
    )
    if whole.avoidable_joules is None:
        yield "avoidable: not known, no GPU of some model was ever seen without a program"
    if whole.unmeasured_seconds >= 1:
        yield f"{whole.unmeasured_seconds:,.0f} GPU-seconds have neither counter nor power: their energy is in no line"


def _document(
    by: str, span: accounted.Span, lines: Sequence[Line], whole: Sequence[Line], money: Money
) -> dict[str, object]:
    return {
        "by": by,
        "start_ns": span.start_ns,
        "end_ns": span.end_ns,
        "currency": money.currency if money.price_per_kwh else None,
        "pue": money.pue,
        "lines": [line.to_json() for line in lines],
        "total": whole[0].to_json() if whole else None,
    }


def _csv(lines: Sequence[Line]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    flat = [dict(_flat(line.to_json())) for line in lines]
    writer.writerow(flat[0] if flat else ["key"])
    writer.writerows(each.values() for each in flat)


def _flat(document: dict[str, object], before: str = "") -> Iterator[tuple[str, object]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}_")
        elif isinstance(value, (list, tuple)):
            yield from ((f"{before}{name}_{at}", each) for at, each in enumerate(value))
        else:
            yield f"{before}{name}", value


def _nothing(first_ns: int | None, last_ns: int | None) -> str:
    if first_ns is None or last_ns is None:
        return "nothing is accounted yet: the collector does so about twelve minutes after GPUs were sampled"
    known = " to ".join(f"{datetime.fromtimestamp(each / 1e9, UTC):%Y-%m-%d %H:%M}" for each in (first_ns, last_ns))
    return f"nothing is accounted in this time; the account knows {known} UTC"
