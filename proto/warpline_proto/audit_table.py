"""The table of the audit: who asked what of the collector, and what became of it."""

from __future__ import annotations

from typing import Final

from .columns import INT, TEXT, place
from .table import Column, Table

AUDIT: Final = Table(
    "audit",
    "what was asked of the collector and by whom: each act that was denied or refused, each closer look, each change of "
    "certificates; questions that were answered are counted by caller and minute",
    "time_ns",
    (
        *place(),
        Column("time_ns", INT, "ns", "when, on the collector's clock; of a count the start of its minute"),
        Column(
            "caller", TEXT, "", "name in the caller's certificate or on its machine; NULL where nobody was asked for it"
        ),
        Column("role", TEXT, "", "agent, viewer or operator; NULL where none is known"),
        Column("door", TEXT, "", "where it came in: grpc, postgres, or collector for what it did by itself"),
        Column("act", TEXT, "", "connect, push, question, capture, captures, status, certificates or audit"),
        Column("subject", TEXT, "", "what it was about: the question, the node, the file; cut where it is long"),
        Column("outcome", TEXT, "", "done, denied (the role may not), refused (nobody may), failed or dropped"),
        Column("reason", TEXT, "", "why, in words; NULL where it was done"),
        Column("count", INT, "", "acts this row stands for"),
    ),
    large=True,
)
