"""Settings of receivers, and the secrets in them: what is refused, whom a receiver believes, and that nothing leaks."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from certified import Authority
from courier_bench import OTHER, SLOW, MakeBench, incidents, slack, webhook
from receiver import listening, status

from warpline_cli.main import main
from warpline_collector import config as collector_config
from warpline_collector.notify.config import Config, Receiver
from warpline_collector.notify.post import Poster, PostError
from warpline_proto.errors import ConfigError
from warpline_proto.finding import (
    Finding,
    FindingKind,
    Severity,
    Subject,
)


def test_a_receiver_is_told_of_what_it_wants_only(bench: MakeBench) -> None:
    link = Finding(FindingKind.LINK_DEGRADATION, Severity.WARNING, 1.0, Subject(node="n"), "a port", "look")
    with listening() as here:
        assert Receiver(name="a", kind="webhook", url=here.url, severity="critical").wants(SLOW)
        assert not Receiver(name="a", kind="webhook", url=here.url, severity="critical").wants(OTHER)
        assert not Receiver(name="a", kind="webhook", url=here.url, kinds=("hang",)).wants(SLOW)
        assert Receiver(name="a", kind="webhook", url=here.url, jobs=("tr*",)).wants(SLOW)
        assert not Receiver(name="a", kind="webhook", url=here.url, jobs=("tr*",)).wants(link)
        assert Receiver(name="a", kind="webhook", url=here.url).wants(link)


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
