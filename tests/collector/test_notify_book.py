"""Who is told what, and when: one message for what belongs together, nothing twice without need, nothing forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from warpline_collector.notifier import Message, News
from warpline_collector.notify import book, keeping
from warpline_collector.notify.book import Book, Terms
from warpline_proto.finding import OPEN, RESOLVED, Finding, FindingKind, FindingState, Severity, Subject

SECOND = 10**9
HOUR = 3_600 * SECOND
START = 1_700_000_000 * SECOND
TERMS = Terms("ops", 15 * SECOND, 120 * SECOND, 24 * HOUR)


def found(rank: int = 3, job: str = "train", severity: Severity = Severity.WARNING) -> Finding:
    """A finding of its own for each rank of each job."""
    return Finding(FindingKind.COMPUTE_STRAGGLER, severity, 0.8, Subject(job=job, rank=rank), f"rank {rank}", "look")


def standing(*findings: Finding, opened_ns: int = START) -> dict[str, FindingState]:
    """What the newest pass knows."""
    return {each.id: FindingState(each, OPEN, opened_ns, opened_ns) for each in findings}


def over(known: dict[str, FindingState], at_ns: int) -> dict[str, FindingState]:
    """The same, resolved."""
    return {name: state.closed(RESOLVED, at_ns) for name, state in known.items()}


def everything(finding: Finding) -> bool:
    return True


class Reader:
    """A receiver that takes every message at once."""

    def __init__(self, terms: Terms = TERMS, known: Book | None = None) -> None:
        self.terms = terms
        self.book: Book = known or {}
        self.dropped = 0

    def look(self, known: dict[str, FindingState], now_ns: int) -> Sequence[Message]:
        """What it is told at this moment."""
        after, dropped = book.following(self.book, known, everything, now_ns)
        self.book = book.pruned(after, self.terms)
        self.dropped += dropped
        messages = book.due(self.book, self.terms, now_ns)
        for message in messages:
            self.book = book.told(self.book, message, now_ns)
        return messages


def said(messages: Sequence[Message]) -> list[list[tuple[str, str]]]:
    """News and summary of every incident of every message."""
    return [[(str(item.news), item.finding.summary) for item in message.items] for message in messages]


def test_what_opens_in_one_job_within_moments_is_one_message() -> None:
    """Another job is another message; what opens later is told by itself."""
    reader = Reader()
    known = standing(found(1), found(9, "other"))
    assert reader.look(known, START) == []
    known |= standing(found(2, severity=Severity.CRITICAL))
    assert reader.look(known, START + 14 * SECOND) == []
    messages = reader.look(known, START + 15 * SECOND)
    assert said(messages) == [[("opened", "rank 2"), ("opened", "rank 1")], [("opened", "rank 9")]]
    assert [message.where for message in messages] == ["job train", "job other"]
    known |= standing(found(4))
    assert reader.look(known, START + 20 * SECOND) == []
    assert said(reader.look(known, START + 40 * SECOND)) == [[("opened", "rank 4")]]


def test_what_stands_is_told_again_together_and_only_after_its_time() -> None:
    reader = Reader()
    known = standing(found(1))
    reader.look(known, START)
    reader.look(known, START + 15 * SECOND)
    known |= standing(found(2))
    reader.look(known, START + HOUR)
    reader.look(known, START + HOUR + 15 * SECOND)
    assert reader.look(known, START + 24 * HOUR) == []
    again = reader.look(known, START + 24 * HOUR + 15 * SECOND)
    assert said(again) == [[("again", "rank 1"), ("again", "rank 2")]]
    assert reader.look(known, START + 40 * HOUR) == []
    silent = Reader(replace(TERMS, repeat_ns=None), reader.book)
    assert silent.look(known, START + 1_000 * HOUR) == []


def test_what_becomes_worse_is_told_at_once_and_what_becomes_better_is_not() -> None:
    reader = Reader()
    reader.look(standing(found(severity=Severity.INFO)), START)
    reader.look(standing(found(severity=Severity.INFO)), START + 15 * SECOND)
    (message,) = reader.look(standing(found(severity=Severity.CRITICAL)), START + 16 * SECOND)
    assert [(item.news, item.before) for item in message.items] == [(News.WORSE, Severity.INFO)]
    assert reader.look(standing(found(severity=Severity.WARNING)), START + 17 * SECOND) == []
    assert reader.look(standing(found(severity=Severity.CRITICAL)), START + 18 * SECOND) == []


def test_what_is_over_is_told_once_it_stayed_so() -> None:
    """One that comes and goes within moments is told once."""
    reader = Reader()
    known = standing(found())
    reader.look(known, START)
    reader.look(known, START + 15 * SECOND)
    assert reader.look(over(known, START + 60 * SECOND), START + 61 * SECOND) == []
    assert reader.look(known, START + 100 * SECOND) == []
    closed = over(known, START + 200 * SECOND)
    assert reader.look(closed, START + 319 * SECOND) == []
    (message,) = reader.look(closed, START + 320 * SECOND)
    assert (message.open, message.headline) == ((), "resolved: rank 3")
    assert reader.book == {}
    assert reader.look(closed, START + 400 * SECOND) == []


def test_who_does_not_want_to_hear_that_it_is_over_does_not() -> None:
    reader = Reader(replace(TERMS, resolved=False))
    known = standing(found())
    reader.look(known, START)
    reader.look(known, START + 15 * SECOND)
    assert reader.look(over(known, START + 60 * SECOND), START + HOUR) == []
    assert reader.book == {}


def test_what_opened_and_closed_while_nobody_heard_is_told_nonetheless() -> None:
    """Also where the store has let go of it meanwhile."""
    reader = Reader()
    after, _ = book.following({}, standing(found()), everything, START)
    reader.book = after
    (message,) = reader.look({}, START + HOUR)
    assert [(item.news, item.state.state) for item in message.items] == [(News.OPENED, "ended")]
    assert reader.book == {}


def test_the_same_accusation_once_more_is_a_new_incident() -> None:
    reader = Reader()
    known = standing(found())
    reader.look(known, START)
    reader.look(known, START + 15 * SECOND)
    reader.look(over(known, START + 60 * SECOND), START + 61 * SECOND)
    anew = standing(found(), opened_ns=START + HOUR)
    reader.look(anew, START + HOUR)
    assert said(reader.look(anew, START + HOUR + 15 * SECOND)) == [[("opened", "rank 3")]]


def test_a_receiver_that_is_away_for_long_is_told_of_the_newest_and_the_rest_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(book, "WAITING_MAX", 3)
    dropped = 0
    known: dict[str, FindingState] = {}
    after: Book = {}
    for number in range(8):
        known |= standing(found(0, f"job-{number}"), opened_ns=START + number)
        after, fallen = book.following(after, known, everything, START + number)
        dropped += fallen
    assert (book.waiting(after), dropped) == (3, 5)
    messages = book.due(after, TERMS, START + HOUR)
    assert sorted(message.group["job"] for message in messages) == ["job-5", "job-6", "job-7"]


def test_a_book_that_is_lost_makes_no_flood_but_what_is_new_is_told() -> None:
    """What was open for long before is told again when its time comes, and never that it is over."""
    old, new = standing(found(1), opened_ns=START - HOUR), standing(found(2), opened_ns=START - SECOND)
    reader = Reader(known=book.opened(old | new, everything, START))
    assert said(reader.look(old | new, START + SECOND)) == []
    assert said(reader.look(old | new, START + 16 * SECOND)) == [[("opened", "rank 2")]]
    assert reader.look(over(old, START + 20 * SECOND) | new, START + HOUR) == []
    again = Reader(known=book.opened(old, everything, START))
    assert said(again.look(old, START + 24 * HOUR)) == [[("again", "rank 1")]]


def test_a_message_that_comes_twice_has_one_id() -> None:
    """As after a kill between sending and writing; the next one has another."""
    known = standing(found())
    one, two = Reader(), Reader()
    for reader in (one, two):
        reader.look(known, START)
    (first,) = one.look(known, START + 15 * SECOND)
    (second,) = two.look(known, START + 99 * SECOND)
    (again,) = one.look(known, START + 48 * HOUR)
    assert first.id == second.id != again.id


def test_an_incident_that_is_back_after_it_was_told_to_be_over_has_another_id() -> None:
    """It bears the moment at which it was first opened; who drops what came twice must hear of it nonetheless."""
    reader, known = Reader(), standing(found())
    ids = []
    for begin in (START, START + 400 * SECOND):
        reader.look(known, begin)
        ids += [message.id for message in reader.look(known, begin + 15 * SECOND)]
        gone = over(known, begin + 30 * SECOND)
        ids += [message.id for message in reader.look(gone, begin + 200 * SECOND)]
    assert len(ids) == len(set(ids)) == 4


def test_a_reminder_that_is_tried_again_keeps_its_id() -> None:
    reader, known = Reader(), standing(found())
    reader.look(known, START)
    reader.look(known, START + 15 * SECOND)
    tries = [book.due(reader.book, TERMS, START + hours * HOUR) for hours in (25, 26)]
    assert [[item.news for item in message.items] for (message,) in tries] == [[News.AGAIN]] * 2
    assert len({message.id for (message,) in tries}) == 1


def test_one_who_groups_by_himself_is_told_everything_at_once() -> None:
    reader = Reader(replace(TERMS, together=True, repeat_ns=60 * SECOND))
    known = standing(found(1), found(2, "other"))
    assert len(said(reader.look(known, START))[0]) == 2
    assert reader.look(known, START + 59 * SECOND) == []
    assert [len(message.items) for message in reader.look(known, START + 60 * SECOND)] == [2]


def test_the_book_is_on_disk_what_it_was(tmp_path: Path) -> None:
    known = standing(found(1), found(2, severity=Severity.CRITICAL))
    written, _ = book.following({}, known, everything, START)
    path = keeping.place(tmp_path, "ops")
    assert keeping.load(path) is None
    for message in book.due(written, TERMS, START + HOUR):
        written = book.told(written, message, START + HOUR)
    written, _ = book.following(written, known | standing(found(7)), everything, START + HOUR)
    keeping.save(path, written)
    assert keeping.load(path) == written
    assert [each.name for each in path.parent.iterdir()] == ["ops.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "records": [{}]}', "\x00"])
def test_a_book_that_cannot_be_read_is_as_one_that_is_lost(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ops.json"
    path.write_text(text)
    assert keeping.load(path) is None
    assert "only incidents that open from now on are told" in caplog.text
