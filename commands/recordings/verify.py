"""`moe-watch verify`: check sessions for faults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from moe_watch.commands.output import complain, print_result, say
from moe_watch.routing.errors import UserError

if TYPE_CHECKING:
    from moe_watch.sessions.results.verification import (
        FaultResult,
        FileVerdict,
        RunVerdict,
        SalvageReport,
        VerifyReport,
    )
    from moe_watch.sessions.verifying.file import Report
    from moe_watch.sessions.verifying.issues import Issue
    from moe_watch.sessions.verifying.run_files import RunReport
    from moe_watch.sessions.verifying.salvage import Salvaged

FINE: Literal[0] = 0
NOT_FINE: Literal[1] = 1
UNREADABLE: Literal[2] = 2
REASONS_SHOWN = 20

EPILOG = """
\b
Exit status: 0 no fault, 1 faults, 2 a file cannot be read.
Checks: docs/session-format.md, "Verification".
"""


@click.command(epilog=EPILOG)
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(path_type=Path))
@click.option(
    "--salvage", type=click.Path(path_type=Path), metavar="OUT", help="Copy the readable part of FILE to a new file."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def verify(files: tuple[Path, ...], salvage: Path | None, as_json: bool) -> None:
    """Read each FILE to its end, recompute its numbers, and search for contradictions.

    This finds recordings that are incomplete, damaged or invented, a tap that reads wrong numbers, and a lost context.
    Continuation files of FILE are read as well, and checked for whether they fit together.
    """
    if salvage is not None:
        _salvage(files, salvage, as_json=as_json)
        return
    from moe_watch.sessions.verifying.run_files import verify_runs, with_parts

    paths = with_parts([_named(file) for file in files])
    results, runs = [_judge(file) for file in paths], verify_runs(paths)
    if as_json:
        print_result(_report(paths, results, runs))
    else:
        _print(results, runs)
    if status := max(map(_exit_status, [*results, *runs])):
        raise click.exceptions.Exit(status)


def _named(file: Path) -> Path:
    """Return the file of a session. A missing one is reported in its turn, so that the others are checked as well."""
    from moe_watch.sessions.library.lookup import session_file

    try:
        return session_file(file)
    except UserError:
        return file


def _judge(file: Path) -> Report | UserError:
    from moe_watch.sessions.verifying.file import verify

    try:
        return verify(file)
    except UserError as error:
        return error


def _status(found: Report | RunReport) -> Literal[0, 1]:
    return FINE if found.fine else NOT_FINE


def _exit_status(found: Report | RunReport | UserError) -> int:
    return UNREADABLE if isinstance(found, UserError) else _status(found)


def _print(results: Sequence[Report | UserError], runs: Sequence[RunReport]) -> None:
    for found in results:
        if isinstance(found, UserError):
            complain(str(found))
        else:
            for line in _lines(found):
                say(line)
    for run in runs:
        for line in _run_lines(run):
            say(line)
    if len(results) > 1:
        say(f"{sum(not _exit_status(found) for found in results)} of {len(results)} files are fine")


def _lines(report: Report) -> list[str]:
    """Return a verdict on a file, its faults and its remarks."""
    from moe_watch.sessions.text import plural

    header = report.header
    version = f"schema {header.schema}.{header.schema_minor}"
    counts = ((report.lines, "line"), (report.tokens, "token"), (report.chunks, "chunk"))
    said = ", ".join([*(plural(number, noun) for number, noun in counts), version])
    return [f"{report.file}: {_verdict(report.findings)} ({said})", *_details(report)]


def _run_lines(run: RunReport) -> list[str]:
    """Return a verdict on the files of a run together."""
    from moe_watch.sessions.text import plural

    parts = "alone" if not run.parts else f"with {len(run.parts)} more, {plural(run.tokens, 'token')}"
    return [f"the run in {run.file}: {_verdict(run.findings)} ({parts})", *_details(run)]


def _verdict(findings: Sequence[Issue]) -> str:
    kinds = len(findings)
    return f"{kinds} {'kind' if kinds == 1 else 'kinds'} of fault" if findings else "fine"


def _details(report: Report | RunReport) -> list[str]:
    return [*map(_finding, report.findings), *(f"  note: {remark}" for remark in report.remarks)]


def _finding(finding: Issue) -> str:
    place = "" if finding.line is None else f"line {finding.line}: "
    more = f", and {finding.count - 1:,} more" if finding.count > 1 else ""
    return f"  {finding.check}: {place}{finding.text}{more}"


def _report(paths: Sequence[Path], found: Sequence[Report | UserError], runs: Sequence[RunReport]) -> VerifyReport:
    from moe_watch.sessions.results.verification import VerifyReport

    files = [_file_verdict(path, each) for path, each in zip(paths, found, strict=True)]
    return VerifyReport(files=files, runs=[_run_verdict(run) for run in runs])


def _file_verdict(file: Path, found: Report | UserError) -> FileVerdict:
    from moe_watch.sessions.results.verification import FileVerdict

    if isinstance(found, UserError):
        return FileVerdict(file=str(file), status=UNREADABLE, error=str(found))
    return FileVerdict(
        file=str(file),
        status=_status(found),
        schema=(found.header.schema, found.header.schema_minor),
        lines=found.lines,
        tokens=found.tokens,
        chunks=found.chunks,
        unknown_events=found.unknown,
        findings=_faults(found.findings),
        remarks=found.remarks,
    )


def _run_verdict(run: RunReport) -> RunVerdict:
    from moe_watch.sessions.results.verification import RunVerdict

    return RunVerdict(
        file=run.file,
        parts=run.parts,
        status=_status(run),
        tokens=run.tokens,
        findings=_faults(run.findings),
        remarks=run.remarks,
    )


def _faults(findings: Sequence[Issue]) -> list[FaultResult]:
    from msgspec import convert

    from moe_watch.sessions.results.verification import FaultResult

    return convert(findings, list[FaultResult], from_attributes=True)


def _salvage(files: Sequence[Path], output: Path, *, as_json: bool) -> None:
    from moe_watch.sessions.library.lookup import session_file
    from moe_watch.sessions.text import plural
    from moe_watch.sessions.verifying.salvage import salvage

    if len(files) != 1:
        raise UserError(f"--salvage with {len(files)} files", advice="salvage them one by one")
    saved = salvage(session_file(files[0]), output)
    if as_json:
        print_result(_salvage_report(saved))
        return
    for each in saved.left_out[:REASONS_SHOWN]:
        say(f"left out line {each.line}: {each.reason}")
    if saved.left_out_lines > REASONS_SHOWN:
        say(f"left out {plural(saved.left_out_lines - REASONS_SHOWN, 'more line')}: --json lists them")
    for line in _consequences(saved):
        say(line)
    say(f"{plural(saved.lines, 'line')} with {plural(saved.tokens, 'token')} saved to {saved.output}")


def _consequences(saved: Salvaged) -> list[str]:
    found = []
    if not saved.left_out_lines:
        found.append("no line was left out")
    if saved.missing_tokens:
        found.append(f"{saved.missing_tokens:,} tokens are missing: a `dropped` state is in their place")
    if saved.restored_contexts:
        found.append(f"{saved.restored_contexts:,} `fresh_context` states are restored, where the prompt follows again")
    if saved.merged_contexts:
        found.append(f"{saved.merged_contexts:,} contexts have lost their start: their chunks count to the one before")
    if saved.computed:
        found.append(f"{saved.computed:,} chunks and keyframes after them are recomputed from the remaining tokens")
    return found


def _salvage_report(saved: Salvaged) -> SalvageReport:
    from moe_watch.sessions.results.verification import LeftOutResult, SalvageReport

    return SalvageReport(
        output=str(saved.output),
        lines=saved.lines,
        tokens=saved.tokens,
        left_out=[LeftOutResult(line=each.line, reason=each.reason) for each in saved.left_out],
        left_out_lines=saved.left_out_lines,
        missing_tokens=saved.missing_tokens,
        computed=saved.computed,
    )
