"""Does a job hang, who is behind, and in which collective?

Flight-recorder dumps name the ranks that everything waits for. Watchdogs, monitors and NCCL's RAS report that a job hangs;
whoever reports is waiting, and is not accused.
"""

from __future__ import annotations

from warpline_proto.finding import Report

from ..detector import Reader
from ..dump_findings import judge_dumps
from ..flight import dumped_jobs, load_dumps
from ..hang_reports import flags_down, ras_reports, told_finding, told_hangs


def detect(reader: Reader) -> Report:
    """Judge every job with dumps, with a reported hang, or with a RAS report."""
    told = told_hangs(reader)
    report, explained = Report(), set()
    for job in dumped_jobs(reader):
        heard = told.get(job)
        judged = judge_dumps(reader, load_dumps(reader, job), len(heard.ranks) or 1 if heard else 0)
        if judged.findings or heard is None:
            report += judged
        if judged.findings:
            explained.add(job)
    report += Report(tuple(told_finding(reader, heard) for job, heard in told.items() if job not in explained))
    return report + ras_reports(reader, list(told)) + Report(checks=flags_down(reader, list(told)))
