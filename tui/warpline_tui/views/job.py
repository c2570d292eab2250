"""What the job screen shows: its iteration times, groups, ranks, collectives, energy, and what was found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ..incident import Incident, newest, open_ones
from ..literal import same
from ..power import Power
from ..spans import RECENT, Span
from ..view import Ask
from .job_collectives import Member, Operation, members, operations
from .job_steps import Course, Group, RankOff, Size, course, extent, groups, ranks
from .power import accounted

JOBS_MAX: Final = 1_000
JOBS_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Job:
    """One job at one moment; `by` is what groups are of, `members` those of the communicator that was chosen."""

    now_ns: int
    job: str | None = None
    jobs: tuple[str, ...] = ()
    size: Size | None = None
    course: Course = field(default_factory=lambda: Course((), ""))
    by: str = "pp"
    groups: tuple[Group, ...] = ()
    ranks: tuple[RankOff, ...] = ()
    operations: tuple[Operation, ...] = ()
    members: tuple[Member, ...] = ()
    energy: Power = field(default_factory=Power)
    incidents: tuple[Incident, ...] = ()


@dataclass(frozen=True)
class JobView:
    """A job, None for the one that is worth a look first; groups by one of pp, dp, tp, ep (None: the first that differ)."""

    job: str | None = None
    span: Span = RECENT
    by: str | None = None
    communicator: str | None = None

    def take(self, ask: Ask) -> Job:
        """Ask for everything of the job."""
        jobs = _jobs(ask)
        job = self.job if self.job is not None else _worth_a_look(ask, jobs)
        if job is None:
            return Job(ask.now_ns)
        size = extent(ask, job)
        by = self.by or next(iter(size.groups), "pp")
        return Job(
            now_ns=ask.now_ns,
            job=job,
            jobs=jobs,
            size=size,
            course=course(ask, job, size, self.span),
            by=by,
            groups=groups(ask, job, by, size),
            ranks=ranks(ask, job, size),
            operations=operations(ask, job),
            members=() if self.communicator is None else members(ask, job, self.communicator),
            energy=accounted(ask, job),
            incidents=newest(ask, same("job", job)),
        )


def _jobs(ask: Ask) -> tuple[str, ...]:
    """Jobs that told steps in what is kept."""
    rows = ask.rows(
        f"""
SELECT DISTINCT job FROM (
    SELECT job FROM steps WHERE {ask.until("start_ns")} UNION SELECT job FROM jobs WHERE {ask.until()}
    UNION SELECT job FROM steps_history WHERE {ask.until()}
) WHERE job IS NOT NULL ORDER BY job LIMIT {JOBS_MAX}
""",
        JOBS_SECONDS,
    )
    return tuple(rows["job"].to_pylist())


def _worth_a_look(ask: Ask, jobs: tuple[str, ...]) -> str | None:
    """The job that the gravest open finding names, else the first."""
    accused = (each.finding.subject.job for each in open_ones(newest(ask)))
    return next((each for each in accused if each is not None), jobs[0] if jobs else None)
