"""The table of what capture costs: how each job's own steps say what warpline adds to them, and what was done about it."""

from __future__ import annotations

from .columns import INT, REAL, TEXT, place, ranked
from .table import Column, Table

CAPTURE_OVERHEAD = Table(
    "capture_overhead",
    "what capturing kernels costs a training job, as one rank's steps tell: those with capture against those without; the view "
    "capture_costs has the newest of each job",
    "time_ns",
    (
        *place(),
        *ranked(),
        Column("time_ns", INT, "ns", "when this was written"),
        Column("step", INT, "", "step by which it was measured"),
        Column("mode", TEXT, "", "how much is captured: full, windows, short_windows, graphs or off"),
        Column("blocks", INT, "", "stretches of steps with capture that were set against steps before and after them"),
        Column("on_steps", INT, "", "steps with capture in them"),
        Column("off_steps", INT, "", "steps without capture that they were set against"),
        Column("on_percent", REAL, "%", "time that capture adds to a step in which it is on"),
        Column(
            "overhead_percent",
            REAL,
            "%",
            "time that capture adds to the job in this mode, with turning it on and off",
        ),
        Column("low_percent", REAL, "%", "from where that lies with a confidence of 99 %"),
        Column("high_percent", REAL, "%", "to where"),
        Column("budget_percent", REAL, "%", "what it may add: overhead_percent_max of [sources.kernels]"),
        Column("verdict", TEXT, "", "within, over, or cannot tell yet"),
        Column("action", TEXT, "", "what was done about it, in words; NULL where nothing was"),
    ),
)
