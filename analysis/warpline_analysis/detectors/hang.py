"""Does a job hang, who is behind, and in which collective?

Where the processes of a job are watched, the ranks that do nothing while others wait for them are named; flight-recorder dumps
name the ranks that everything waits for. Watchdogs, monitors and NCCL's RAS report that a job hangs;
whoever reports is waiting, and is not accused.
"""

from __future__ import annotations

from warpline_proto.finding import Report

from ..detector import Reader
from ..dump_findings import judge_dumps
from ..flight import dumped_jobs, load_dumps
from ..hang_reports import flags_down, ras_reports, told_finding, told_hangs
from ..live_hang import judge_live


def detect(reader: Reader) -> Report:
    """Judge every job whose processes are watched, with dumps, with a reported hang, or with a RAS report.

    Dumps that were taken on suspicion show operations pending at their moment: of a job that is watched they count only where
    its processes leave it open who is behind.
    """
    told = told_hangs(reader)
    report, explained = Report(), set()
    live = judge_live(reader)
    dumped = dumped_jobs(reader)
    for job in dumped:
        if job is not None and job in live and live[job].settled:
            continue
        heard = told.get(job)
        judged = judge_dumps(reader, load_dumps(reader, job), len(heard.ranks) or 1 if heard else 0)
        if judged.findings or (heard is None and job not in live):
            report += judged
        if judged.findings:
            explained.add(job)
    for name, found in live.items():
        if name not in explained:
            report += found.report
            explained |= {name} if found.report.findings else set()
    report += Report(tuple(told_finding(reader, heard) for job, heard in told.items() if job not in explained))
    return report + ras_reports(reader, list(told)) + Report(checks=flags_down(reader, list(told)))
