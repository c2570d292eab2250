"""The PostgreSQL door with the real psql: what an operator types is answered, described, cancelled, refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from certified import Authority
from postgres_door import Door, opened

from warpline_collector.certificates import Certificates
from warpline_collector.described import views
from warpline_proto.tables import TABLES
from warpline_proto.tls import read

ENDLESS = "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))"


@pytest.fixture(scope="module")
def psql() -> str:
    """The program; skips where it is not installed."""
    found = shutil.which("psql")
    if found is None:
        pytest.skip("psql is not installed")
    return found


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """One door for all."""
    with opened(tmp_path_factory.mktemp("store")) as each:
        yield each


def command(psql: str, door: Door, *questions: str, where: str | None = None) -> list[str]:
    """psql that asks one thing after the other, bare."""
    asked = [word for question in questions for word in ("-c", question)]
    place = where or f"host={door.folder} port=5433 dbname=warpline user=me"
    return [psql, "-X", "-A", "-t", "-d", place, *asked]


def ask(psql: str, door: Door, *questions: str, where: str | None = None) -> str:
    """What psql prints, failures included."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    run = subprocess.run(
        command(psql, door, *questions, where=where), capture_output=True, text=True, timeout=60, env=environment
    )
    return run.stdout + run.stderr


def test_rows_come_as_they_are(psql: str, door: Door) -> None:
    """Numbers, texts, unknowns, times, lists; several statements in one go; a table of the schema public."""
    said = ask(
        psql,
        door,
        "SELECT count(*), sum(duration_ns) FROM steps",
        "SELECT 1; SELECT 'a;b' -- ; no",
        "SELECT NULL, true, 1.5::double, 'nan'::double, timestamptz '2026-01-02 03:04:05.5+00', [1, NULL], '\\x78'::blob",
        "SELECT rank FROM warpline.public.steps WHERE step = 0 ORDER BY rank",
        "",
    )
    assert said.splitlines() == [
        "12|12012", "1", "a;b", r"|t|1.5|NaN|2026-01-02 03:04:05.500000+00|{1,NULL}|\x78", "0", "1", "2",
    ]  # fmt: skip


def test_what_there_is_can_be_looked_up(psql: str, door: Door) -> None:
    """Tables, views, columns with their meaning, schemas, databases, users: as psql asks for them itself."""
    assert set(TABLES) == {line.split("|")[1] for line in ask(psql, door, r"\dt").splitlines()}
    assert set(views()) == {line.split("|")[1] for line in ask(psql, door, r"\dv").splitlines()}
    both = ask(psql, door, r"\d")
    assert len(both.splitlines()) == len(TABLES) + len(views())
    columns = ask(psql, door, r"\d steps").splitlines()
    assert [line.split("|")[0] for line in columns] == [column.name for column in TABLES["steps"].columns]
    assert "duration_ns|bigint|||" in columns
    assert "wall time of the step [ns]" in ask(psql, door, r"\d+ steps")
    assert "share of the rank's kernel time" in ask(psql, door, r"\d+ kernel_totals")
    assert TABLES["steps"].meaning in ask(psql, door, r"\dt+ steps")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (r"\l", "warpline|warpline|UTF8"), (r"\dn", "public|warpline"), (r"\du", "warpline||{}"), (r"\db", "pg_default"),
        (r"\di", ""), (r"\ds", ""), (r"\dm", ""), (r"\df", ""), (r"\dx", ""), (r"\dT", ""), (r"\dp steps", "public|steps|table"),
        (r"\d nothing_of_the_kind", "Did not find any relation"), (r"\conninfo", "You are connected"), (r"\encoding", "UTF8"),
        ("SHOW server_version", "14.0"), ("SHOW TIME ZONE", "UTC"), ("SHOW transaction_isolation", "repeatable read"),
        ("SELECT version()", "PostgreSQL 14"), ("SELECT current_user, current_schema", "warpline|public"),
        ("SHOW no_such_setting", "there is no setting"), ("SET TimeZone = 'Asia/Tokyo'", "times are told in UTC"),
        ("SET client_encoding TO latin1", "texts are told in UTF-8"), ("EXPLAIN SELECT 1", "physical_plan"),
        ("BEGIN; SELECT 1; COMMIT", "COMMIT"), ("DISCARD ALL", "DISCARD ALL"), ("RESET ALL", "RESET"),
        ("SELECT table_type FROM information_schema.tables WHERE table_name = 'kernel_totals'", "VIEW"),
        ("SELECT 'steps'::regclass::oid > 0, 'public.steps'::regclass = 'steps'::regclass", "t|t"),
    ],
)  # fmt: skip
def test_what_psql_and_its_kind_ask_besides_rows(psql: str, door: Door, asked: str, found: str) -> None:
    """Answered in the words of PostgreSQL, or refused in a sentence."""
    said = ask(psql, door, asked)
    assert found in said
    assert "Error" not in said


