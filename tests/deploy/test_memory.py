"""What the collector may take of memory by its own bounds fits into what unit and manifest give; a worker is killed first."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

import psutil
from deployed import DEPLOY

from warpline_collector import config, continuous, desk, ingest, pool, reader
from warpline_collector.pool import WorkerPool
from warpline_collector.postgres import link, portals
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.config import load

MIB = 1024 * 1024
READERS = 4
"""The store's own, those of energy account and history, and that of the detectors' process."""
UNIT = DEPLOY / "systemd" / "warpline-collector.service"
MANIFEST = DEPLOY / "kubernetes" / "collector.yaml"
UNITS = {"GB": 10**9, "MB": 10**6, "GIB": 1024**3, "MIB": 1024**2, "G": 1024**3, "GI": 1024**3}


def size(told: str) -> int:
    """Bytes of a size as engine, unit or manifest write it."""
    found = re.fullmatch(r"([0-9.]+) ?([A-Za-z]+)", told)
    assert found is not None
    return int(float(found[1]) * UNITS[found[2].upper()])


def declared(settings: config.Settings) -> Mapping[str, int]:
    """What each part may take, in bytes."""
    of_reader = inspect.signature(reader.CatalogReader).parameters["memory_limit"].default
    engines = (settings.store.memory_limit, continuous.READER_MEMORY, *READERS * [of_reader])
    of_client = portals.STATEMENT_BYTES_MAX + link.WAITING_BYTES_MAX + link.SEND_BYTES
    return {
        "frames that wait to be stored": ingest.QUEUE_BYTES_MAX,
        "DuckDB in the collector": sum(map(size, engines)),
        "answers on their way from a worker": 2 * settings.sql.workers * desk.RESULT_BYTES_MAX,
        "answers that are not read yet": pool.ANSWER_BYTES.most,
        "clients of the PostgreSQL door": settings.postgres.connections_max * of_client,
        "SQL workers": settings.sql.workers * settings.sql.memory_bytes,
    }


def shipped(folder: Path) -> Mapping[str, config.Settings]:
    """The settings that unit and manifest come with."""
    told = (DEPLOY / "kubernetes" / "configuration.yaml").read_text().split("config.toml: |\n")[1]
    pod = folder / "config.toml"
    known = config.sections()
    pod.write_text(textwrap.dedent(told))
    return {
        "unit": config.from_sections(load(known, [DEPLOY / "config.toml"])),
        "manifest": config.from_sections(load(known, [pod])),
    }


def limits() -> Mapping[str, int]:
    """What unit and manifest hold it at."""
    unit = re.search(r"^MemoryMax=(\S+)$", UNIT.read_text(), re.M)
    manifest = re.search(r"limits: \{.*memory: (\w+)\}", MANIFEST.read_text())
    assert unit is not None and manifest is not None
    return {"unit": size(unit[1]), "manifest": size(manifest[1])}


def test_the_bounds_of_all_parts_fit_into_what_unit_and_manifest_give(tmp_path: Path) -> None:
    """With room for what was measured of the whole collector: 1,819 MiB with 2,496 ranks."""
    settings = shipped(tmp_path)
    for name, limit in limits().items():
        assert sum(declared(settings[name]).values()) + 1_819 * MIB <= limit, name


def test_the_guide_tells_these_bounds_and_their_sum() -> None:
    """Line by line, in MiB."""
    guide = (DEPLOY / "README.md").read_text()
    expected = {name: round(each / MIB) for name, each in declared(config.Settings()).items()}
    rows = dict(re.findall(r"^\| ([^|]+) \| ([0-9,]+) MiB \|", guide, re.M))
    told = {name: int(number.replace(",", "")) for name, number in rows.items()}
    assert told == {**expected, "together": sum(expected.values())}
    assert f"{limits()['unit'] // 1024**3} GiB" in guide


def test_the_kernel_takes_a_worker_before_the_collector(tmp_path: Path) -> None:
    """And the unit lives on without it: the next question has another."""
    assert re.search(r"^OOMPolicy=continue$", UNIT.read_text(), re.M)
    DuckDBStore(tmp_path).close()
    before = psutil.Process().children()
    workers = WorkerPool(tmp_path, pool.Config(workers=1))
    assert workers.query("SELECT 1 AS one").rows().num_rows == 1
    [worker] = [each for each in psutil.Process().children() if each not in before]
    assert int(Path(f"/proc/{worker.pid}/oom_score_adj").read_text()) == 1_000
    workers.close()
