"""Telling receivers of incidents over real HTTP: what happens when they fail, and that nothing is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from courier_bench import NOW, OTHER, SLOW, MakeBench, incidents, webhook
from receiver import Answer, dripping, hang_up, huge, listening, status
from served import served

from warpline_analysis.detector import Reader as AnalysisReader
from warpline_collector import config as collector_config
from warpline_collector import continuous, pool
from warpline_collector.notifier import Message
from warpline_collector.notifiers.webhook import Webhook
from warpline_collector.notify import courier as courier_module
from warpline_collector.notify import keeping, post
from warpline_collector.notify.config import Config, Receiver
from warpline_collector.notify.courier import BACKOFF_SECONDS, FAULTY_ATTEMPTS_MAX
from warpline_collector.notify.post import Poster, PostError
from warpline_proto.finding import (
    Onset,
    Report,
    Subject,
)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (status(500, b"<html>\nno"), "answered 500: <html>"),
        (status(403, b"invalid_token"), "answered 403: invalid_token"),
        (hang_up, "cannot be reached: RemoteDisconnected"),
        (status(302, Location="https://elsewhere.example/"), "answered 302"),
        (
            status(307, Location="https://elsewhere.example/"),
            "answered 307: it leads to another host, and is not followed there",
        ),
        (
            status(308, Location="http://127.0.0.1:1/hook"),
            "answered 308: it leads to another host, and is not followed there",
        ),
    ],
)
def test_what_fails_is_tried_again_later_and_later(bench: MakeBench, answer: Answer, words: str) -> None:
    """With what was told by then in the same message, and the reason in source_health."""
    with listening() as here:
        at = bench(webhook(here))
        here.answers += [answer] * 3
        at.known = incidents(SLOW)
        at.turn()
        at.turn(BACKOFF_SECONDS - 0.1)
        assert len(here.told) == 1
        assert (at.courier.standing.failures, at.courier.standing.failure, at.courier.standing.waiting) == (1, words, 1)
        at.turn(0.2)
        at.turn(BACKOFF_SECONDS * 2 - 0.1)
        assert len(here.told) == 2
        at.turn(0.2)
        at.turn(BACKOFF_SECONDS * 4 + 0.1)
        at.turn(1_000)
    assert [told.document["id"] for told in here.told] == [here.told[0].document["id"]] * 4
    standing = at.courier.standing
    assert (standing.messages, standing.failures, standing.waiting, standing.failure) == (1, 3, 0, "")
    assert [at.health()[0], at.health()[1]] == [("dead", words), ("fresh", "")]


def test_who_asks_to_be_left_alone_is_for_so_long(bench: MakeBench) -> None:
    with listening() as here:
        at = bench(webhook(here))
        here.answers.append(status(429, Retry_After="90"))
        at.known = incidents(SLOW)
        at.turn()
        at.turn(89)
        assert len(here.told) == 1
        at.turn(2)
    assert len(here.told) == 2


def test_a_date_to_wait_for_is_understood() -> None:
    with listening() as here:
        here.answers += [status(503, Retry_After="Tue, 14 Nov 2023 22:14:20 GMT"), status(503, Retry_After="soon")]
        poster = Poster(clock=lambda: NOW / 1e9)
        assert [poster.post(here.url, b"{}", {}, 30).retry_seconds for _ in range(2)] == [60.0, None]


def test_a_redirect_on_the_same_host_is_followed(bench: MakeBench) -> None:
    with listening() as here:
        at = bench(webhook(here))
        here.answers.append(status(308, Location="/new"))
        at.known = incidents(SLOW)
        at.turn()
        assert [told.path for told in here.told] == ["/hook", "/new"]
        assert here.told[1].document == here.told[0].document
        here.answers += [status(307, Location="/hook")] * 9
        with pytest.raises(PostError, match="more than 3 redirects"):
            Poster().post(here.url, b"{}", {}, 30)


def test_a_huge_answer_is_left_unread_and_a_dripping_one_is_cut(bench: MakeBench) -> None:
    with listening() as here:
        here.answers += [huge, dripping]
        answer = Poster().post(here.url, b"{}", {}, 30)
        assert (answer.taken, len(answer.words)) == (True, post.ANSWER_CHARS_MAX)
        with pytest.raises(PostError, match=r"did not answer within 0\.3 s"):
            Poster().post(here.url, b"{}", {}, 0.3)


def test_time_that_connecting_took_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that is slow to connect and then drips is not listened to for ever."""

    class Over:
        """The time is over before there is a connection to cut."""

        def __init__(self, seconds: float, end: Callable[..., None], given: tuple[object, ...]) -> None:
            self._end, self._given = end, given

        def start(self) -> None:
            self._end(*self._given)

        def cancel(self) -> None:
            """It is over already."""

    monkeypatch.setattr(threading, "Timer", Over)
    with listening() as here:
        with pytest.raises(PostError, match="did not answer within 30 s"):
            Poster().post(here.url, b"{}", {}, 30)
        assert here.told == []


def test_a_reminder_that_is_called_faulty_is_given_up_too(bench: MakeBench) -> None:
    """Alertmanager is told each minute of what stands, in one message."""
    with listening() as here:
        at = bench(Receiver(name="alerts", kind="alertmanager", url=here.url))
        at.known = incidents(SLOW)
        at.turn()
        here.answers += [status(400, b"bad")] * FAULTY_ATTEMPTS_MAX
        for _ in range(FAULTY_ATTEMPTS_MAX):
            at.turn(100)
    assert (at.courier.standing.messages, at.courier.standing.dropped) == (1, 1)


