"""Telling receivers of incidents over real HTTP: what they get, what happens when they fail, that nothing is lost or leaks."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from certified import Authority
from receiver import Answer, Listening, dripping, hang_up, huge, listening, status
from served import served

from warpline_analysis.detector import Reader as AnalysisReader
from warpline_cli.main import main
from warpline_collector import config as collector_config
from warpline_collector import continuous, pool
from warpline_collector.incidents import Incident, Incidents
from warpline_collector.notifier import Item, Message, News
from warpline_collector.notifiers.alertmanager import Alertmanager
from warpline_collector.notifiers.slack import ITEMS_MAX, Slack
from warpline_collector.notifiers.webhook import Webhook
from warpline_collector.notify import courier as courier_module
from warpline_collector.notify import keeping, post
from warpline_collector.notify.config import Config, Receiver
from warpline_collector.notify.courier import BACKOFF_SECONDS, FAULTY_ATTEMPTS_MAX, Courier
from warpline_collector.notify.post import Poster, PostError
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.errors import ConfigError
from warpline_proto.finding import (
    OPEN,
    RESOLVED,
    Cost,
    Evidence,
    Finding,
    FindingKind,
    FindingState,
    Onset,
    Report,
    Severity,
    Subject,
)

SECOND = 10**9
NOW = 1_700_000_000 * SECOND
SLOW = Finding(
    FindingKind.COMPUTE_STRAGGLER,
    Severity.CRITICAL,
    0.9,
    Subject(job="train", rank=3, node="node-7", gpu="GPU-1"),
    "rank 3 computes 40 % longer than its peers <!channel>",
    "drain node-7 and look at its clocks",
    Onset(NOW - 60 * SECOND, 120),
    Cost(0.4, 12.5),
    (Evidence("SELECT 1", ({"a": 1},)),),
)
OTHER = replace(SLOW, severity=Severity.WARNING, subject=Subject(job="train", rank=5), summary="rank 5 is late")


def incidents(*findings: Finding, state: str = OPEN, opened_ns: int = NOW, updated_ns: int = NOW) -> Incidents:
    """What a pass of the analysis left."""
    return {each.id: Incident(FindingState(each, state, opened_ns, updated_ns, "straggler")) for each in findings}


class Bench:
    """One courier on a store of its own, with hands on all its clocks."""

    def __init__(self, folder: Path, receiver: Receiver, **settings: Any) -> None:
        self.folder = folder
        self.receiver = receiver
        self.config = Config(**{"group_seconds": 0.0, "closed_seconds": 0.0, **settings}, receivers=(receiver,))
        self.known: Incidents = {}
        self.now_ns = NOW
        self.seconds = 0.0
        self.store = DuckDBStore(folder / "store")
        self.courier = self.start()

    def start(self) -> Courier:
        """The courier of a collector that was just started."""
        self.courier = Courier(
            self.receiver, self.config, self.folder / "store", lambda: self.known, self.store, lambda: self.now_ns,
            lambda: self.seconds, lambda: 0.0,
        )  # fmt: skip
        return self.courier

    def turn(self, seconds: float = 0.0) -> None:
        """One pass, so much later."""
        self.now_ns += int(seconds * SECOND)
        self.seconds += seconds
        self.courier.one_pass()

    def health(self) -> list[tuple[str, str]]:
        rows = self.store.query(
            "SELECT state, reason FROM source_health WHERE subject LIKE 'notify %' ORDER BY time_ns"
        ).to_pylist()
        return [(row["state"], row["reason"]) for row in rows]


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    """Make one; its store is closed at the end."""
    made: list[Bench] = []

    def make(receiver: Receiver, **settings: Any) -> Bench:
        made.append(Bench(tmp_path, receiver, **settings))
        return made[-1]

    yield make
    for each in made:
        each.store.close()


MakeBench = Callable[..., Bench]


def webhook(here: Listening, **settings: Any) -> Receiver:
    return Receiver(**{"name": "ops", "kind": "webhook", "url": f"{here.url}/hook", **settings})


def slack(here: Listening, folder: Path) -> Receiver:
    path = folder / "slack-url"
    path.write_text(f"{here.url}/services/T0/SECRET\nwritten by hand\n")
    return Receiver(name="chat", kind="slack", url_file=str(path))


def test_a_webhook_gets_a_document_with_everything_but_rows(bench: MakeBench) -> None:
    with listening() as here:
        at = bench(webhook(here), cluster="east")
        at.known = incidents(SLOW, OTHER)
        at.turn()
        (told,) = here.told
        at.known = incidents(SLOW, OTHER, state=RESOLVED, updated_ns=NOW + SECOND)
        at.turn(10)
        at.turn(10)
    document = told.document
    assert told.path == "/hook"
    assert told.headers["Content-Type"] == "application/json"
    assert (document["version"], document["receiver"], document["cluster"]) == (1, "ops", "east")
    assert (document["status"], document["group"], document["test"]) == ("open", {"job": "train"}, False)
    assert document["text"] == "critical: rank 3 computes 40 % longer than its peers <!channel> (and 1 more)"
    first = document["incidents"][0]
    assert first["id"] == SLOW.id
    assert (first["news"], first["state"], first["opened_ns"], first["closed_ns"]) == ("opened", "open", NOW, None)
    assert first["subject"] == {"job": "train", "rank": 3, "node": "node-7", "gpu": "GPU-1"}
    assert (first["onset"]["step"], first["cost"]["gpu_hours"]) == (120, 12.5)
    assert "evidence" not in first
    assert set(first) == {
        "id", "news", "state", "opened_ns", "closed_ns", "detector", "kind", "severity", "confidence", "subject", "onset",
        "cost", "summary", "ruled_out", "missing", "next_step",
    }  # fmt: skip
    (_, last) = here.told
    assert last.document["status"] == "closed"
    assert [(each["state"], each["closed_ns"]) for each in last.document["incidents"]] == [(RESOLVED, NOW + SECOND)] * 2


def test_slack_gets_blocks_within_its_bounds_and_names_call_nobody(bench: MakeBench, tmp_path: Path) -> None:
    with listening() as here:
        at = bench(slack(here, tmp_path))
        many = [
            replace(SLOW, subject=Subject(job="train", rank=rank), summary="x" * 9_000) for rank in range(ITEMS_MAX + 3)
        ]
        at.known = incidents(SLOW, *many)
        at.turn()
    (told,) = here.told
    assert told.path == "/services/T0/SECRET"
    blocks = told.document["blocks"]
    assert blocks[0]["text"]["text"] == "job train: 14 open"
    sections = [block["text"]["text"] for block in blocks if block["type"] == "section"]
    assert len(sections) == ITEMS_MAX
    assert max(map(len, sections)) <= 3_000
    assert sections[0].startswith("*CRITICAL* compute_straggler, since <!date^1699999940^")
    assert "drain node-7" in sections[0]
    assert "12.5 GPU-hours" in sections[0]
    assert "<!channel>" not in json.dumps(told.document)
    assert told.document["text"].startswith("critical: rank 3 computes 40 % longer than its peers &lt;!channel&gt;")
    assert "and 4 more" in blocks[-1]["elements"][0]["text"]


def test_an_alert_has_labels_that_stay_and_ends_by_itself(bench: MakeBench) -> None:
    """What became worse ends under its old severity: that is a label."""
    with listening() as here:
        at = bench(Receiver(name="am", kind="alertmanager", url=f"{here.url}/prefix/"), cluster="east")
        at.known = incidents(replace(SLOW, severity=Severity.WARNING))
        at.turn()
        at.known = incidents(SLOW)
        at.turn(5)
        at.turn(60)
        at.known = incidents(SLOW, state=RESOLVED, updated_ns=NOW + 70 * SECOND)
        at.turn(10)
    assert {told.path for told in here.told} == {"/prefix/api/v2/alerts"}
    first, worse, again, closed = (told.document for told in here.told)
    labels = {
        "alertname": "WarplineComputeStraggler", "severity": "warning", "kind": "compute_straggler", "source": "warpline",
        "incident": SLOW.id, "cluster": "east", "job": "train", "rank": "3", "node": "node-7", "gpu": "GPU-1",
    }  # fmt: skip
    assert [alert["labels"] for alert in first] == [labels]
    assert set(first[0]["annotations"]) == {"summary", "description", "next_step"}
    assert (first[0]["startsAt"], first[0]["endsAt"]) == (
        "2023-11-14T22:13:20.000+00:00",
        "2023-11-14T22:18:20.000+00:00",
    )
    assert [(alert["labels"]["severity"], alert["endsAt"][11:19]) for alert in worse] == [
        ("critical", "22:18:25"), ("warning", "22:13:25"),
    ]  # fmt: skip
    assert [alert["endsAt"][11:19] for alert in again] == ["22:19:25"]
    assert [alert["endsAt"][11:19] for alert in closed] == ["22:14:30"]


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


def test_a_receiver_is_told_of_what_it_wants_only(bench: MakeBench) -> None:
    link = Finding(FindingKind.LINK_DEGRADATION, Severity.WARNING, 1.0, Subject(node="n"), "a port", "look")
    with listening() as here:
        assert Receiver(name="a", kind="webhook", url=here.url, severity="critical").wants(SLOW)
        assert not Receiver(name="a", kind="webhook", url=here.url, severity="critical").wants(OTHER)
        assert not Receiver(name="a", kind="webhook", url=here.url, kinds=("hang",)).wants(SLOW)
        assert Receiver(name="a", kind="webhook", url=here.url, jobs=("tr*",)).wants(SLOW)
        assert not Receiver(name="a", kind="webhook", url=here.url, jobs=("tr*",)).wants(link)
        assert Receiver(name="a", kind="webhook", url=here.url).wants(link)


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


def test_no_word_of_a_secret_goes_anywhere(
    bench: MakeBench, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not into the log, not to source_health, not into metrics, not to `config print`; a server that repeats it is cut short."""
    caplog.set_level("DEBUG")
    with listening() as here:
        receiver = slack(here, tmp_path)
        at = bench(receiver)
        here.answers.append(status(404, b"no such hook: /services/T0/SECRET"))
        at.known = incidents(SLOW)
        at.turn()
        here.answers.append(status(401, b"hook TOP-SECRET does not know Bearer SECRET-TOKEN"))
        asked = Poster().post(f"{here.url}/hooks/TOP-SECRET", b"{}", {"Authorization": "Bearer SECRET-TOKEN"}, 30)
        assert asked.words == "hook ... does not know Bearer ..."
    at.turn(1_000)  # nobody is there any more
    (tmp_path / "warpline.toml").write_text(
        f'[[collector.notify.receivers]]\nname = "chat"\nkind = "slack"\nurl_file = "{receiver.url_file}"\n'
    )
    assert main(["config", "print", "--config", str(tmp_path / "warpline.toml")]) == 0
    assert main(["notify", "--test", "--config", str(tmp_path / "warpline.toml")]) == 1
    Path(receiver.url_file).write_text("http://SECRET@[")
    assert main(["notify", "--config", str(tmp_path / "warpline.toml")]) == 64
    printed = capsys.readouterr()
    everywhere = caplog.text + json.dumps(at.health()) + printed.out + printed.err + str(at.courier.standing)
    assert "no such hook: ..." in everywhere
    assert "cannot be reached: Connection refused" in everywhere
    assert f'url_file = "{receiver.url_file}"' in printed.out
    assert "SECRET" not in everywhere


