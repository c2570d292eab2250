"""Reads recorded files: finds them, unpacks them, gives each to its format, and the rows to jobs."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from warpline_proto.batch import Batch
from warpline_proto.errors import Reference, Refused, WarplineError

from .identity import stamp
from .recordings.archive import Limits, Member, file_input, is_archive, unpack
from .recordings.describe import describe, holds_verdicts, reference_name
from .recordings.inputs import READ, REFERENCE_REASON, REFUSED, InputReport, member_line, plain, refuse, say, sum_up
from .recordings.jobs import Assignment, Piece, assign, identifier, job_rows, of_a_job, stem
from .recordings.walk import files_below
from .scrub import MASK, scrub, scrub_rows
from .source import Format, Input, Origin, Reading, Rows, Tree, TreeFormat
from .sources import FORMATS, TREE_FORMATS


@dataclass
class Import:
    """All that a list of paths held: one report a file, and the rows of what was read, stamped with job and place."""

    inputs: list[InputReport] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)


@dataclass(frozen=True)
class Formats:
    """The formats that files are offered to, in order."""

    files: Sequence[Format] = FORMATS
    trees: Sequence[TreeFormat] = TREE_FORMATS


def read_paths(
    paths: Iterable[str | Path], limits: Limits | None = None, formats: Formats | None = None, *, raw: bool = False
) -> Import:
    """Files and folders -> what they hold. Never raises for what a file holds; what is not read says why.

    With `raw` the single records of GPU timelines are among it.
    """
    reader = _Reader(limits or Limits(), formats or Formats(), raw)
    for path in dict.fromkeys(str(path) for path in paths):
        reader.take(path)
    return reader.finish()


@dataclass
class _Read:
    """A piece, and the report (and, in an archive, the line of the member) that speaks of it."""

    piece: Piece
    report: InputReport
    line: dict[str, Any] | None = None


class _Reader:
    """Collects reports and pieces while paths are walked."""

    def __init__(self, limits: Limits, formats: Formats, raw: bool) -> None:
        self._raw = raw
        self._limits = limits
        self._formats = formats
        self._reports: list[InputReport] = []
        self._reads: list[_Read] = []
        self._seen: set[Path] = set()

    def take(self, named: str) -> None:
        """One path that the user named."""
        try:
            folder = stat.S_ISDIR(_mode(named))
        except Refused as error:
            self._reports.append(InputReport(named, None, REFUSED, str(error)))
            return
        if folder:
            self._take_folder(Path(named))
        else:
            self._take_file(Path(named))

    def _take_folder(self, folder: Path) -> None:
        files, passed = files_below(folder, self._limits)
        self._reports += [InputReport(str(path), None, REFUSED, reason) for path, reason in passed]
        for tree in self._trees(folder, files):
            files = [path for path in files if not path.is_relative_to(tree)]
        for path in files:
            self._take_file(path)

    def _trees(self, folder: Path, files: Sequence[Path]) -> list[Path]:
        """Read the topmost folders that a tree format recognises; their roots."""
        names: dict[Path, list[str]] = defaultdict(list)
        for path in files:
            parts = path.relative_to(folder).parts
            for depth in range(len(parts)):
                names[folder.joinpath(*parts[:depth])].append("/".join(parts[depth:]))
        roots: list[Path] = []
        for root in sorted(names, key=lambda path: (len(path.parts), path)):
            if any(root.is_relative_to(taken) for taken in roots):
                continue
            candidate = Tree(str(root), root, frozenset(names[root]))
            found = next((each for each in self._formats.trees if each.recognises_tree(candidate)), None)
            if found is not None:
                roots.append(root)
                self._take_tree(found, candidate)
        return roots

    def _take_tree(self, tree_format: TreeFormat, candidate: Tree) -> None:
        report = InputReport(candidate.path, tree_format.name, READ, facts={"files": len(candidate.names)})
        self._reports.append(report)
        try:
            reading = _guarded(tree_format.name, lambda: tree_format.read_tree(candidate))
        except Refused as error:
            refuse(report, error)
            return
        digest = hashlib.blake2b("\n".join(sorted(candidate.names)).encode("utf-8", "replace")).hexdigest()
        self._keep(Piece(candidate.path, str(candidate.root.parent), tree_format.name, digest, reading), report)

    def _take_file(self, file: Path) -> None:
        real = file.resolve()
        if real in self._seen:
            return
        self._seen.add(real)
        report = InputReport(str(file), None, READ)
        self._reports.append(report)
        if reference_name(file.name.removesuffix(".gz")):
            refuse(report, Reference(REFERENCE_REASON))
            return
        try:
            candidate = file_input(file, str(file), self._limits)
            if is_archive(candidate):
                self._take_archive(candidate, report)
            else:
                self._keep(self._piece(candidate, str(file.parent), report), report)
        except Refused as error:
            refuse(report, error)

    def _piece(self, candidate: Input, folder: str, report: InputReport) -> Piece:
        for each in self._formats.files:
            if each.recognises(candidate):
                report.kind = each.name
                reading = _guarded(each.name, lambda chosen=each: chosen.read(candidate))
                digest = _digest(candidate)
                return Piece(candidate.path, folder, each.name, digest, reading)
        if holds_verdicts(candidate):
            report.kind = "text"
            raise Reference("another detector's verdicts, set aside unread")
        looks = describe(candidate)
        report.kind = looks.kind
        raise Refused(looks.reason)

    def _take_archive(self, candidate: Input, report: InputReport) -> None:
        report.kind = "archive"
        with tempfile.TemporaryDirectory(prefix="warpline-") as name:
            members = unpack(candidate, Path(name), self._limits)
            if not self._archived_tree(candidate, Path(name), members, report):
                lines = [self._take_member(candidate, member, report) for member in members]
                report.facts["members"] = lines
                sum_up(report, lines)

    def _archived_tree(self, candidate: Input, folder: Path, members: Sequence[Member], report: InputReport) -> bool:
        names = frozenset(member.name for member in members if member.file is not None)
        tree = Tree(candidate.path, folder, names)
        found = next((each for each in self._formats.trees if each.recognises_tree(tree)), None)
        if found is None:
            return False
        report.kind = found.name
        report.facts["files"] = len(names)
        reading = _guarded(found.name, lambda: found.read_tree(tree))
        digest = _digest(candidate)
        self._keep(Piece(candidate.path, str(Path(candidate.path).parent), found.name, digest, reading), report)
        return True

    def _take_member(self, archive: Input, member: Member, report: InputReport) -> dict[str, Any]:
        shown = f"{archive.path}/{member.name}"
        inner = InputReport(shown, None, READ)
        try:
            if reference_name(member.name.rsplit("/", 1)[-1].removesuffix(".gz")):
                raise Reference(REFERENCE_REASON)
            if member.file is None:
                raise Refused(member.reason or "not unpacked")
            candidate = file_input(member.file, shown, self._limits)
            if is_archive(candidate):
                raise Refused("an archive inside an archive: unpack it first")
            piece = self._piece(candidate, archive.path, inner)
        except Refused as error:
            refuse(inner, error)
            return member_line(member.name, inner)
        line = member_line(member.name, inner)
        self._keep(piece, report, line)
        return line

    def _keep(self, piece: Piece, report: InputReport, line: dict[str, Any] | None = None) -> None:
        self._reads.append(_Read(piece, report, line))
        if not self._raw:
            piece.reading.raw.clear()  # it holds on to all records of the file
        facts = line.setdefault("facts", {}) if line is not None else report.facts
        facts |= plain(piece.reading.facts)
        if piece.reading.notes:
            say(report, line, "; ".join(piece.reading.notes))

    def finish(self) -> Import:
        """Give pieces to jobs, stamp their rows."""
        pieces = [read.piece for read in self._reads]
        assignment = assign(pieces)
        batches: list[Batch] = []
        for job in assignment.jobs:
            rows = job_rows(job, pieces)
            batches.append(Batch("jobs", rows.column("source")[0].as_py(), rows))
        owner = {index: job.id for job in assignment.jobs for index in job.members}
        for index, read in enumerate(self._reads):
            _tell(read, assignment, index, pieces, owner)
            if index not in assignment.repeats:
                batches += _stamped(read.piece, owner.get(index))
        return Import(self._reports, batches)


def _mode(named: str) -> int:
    """Type and permissions of a file; Refused where there is none."""
    if not named:
        raise Refused("an empty name", "is a variable of the command line not set?")
    try:
        return os.stat(named).st_mode
    except FileNotFoundError as error:
        raise Refused("there is no such file") from error
    except OSError as error:
        raise Refused(f"cannot be read: {error.strerror or error}") from error


def _guarded(name: str, read: Any) -> Reading:
    """Run a reader at the rim: whatever a broken one raises is told as a refusal of that file, and the rest goes on."""
    try:
        reading: Reading = read()
    except Refused:
        raise
    except WarplineError as error:
        raise Refused(str(error)) from error
    except Exception as error:
        # A format may raise Refused only. This is the one place that catches its bugs: one file must not stop the others.
        raise Refused(
            f"reader {name} failed: {type(error).__name__}: {error}", "please report it with the file"
        ) from error
    rows = [each._replace(batch=scrub_rows(each.batch)) for each in reading.rows]
    return replace(reading, rows=rows, origin=_without_secrets(reading.origin))


def _without_secrets(origin: Origin) -> Origin:
    """Identifiers in which a secret was are no evidence: masked, two of them would look the same."""
    run_id = origin.run_id and scrub(origin.run_id)
    return replace(
        origin,
        run_id=None if run_id and MASK in run_id else run_id,
        communicators=tuple(each for each in origin.communicators if MASK not in scrub(each[0])),
        node=origin.node and scrub(origin.node),
        sibling=origin.sibling and scrub(origin.sibling),
    )


def _tell(read: _Read, assignment: Assignment, index: int, pieces: Sequence[Piece], owner: dict[int, str]) -> None:
    """Put job, row counts and notes into the report."""
    facts = read.report.facts if read.line is None else read.line["facts"]
    kept = assignment.repeats.get(index)
    job = owner.get(index if kept is None else kept)
    if job is not None:
        facts["job"] = job
    if kept is not None:
        say(read.report, read.line, f"same data as {pieces[kept].path}")
        return
    counts: Counter[str] = Counter()
    for rows in read.piece.reading.rows:
        counts[rows.table] += rows.batch.num_rows
    facts["rows"] = {table: count for table, count in counts.items() if count}
    dropped = sum(rows.dropped for rows in read.piece.reading.rows)
    if dropped:
        facts["dropped"] = dropped
    for note in assignment.notes.get(index, []):
        say(read.report, read.line, note)


def _stamped(piece: Piece, job: str | None) -> Iterator[Batch]:
    """Rows with job and place. A machine whose recording does not name it gets the recording's name in parentheses."""
    origin = piece.reading.origin
    node = origin.node
    if node is None and not of_a_job(piece.reading):
        node = f"({identifier(stem(piece.name), origin.content or piece.digest)})"
    for rows in piece.reading.rows:
        if rows.table == "jobs" or (rows.batch.num_rows == 0 and rows.dropped == 0):
            continue
        yield Batch(rows.table, piece.kind, _stamp(rows, piece.kind, job, origin.rank, node), rows.dropped)
    for make in piece.reading.raw:
        for rows in make():
            yield Batch(rows.table, piece.kind, _stamp(rows, piece.kind, job, origin.rank, node), rows.dropped)


def _stamp(rows: Rows, source: str, job: str | None, rank: int | None, node: str | None) -> pa.RecordBatch:
    return stamp(rows.batch, source=source, job=job, rank=rank, node=node)


def _digest(candidate: Input) -> str:
    return hashlib.blake2b(candidate.head + str(candidate.size).encode()).hexdigest()