def test_rows_can_be_copied_into_a_file(psql: str, door: Door, tmp_path: Path) -> None:
    r"""\copy writes text and CSV on the client's side; the server's disk is out of reach."""
    text, table, words = tmp_path / "rows.txt", tmp_path / "rows.csv", 'say "x", y'
    said = ask(
        psql,
        door,
        rf"\copy (SELECT 1 AS a, E'x\ty' AS b, NULL AS c) TO '{text}'",
        rf"\copy (SELECT rank, '{words}' AS words FROM steps WHERE step = 0 ORDER BY 1) TO '{table}' WITH (FORMAT csv, HEADER)",
        f"COPY steps TO '{tmp_path / 'never'}'",
    )
    assert said.splitlines()[:2] == ["COPY 1", "COPY 3"]
    assert "COPY is not allowed" in said
    assert text.read_text() == "1\tx\\ty\t\\N\n"
    assert table.read_text() == 'rank,words\n0,"say ""x"", y"\n1,"say ""x"", y"\n2,"say ""x"", y"\n'
    assert not (tmp_path / "never").exists()


def test_a_cursor_brings_rows_bit_by_bit(psql: str, door: Door) -> None:
    """As psql does with FETCH_COUNT."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    words = [
        psql,
        "-X",
        "-A",
        "-t",
        "-v",
        "FETCH_COUNT=7",
        "-d",
        f"host={door.folder} port=5433",
        "-c",
        "SELECT range FROM range(20)",
    ]
    run = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment)
    assert run.stdout.split() == [str(number) for number in range(20)]


@pytest.mark.parametrize(
    "sql",
    [
        "DROP VIEW steps", "INSERT INTO steps (step) VALUES (1)", "CREATE TABLE x (a INT)", "COPY steps FROM STDIN",
        "COPY steps TO PROGRAM 'cat'", "COPY (SELECT * FROM read_text('/etc/passwd')) TO STDOUT", "LOAD httpfs",
        "SELECT * FROM pg_catalog.read_text('/etc/passwd')", "SELECT * FROM public.\"/etc/passwd\"", "TABLE '/etc/passwd'",
        "DECLARE c CURSOR FOR SELECT * FROM glob('/*')", "PREPARE x AS SELECT 1", "EXECUTE x", "DO 'x'", "LOCK TABLE steps",
        "SELECT * FROM duckdb_settings()", "SELECT pg_read_file('/etc/passwd')", "SELECT lo_import('/etc/passwd')",
        "ATTACH ':memory:' AS x", "EXPLAIN ANALYZE COPY (SELECT 1) TO '/tmp/x'", "SELECT * FROM query('SELECT 1')",
        "SELECT 1 OPERATOR(pg_catalog.; DROP VIEW steps) 1", "SELECT $$a$$ FROM read_text($$/etc/passwd$$)",
    ],
)  # fmt: skip
def test_no_other_door_to_the_disk_is_opened(psql: str, door: Door, sql: str) -> None:
    """What is refused elsewhere is refused here, however PostgreSQL would write it."""
    said = ask(psql, door, sql)
    assert "ERROR" in said
    assert "root:" not in said
    assert ask(psql, door, "SELECT count(*) FROM steps") == "12\n"


def test_ctrl_c_stops_the_question(psql: str, door: Door) -> None:
    """psql sends a request to cancel over another connection: the answer stops long before its bound."""
    process = subprocess.Popen(
        [psql, "-X", "-A", "-t", "-d", f"host=127.0.0.1 port={door.port}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )  # fmt: skip
    assert process.stdin and process.stdout
    process.stdin.write(f"SELECT 'here';\n{ENDLESS};\n")
    process.stdin.close()
    process.stdin = None
    assert process.stdout.readline() == "here\n"
    pause = threading.Event()
    while process.poll() is None:
        if door.endpoint.asking:
            process.send_signal(signal.SIGINT)
            pause.wait(1.0)
        pause.wait(0.02)
    assert "taken back" in process.communicate(timeout=60)[1], "else it ran to its bound"


def test_over_tls_the_certificate_says_the_role(psql: str, tmp_path: Path) -> None:
    """A viewer and an operator with theirs; without TLS, without a certificate or with an agent's nobody."""
    authority = Authority(tmp_path / "authority")
    (tmp_path / "store").mkdir()
    with opened(tmp_path / "store", certificates=Certificates(authority.collector())) as door:

        def as_(role: str, name: str, mode: str = "verify-ca") -> str:
            tls = authority.of(role, name)
            shown = f"sslcert={tls.certificate} sslkey={tls.key} " if role else ""
            return f"host=127.0.0.1 port={door.port} sslmode={mode} {shown}sslrootcert={tls.authority}"

        assert ask(psql, door, "SELECT count(*) FROM audit WHERE false", where=as_("operator", "olga")) == "0\n"
        viewer = as_("viewer", "vera")
        assert ask(psql, door, "SELECT count(*) FROM steps", where=viewer) == "12\n"
        assert "for operators only" in ask(psql, door, "SELECT count(*) FROM audit", where=viewer)
        assert "audit" not in ask(psql, door, r"\dt", where=viewer)
        assert "agents ask nothing" in ask(psql, door, "SELECT 1", where=as_("agent", "node-1"))
        bare = f"host=127.0.0.1 port={door.port}"
        assert "wants TLS" in ask(psql, door, "SELECT 1", where=f"{bare} sslmode=disable")
        assert (
            "FATAL" in (said := ask(psql, door, "SELECT 1", where=f"{bare} sslmode=require sslcert=/none"))
            or "rror" in said
        )
        door.audit.flush()
        denied = door.store.query(
            "SELECT caller, act, outcome, reason FROM audit WHERE outcome = 'denied' ORDER BY ALL"
        )
        assert [tuple(row.values())[:3] for row in denied.to_pylist()] == [
            ("vera", "question", "denied"), (None, "connect", "denied"), (None, "connect", "denied"),
        ]  # fmt: skip


def test_a_session_ends_with_the_certificate_it_came_with(psql: str, tmp_path: Path) -> None:
    """Else whoever keeps a connection open would be let in for ever."""
    authority = Authority(tmp_path / "authority")
    (tmp_path / "store").mkdir()
    tls = authority.of("viewer", "vera")
    where = f"host=127.0.0.1 sslmode=verify-ca sslcert={tls.certificate} sslkey={tls.key} sslrootcert={tls.authority}"
    certificates = Certificates(authority.collector())
    end_ns = read(tls).told.end_ns
    with opened(tmp_path / "store", certificates=certificates, clock=lambda: end_ns) as door:
        assert "the certificate has expired" in ask(psql, door, "SELECT 1", where=f"{where} port={door.port}")