def test_a_faulty_message_is_given_up_and_the_next_one_goes_out(bench: MakeBench) -> None:
    with listening() as here:
        at = bench(webhook(here))
        here.answers += [status(400, b"invalid_payload")] * FAULTY_ATTEMPTS_MAX
        at.known = incidents(SLOW)
        for _ in range(FAULTY_ATTEMPTS_MAX):
            at.turn(100)
        assert (at.courier.standing.dropped, at.courier.standing.waiting) == (1, 0)
        at.known = incidents(SLOW, replace(OTHER, subject=Subject(job="other")))
        at.turn(1_000)
    assert here.told[-1].document["group"] == {"job": "other"}
    assert at.courier.standing.messages == 1


def test_a_fault_of_our_own_does_not_silence_a_receiver(
    bench: MakeBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told as such, with its trace in the log, and tried again."""
    with listening() as here:
        at = bench(webhook(here), group_seconds=0.0)
        broken = [True]
        made = Webhook.body

        def body(self: Webhook, message: Message) -> bytes:
            if broken.pop() if broken else False:
                raise ZeroDivisionError("of its own making")
            heard.release()
            return made(self, message)

        heard = threading.Semaphore(0)
        monkeypatch.setattr(Webhook, "body", body)
        monkeypatch.setattr(courier_module, "LOOK_SECONDS", 0.01)
        monkeypatch.setattr(courier_module, "BACKOFF_SECONDS", 0.0)
        at.known = incidents(SLOW)
        at.courier.start()
        assert heard.acquire(timeout=60)
        here.wait()
        at.courier.close()
    assert "ZeroDivisionError: of its own making" in caplog.text
    assert at.courier.standing.failures == 1


def test_a_restart_tells_nothing_twice_and_a_lost_book_makes_no_flood(bench: MakeBench, tmp_path: Path) -> None:
    with listening() as here:
        at = bench(webhook(here))
        at.known = incidents(SLOW)
        at.turn()
        at.start()
        at.turn(60)
        assert len(here.told) == 1
        at.known = incidents(SLOW, replace(OTHER, subject=Subject(job="meanwhile")))
        at.start()  # what opened while it was down
        at.turn(60)
        assert [told.document["group"]["job"] for told in here.told] == ["train", "meanwhile"]
        keeping.place(tmp_path / "store", "ops").unlink()
        at.start()
        at.turn(3_600)
        assert len(here.told) == 2


PROGRAM = """
import sys
from pathlib import Path
from warpline_collector.incidents import Incident
from warpline_collector.notify import keeping
from warpline_collector.notify.config import Config, Receiver
from warpline_collector.notify.courier import Courier
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.finding import OPEN, Finding, FindingKind, FindingState, Severity, Subject
import os, signal
folder, url, when = sys.argv[1:]
finding = Finding(FindingKind.HANG, Severity.CRITICAL, 1.0, Subject(job="train"), "it hangs", "look")
save = keeping.save
def killed(path, book):
    if any(record.told_ns is None for record in book.values()) == (when == "before"):
        os.kill(os.getpid(), signal.SIGKILL)
    save(path, book)
if when != "never":
    keeping.save = killed
receiver = Receiver(name="ops", kind="webhook", url=url)
known = {finding.id: Incident(FindingState(finding, OPEN, 10**18, 10**18))}
store = DuckDBStore(Path(folder))
clock = lambda: 10**18 + 10**9
courier = Courier(receiver, Config(group_seconds=0.0, receivers=(receiver,)), Path(folder), lambda: known, store, clock)
courier.one_pass()
store.close()
"""


@pytest.mark.parametrize(("when", "times"), [("before", 1), ("after", 2)])
def test_a_kill_at_any_moment_loses_nothing(tmp_path: Path, when: str, times: int) -> None:
    """Killed before it wrote that it waits, and between sending and writing that it was taken: at most it comes twice."""
    with listening() as here:
        for moment in (when, "never"):
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, str(tmp_path), here.url, moment],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == (0 if moment == "never" else -9), done.stderr
    assert len(here.told) == times
    assert len({told.document["id"] for told in here.told}) == 1


def test_a_disk_that_refuses_is_told_and_nothing_is_told_twice_for_it(bench: MakeBench, tmp_path: Path) -> None:
    """What was taken meanwhile is written once the disk takes it."""
    with listening() as here:
        at = bench(webhook(here))
        at.turn()
        folder = keeping.place(tmp_path / "store", "ops").parent
        folder.rename(folder.with_name("aside"))
        folder.write_text("in the way")
        at.known = incidents(SLOW)
        with pytest.raises(OSError, match="File exists"):
            at.turn(1)
        folder.unlink()
        folder.with_name("aside").rename(folder)
        at.turn(2)
        at.turn(2)
        at.start()
        at.turn(2)
    assert len(here.told) == 1


def test_a_collector_tells_its_incidents_and_no_receiver_holds_it_up(tmp_path: Path) -> None:
    """The real service: one receiver never answers, the other hears at once; both are in the metrics."""
    released = threading.Event()

    def silent(to: object) -> None:
        released.wait(60)

    def hanging(reader: AnalysisReader) -> Report:
        return Report((replace(SLOW, onset=Onset()),))

    with listening() as deaf, listening() as well:
        deaf.answers.append(silent)
        settings = collector_config.Settings(
            collector=collector_config.Config(listen="127.0.0.1:0", directory=str(tmp_path)),
            sql=pool.Config(workers=1),
            analysis=continuous.Config(period_seconds=0.05),
            notify=Config(
                group_seconds=0.0,
                receivers=(
                    webhook(deaf, name="deaf", timeout_seconds=50.0),
                    Receiver(name="well", kind="webhook", url=well.url),
                ),
            ),
        )
        with served(settings, {"made_up": hanging}):
            well.wait()
            deaf.wait()
        released.set()
    assert [each["id"] for each in well.told[0].document["incidents"]] == [SLOW.id]
