"""`warpline analyze` as a user meets it: verdicts, exit codes, one JSON object, nothing read that gives answers away."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from warpline_agent.recordings.describe import reference_name
from warpline_cli.findings_text import answer
from warpline_cli.main import main
from warpline_proto.plain import plain


def analyze(capsys: pytest.CaptureFixture[str], *paths: Path) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON answer."""
    code = main(["analyze", "--json", *map(str, paths)])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, document


def accused(document: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    return [
        (found["kind"], found["subject"].get("dp"), found["subject"].get("stage")) for found in document["findings"]
    ]


def test_the_slow_worker_is_named_and_its_victims_are_not(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trace AR: the group recorded at stage 0 of replica 0, never one of its four GPUs."""
    code, document = analyze(capsys, data / "G-stragglers" / "bytedance" / "trace-AR.parquet")
    assert (code, document["verdict"]) == (2, "critical")
    assert accused(document) == [("compute_straggler", 0, 0)]
    subject = document["findings"][0]["subject"]
    assert "rank" not in subject
    assert "4 ranks" in subject["group"]


def test_a_heavy_stage_is_no_bad_machine(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trace ST: stage 3, and no rank."""
    code, document = analyze(capsys, data / "G-stragglers" / "bytedance" / "trace-ST.parquet")
    assert code == 1
    assert accused(document) == [("stage_imbalance", None, 3)]


def test_nobody_is_accused_without_the_slow_worker(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trace AR without replica 0 is healthy, and says by which figure."""
    whole = pq.read_table(data / "G-stragglers" / "bytedance" / "trace-AR.parquet")
    pq.write_table(whole.filter(pc.field("dp_rank") != 0), tmp_path / "trace-AR.parquet")
    code, document = analyze(capsys, tmp_path)
    assert (code, document["verdict"], document["findings"]) == (0, "healthy", [])
    assert any(check["verdict"] == "healthy" and "gate" in check["detail"] for check in document["checks"])


def test_the_same_findings_without_the_published_answers(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Removing every file that is set aside changes nothing but the list of inputs."""

    def no_answers(folder: str, names: Sequence[str]) -> list[str]:
        return [name for name in names if reference_name(name.removesuffix(".gz"))]

    for part in ("G-stragglers", "C-collectives"):
        shutil.copytree(data / part, tmp_path / "with" / part)
        shutil.copytree(data / part, tmp_path / "without" / part, ignore=no_answers)
    code, whole = analyze(capsys, tmp_path / "with")
    assert analyze(capsys, tmp_path / "without")[0] == code
    _, bare = analyze(capsys, tmp_path / "without")
    assert sum(item["status"] == "reference" for item in whole["inputs"]) >= 11
    assert sum(item["status"] == "reference" for item in bare["inputs"]) == 0
    assert bare["findings"] == whole["findings"]
    assert bare["checks"] == whole["checks"]


def test_the_answer_is_one_object_with_the_published_keys(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a script may rely on."""
    _, document = analyze(capsys, data / "G-stragglers")
    assert list(document) == ["verdict", "inputs", "findings", "checks"]
    assert all(list(item) == ["path", "kind", "status", "reason", "facts"] for item in document["inputs"])
    for found in document["findings"]:
        assert {"id", "kind", "severity", "confidence", "subject", "onset", "cost", "summary"} < set(found)
        assert {"evidence", "ruled_out", "missing", "next_step"} < set(found)
        assert all(item["rows"] for item in found["evidence"])


def test_a_mix_of_read_and_refused_keeps_the_verdict(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Junk beside a good trace takes nothing away."""
    shutil.copy(data / "G-stragglers" / "bytedance" / "trace-ST.parquet", tmp_path)
    (tmp_path / "junk.gz").write_bytes(b"\x1f\x8bjunk")
    code, document = analyze(capsys, tmp_path)
    assert code == 1
    assert sorted(item["status"] for item in document["inputs"]) == ["read", "refused"]


def test_nothing_readable_is_65_and_bad_usage_64(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Verdict codes stay with verdicts."""
    (tmp_path / "empty.log").write_bytes(b"")
    code, document = analyze(capsys, tmp_path)
    assert (code, document["verdict"]) == (65, "unknown")
    assert document["inputs"][0]["reason"] == "empty file: 0 bytes"
    with pytest.raises(SystemExit) as stop:
        main(["analyze"])
    assert stop.value.code == 64
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("")
    assert main(["analyze", str(tmp_path), "--store", str(tmp_path / "kept")]) == 64
    assert "already holds something" in capsys.readouterr().err


def test_what_was_read_can_be_told_nothing_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A meta file alone is read, and judges nothing: exit 3."""
    (tmp_path / "meta-X.yaml").write_text("trial_name: X\npp_size: 1\nworld_size: 8\n")
    code, document = analyze(capsys, tmp_path)
    assert (code, document["verdict"]) == (3, "unknown")


def test_the_rows_can_be_kept_and_asked(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--store leaves a store behind with rows and findings; the evidence's SQL gives the same rows there."""
    from warpline_collector.stores.duckdb import DuckDBStore

    path = data / "G-stragglers" / "bytedance" / "trace-ST.parquet"
    main(["analyze", "--json", str(path), "--store", str(tmp_path / "kept")])
    document = json.loads(capsys.readouterr().out)
    store = DuckDBStore(tmp_path / "kept")
    try:
        assert store.query("SELECT count(*) AS n FROM phases").to_pylist() == [{"n": 6_784}]
        evidence = document["findings"][0]["evidence"][0]
        assert plain(store.query(evidence["sql"]).to_pylist()) == evidence["rows"]
        assert store.query("SELECT kind FROM findings").to_pylist() == [{"kind": "stage_imbalance"}]
    finally:
        store.close()


def test_the_text_answers_first_and_shows_what_to_do(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Verdict, since when, cost, next step, evidence, inputs."""
    main(["analyze", str(data / "G-stragglers" / "bytedance")])
    text = capsys.readouterr().out
    assert text.startswith("CRITICAL: 2 findings   (6 inputs read, 0 refused, 6 reference answers set aside)")
    for words in ("since     step 16", "s a step", "do now", "evidence  SELECT", "\nInputs\n", "same data as"):
        assert words in text


def test_foreign_control_characters_do_not_reach_the_terminal() -> None:
    """A file name or a log line may hold escape sequences, and line ends that would forge a line of the answer."""
    path = "a\x1b[2Jb\x9b\n  read"
    item: dict[str, Any] = {"path": path, "kind": None, "status": "refused", "reason": "no\rise", "facts": {}}
    text = answer({"verdict": "unknown", "inputs": [item], "findings": [], "checks": []})
    assert "\x1b" not in text
    assert "\r" not in text
    assert text.endswith("a?[2Jb??  read: no?ise\n")


def test_exact_numbers_of_sql_become_json() -> None:
    """HUGEINT sums arrive as decimals, NaN has no JSON form."""
    assert plain({"sum": Decimal(2**70), "share": Decimal("0.5"), "none": float("nan"), "bytes": b"x"}) == {
        "sum": 2**70, "share": 0.5, "none": None, "bytes": "eA==",
    }  # fmt: skip


def test_analyze_needs_only_its_own_extra(tmp_path: Path) -> None:
    """Neither psutil nor NVML nor Textual is loaded by a whole run."""
    (tmp_path / "meta-X.yaml").write_text("pp_size: 1\nworld_size: 8\n")
    code = (
        "import sys\nfrom warpline_cli.main import main\n"
        f"main(['analyze', {str(tmp_path)!r}])\n"
        "print(sorted({'psutil', 'pynvml', 'textual'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