def test_a_receiver_that_cannot_be_told_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever may not read the file of one URL still sees who else is told, and tries the others."""
    with listening() as here:
        (tmp_path / "warpline.toml").write_text(
            f'[[collector.notify.receivers]]\nname = "chat"\nkind = "slack"\nurl_file = "{tmp_path}/none"\n'
            f'[[collector.notify.receivers]]\nname = "hook"\nkind = "webhook"\nurl = "{here.url}"\n'
        )
        assert main(["notify", "--config", str(tmp_path / "warpline.toml"), "--json"]) == 64
        listed = json.loads(capsys.readouterr().out)
        assert [(each["receiver"], each["host"]) for each in listed] == [("chat", None), ("hook", "127.0.0.1")]
        assert "cannot be read: No such file or directory" in listed[0]["words"]
        assert main(["notify", "--test", "--config", str(tmp_path / "warpline.toml"), "--json"]) == 1
        assert [each["taken"] for each in json.loads(capsys.readouterr().out)] == [False, True]
        assert [told.document["test"] for told in here.told] == [True]


def test_a_server_is_believed_by_its_certificate_alone(tmp_path: Path) -> None:
    """By the system's trust, here by a bundle of the test's own; and a bearer token is sent from its file."""
    authority = Authority(tmp_path / "pki")
    served_by = authority.of("collector", "127.0.0.1", ["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(served_by.certificate, served_by.key)
    (tmp_path / "token").write_text("T0KEN\n")
    with listening(context) as here:
        receiver = webhook(here, token_file=str(tmp_path / "token"))
        with pytest.raises(PostError, match="its certificate is not trusted"):
            Poster().post(here.url, b"{}", {}, 30)
        settings = tmp_path / "warpline.toml"
        settings.write_text(
            f'[[collector.notify.receivers]]\nname = "ops"\nkind = "webhook"\nurl = "{receiver.url}"\n'
            f'token_file = "{receiver.token_file}"\n'
        )
        words = [sys.executable, "-m", "warpline_cli.main", "notify", "--test", "ops", "--config", str(settings)]
        environment = {**os.environ, "SSL_CERT_FILE": str(served_by.authority)}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ops: taken")
    assert [told.headers["Authorization"] for told in here.told] == ["Bearer T0KEN"]
    assert here.told[0].document["test"] is True


def test_a_proxy_of_the_environment_is_asked_but_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as proxy, listening() as here:
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:word@"))
        monkeypatch.setenv("no_proxy", "")
        assert Poster().post("http://far.example/hook?a=1", b"{}", {}, 30).taken
        assert Poster().post(here.url, b"{}", {}, 30).taken
    assert [told.path for told in proxy.told] == ["http://far.example/hook?a=1"]
    assert proxy.told[0].headers["Proxy-Authorization"] == "Basic bWU6d29yZA=="
    assert [told.path for told in here.told] == ["/"]


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


def test_what_the_guide_shows_is_what_there_is(bench: MakeBench, tmp_path: Path) -> None:
    """Its settings are taken, and its document has the keys of a real one."""
    from warpline_proto.config import load

    text = (Path(__file__).parents[2] / "deploy" / "README.md").read_text().partition("## Notification of incidents")[2]
    (tmp_path / "config.toml").write_text(text.split("```toml\n")[1].partition("```")[0])
    config = load(collector_config.sections(), [tmp_path / "config.toml"], {})["collector.notify"]
    assert [each.kind for each in config.receivers] == ["alertmanager", "slack"]
    shown = json.loads(text.split("```json\n")[1].partition("```")[0])
    with listening() as here:
        at = bench(webhook(here))
        at.known = incidents(SLOW)
        at.turn()
    (told,) = here.told
    assert list(shown) == list(told.document)
    assert list(shown["incidents"][0]) == list(told.document["incidents"][0])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "Ops!"}, "name 'Ops!'"),
        ({"kind": "pager"}, "kind 'pager' is none of webhook, slack, alertmanager"),
        ({"url": ""}, "needs one of url and url_file"),
        ({"url": "ftp://host/"}, "url is not http://HOST"),
        ({"url": "https://me:secret@host/"}, "name that as url_file"),
        ({"url": "https://host/?token=secret"}, "name that as url_file"),
        ({"kind": "slack"}, "name that as url_file"),
        ({"severity": "bad"}, "severity 'bad' is none of info, warning, critical"),
        ({"kinds": ("slow",)}, "kinds slow: there are"),
        ({"repeat_hours": -1.0}, "repeat_hours"),
        ({"timeout_seconds": 0.0}, "timeout_seconds"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        Receiver(**{"name": "ops", "kind": "webhook", "url": "https://host/hook", **settings})
    assert "secret" not in str(caught.value)


def test_settings_are_read_from_the_file_and_printed_as_they_stand(tmp_path: Path) -> None:
    """Two receivers of one name, a file that is not there and an unknown key are told at the start, with the place."""
    from warpline_proto.config import load, render

    path = tmp_path / "warpline.toml"
    one = '[[collector.notify.receivers]]\nname = "a"\nkind = "webhook"\nurl = "https://host/"\nkinds = ["hang"]\n'
    path.write_text(f'[collector.notify]\ncluster = "east"\n{one}')
    loaded = load(collector_config.sections(), [path], {})
    (receiver,) = loaded["collector.notify"].receivers
    assert (receiver.kinds, receiver.repeat_hours) == (("hang",), 24.0)
    path.write_text(render(loaded))
    assert load(collector_config.sections(), [path], {}) == loaded
    for wrong, words in (
        (one + one, "two receivers are called a"),
        (one.replace("url =", "urll ="), r"receivers 1: there is no setting 'urll' \(did you mean 'url'\?\)"),
        (one.replace('"https://host/"', "3"), "receivers 1 url: 3 is not text"),
        ("[collector.notify]\nreceivers = [1]\n", r"receivers: \[1\] is not a list of tables"),
    ):
        path.write_text(wrong)
        with pytest.raises(ConfigError, match=words):
            load(collector_config.sections(), [path], {})
    with pytest.raises(ConfigError, match="url_file /nowhere cannot be read"):
        Config(receivers=(Receiver(name="a", kind="slack", url_file="/nowhere"),)).check_files()


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


def test_a_made_up_incident_fits_every_kind() -> None:
    state = FindingState(SLOW, OPEN, NOW, NOW)
    message = Message("ops", {"job": "train"}, (Item(state, News.OPENED),), NOW, test=True)
    kinds: Sequence[Webhook | Slack | Alertmanager] = (Webhook(), Slack(), Alertmanager())
    assert all("test" in kind.body(message).decode().lower() for kind in kinds)
