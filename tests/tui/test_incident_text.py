"""A finding as Markdown: everything that a ticket needs, and nothing that a hostile name can make of it."""

from __future__ import annotations

import re
from html import unescape

import pytest
from markdown_it import MarkdownIt

from warpline_proto.finding import (
    OPEN,
    RESOLVED,
    Cost,
    Evidence,
    Finding,
    FindingKind,
    FindingState,
    Onset,
    Severity,
    Subject,
)
from warpline_tui.incident_text import ROWS_SHOWN, Beside, escaped, fenced, markdown

NS = 10**9
OPENED = 1_790_000_000 * NS
RENDER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def finding(job: str = "pretrain", rows: int = 2) -> Finding:
    return Finding(
        kind=FindingKind.COMPUTE_STRAGGLER,
        severity=Severity.CRITICAL,
        confidence=0.97,
        subject=Subject(job=job, rank=3, stage=0, node="node-7", gpu="GPU-5c"),
        summary="Rank 3 computes 63 % longer than 3 peers",
        next_step="Drain node-7 and restart without it",
        onset=Onset(time_ns=OPENED - 60 * NS, step=30, earliest_step=28, latest_step=33, watched_step=29),
        cost=Cost(seconds_per_step=0.5, gpu_hours=2.0, joules=7.2e6),
        evidence=(Evidence("SELECT rank, s FROM t", tuple({"rank": n, "s": n / 3} for n in range(rows))),),
        ruled_out=("network: it does not wait", "regression by itself: Iteration time rose 59 %"),
        missing=("temperature",),
    )


def text(of: Finding | None = None, state: str = OPEN) -> str:
    return markdown(FindingState(of or finding(), state, OPENED, OPENED + 90 * NS))


def test_the_verdict_comes_first_then_who_since_when_what_it_costs_and_what_to_do() -> None:
    blocks = text().split("\n\n")
    assert blocks[0].startswith(
        "## [critical] compute_straggler: rank 3, stage 0, GPU GPU-5c, on node-7 of job pretrain"
    )
    assert blocks[1] == "Rank 3 computes 63 % longer than 3 peers"
    facts = dict(re.findall(r"^\| (\w+) \| (.*) \|$", blocks[2], re.MULTILINE))
    assert facts == {
        "who": "rank 3, stage 0, GPU GPU-5c, on node-7 of job pretrain",
        "since": "step 30, 2026-09-21 14:12:20 UTC, between steps 28 and 33, ranks were watched from step 29 on",
        "cost": "500 ms a step, 2 GPU-hours, 2.00 kWh",
        "confidence": "97%",
        "state": "open, opened 2026-09-21 14:13:20 UTC",
        "id": finding().id,
    }
    assert blocks[3:5] == ["### What to do", "Drain node-7 and restart without it"]


def test_what_was_folded_under_a_finding_is_told_apart_from_what_was_ruled_out() -> None:
    told = text()
    assert "### It explains\n\n- regression: Iteration time rose 59 %" in told
    assert "### Ruled out\n\n- network: it does not wait\n" in told
    assert "### Not known, for want of\n\n- temperature" in told
    assert told.count("Iteration time rose") == 1


def test_a_long_table_says_how_much_of_it_is_left_out_and_the_query_stands_below() -> None:
    told = text(finding(rows=ROWS_SHOWN + 5))
    assert told.count("\n| ") == 2 + 6 + 2 + ROWS_SHOWN
    assert "(5 more rows: run the query)\n\n```sql\nSELECT rank, s FROM t\n```" in told
    assert "(no rows kept)" in text(finding(rows=0))


def test_a_finding_that_is_over_says_how_and_when() -> None:
    assert "| state | resolved 2026-09-21 14:14:50 UTC, opened 2026-09-21 14:13:20 UTC |" in text(state=RESOLVED)


def test_other_findings_fresh_facts_and_money_stand_in_it() -> None:
    state = FindingState(finding(), OPEN, OPENED)
    other = FindingState(finding("other"), RESOLVED, OPENED)
    fact = Beside("Its GPU now", "SELECT watts", ({"watts": 612.0},))
    told = markdown(state, [other], [fact], "1.20 EUR")
    assert "2.00 kWh, 1.20 EUR |" in told
    assert "### Its GPU now\n\n| watts |\n| --- |\n| 612 |\n\n```sql\nSELECT watts\n```" in told
    assert f"- {other.finding.id}, critical, resolved: rank 3" in told
    assert "and 5 more: `warpline findings --all`" in markdown(state, [other] * 25)


HOSTILE = (
    "<script>alert(1)</script>",
    "a\n# heading\n- item",
    "[link](http://x) ![picture](http://y) **bold** _slanted_ ~~struck~~",
    "`code` and \\* and &lt; and | pipe",
    "1. first",
    "- entry",
    "===",
    "> quoted",
    "void f<Traits<128, 64>>(int volatile*)",
    "__nv_bfloat16",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_a_name_holds_reads_as_it_is_and_is_markup_nowhere(name: str) -> None:
    """Rendered by a real Markdown parser that lets HTML through: the text comes back, as one paragraph of plain text."""
    rendered = RENDER.render(escaped(name))
    assert rendered.startswith("<p>")
    body = rendered.removeprefix("<p>").removesuffix("</p>\n")
    assert "<" not in body
    assert unescape(body) == re.sub(r"\s+", " ", name)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_job_breaks_no_table_and_no_heading(name: str) -> None:
    rendered = RENDER.render(text(finding(name)))
    assert rendered.count("<h2>") == 1
    assert rendered.count("<tr>") == 7 + 3
    assert "<script" not in rendered and "<a " not in rendered and "<img" not in rendered


def test_a_block_of_code_holds_backticks() -> None:
    assert (
        RENDER.render(fenced("SELECT '```'", "sql"))
        == "<pre><code class=\"language-sql\">SELECT '```'\n</code></pre>\n"
    )
