"""`moe-watch verify`: whether recordings are whole, and whether what they hold can be true."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_watch.commands.options import session_file
from moe_watch.commands.output import complain, say
from moe_watch.routing.errors import UserError

if TYPE_CHECKING:
    from moe_watch.sessions.verifying.file import Report
    from moe_watch.sessions.verifying.issues import Issue
    from moe_watch.sessions.verifying.run_files import RunReport
    from moe_watch.sessions.verifying.salvage import Salvaged

NOT_FINE, UNREADABLE = 1, 2
REASONS_SHOWN = 20

EPILOG = """
\b
Status: 0 all is fine, 1 something is not, 2 a file cannot be read.
What is checked: docs/session-format.md, "Verification".
"""


@click.command(short_help="Check recordings: whole, and possible.", epilog=EPILOG)
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(path_type=Path))
@click.option(
    "--salvage", type=click.Path(path_type=Path), metavar="OUT", help="Copy what can be read of FILE to a new file."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def verify(files: tuple[Path, ...], salvage: Path | None, as_json: bool) -> None:
    """Read every FILE to its end, compute its numbers anew, and look for what cannot be.

    A half-written, damaged or made-up recording is found by what does not fit together in it; so are a tap that reads
    the wrong numbers and a context that was lost. The files that go on with FILE are read as well, and it is looked
    whether they fit together.
    """
    if salvage is not None:
        _salvage(files, salvage, as_json=as_json)
        return
    from moe_watch.sessions.verifying.run_files import verify_runs, with_parts

    paths = with_parts([_named(file) for file in files])
    results, runs = [_judge(file) for file in paths], verify_runs(paths)
    if as_json:
        found = [_result(file, result) for file, result in zip(paths, results, strict=True)]
        click.echo(json.dumps({"files": found, "runs": [_run_result(run) for run in runs]}))
    else:
        _print(results, runs)
    if status := max(map(_status, [*results, *runs])):
        raise click.exceptions.Exit(status)


def _named(file: Path) -> Path:
    """The session that is meant. One that is not there is told of in its turn, and keeps no other from being judged."""
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


def _status(found: Report | RunReport | UserError) -> int:
    return UNREADABLE if isinstance(found, UserError) else 0 if found.fine else NOT_FINE


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
        say(f"{sum(not _status(found) for found in results)} of {len(results)} files are fine")


def _lines(report: Report) -> list[str]:
    """A file in words, what is wrong with it, and what is not wrong."""
    header = report.header
    version = f"schema {header.schema}.{header.schema_minor}"
    said = f"{report.lines:,} lines, {report.tokens:,} tokens, {report.chunks:,} chunks, {version}"
    return [f"{report.file}: {_verdict(report.findings)} ({said})", *_details(report)]


def _run_lines(run: RunReport) -> list[str]:
    """How a run's files fit together, in words."""
    parts = "alone" if not run.parts else f"with {len(run.parts)} more, {run.tokens:,} tokens"
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


def _result(file: Path, found: Report | UserError) -> dict[str, Any]:
    if isinstance(found, UserError):
        return {"file": str(file), "status": UNREADABLE, "error": str(found)}
    return {
        "file": str(file),
        "status": _status(found),
        "schema": [found.header.schema, found.header.schema_minor],
        "lines": found.lines,
        "tokens": found.tokens,
        "chunks": found.chunks,
        "unknown_events": found.unknown,
        "findings": [_finding_result(each) for each in found.findings],
        "remarks": found.remarks,
    }


def _run_result(run: RunReport) -> dict[str, Any]:
    return {
        "file": run.file,
        "parts": run.parts,
        "status": _status(run),
        "tokens": run.tokens,
        "findings": [_finding_result(each) for each in run.findings],
        "remarks": run.remarks,
    }


def _finding_result(finding: Issue) -> dict[str, Any]:
    return {"check": finding.check, "line": finding.line, "text": finding.text, "count": finding.count}


def _salvage(files: Sequence[Path], output: Path, *, as_json: bool) -> None:
    from moe_watch.sessions.verifying.salvage import salvage

    if len(files) != 1:
        raise UserError(f"--salvage with {len(files)} files", advice="salvage them one by one")
    saved = salvage(session_file(files[0]), output)
    if as_json:
        click.echo(json.dumps(_salvaged(saved)))
        return
    for each in saved.left_out[:REASONS_SHOWN]:
        say(f"left out line {each.line}: {each.reason}")
    if saved.left_out_lines > REASONS_SHOWN:
        say(f"left out {saved.left_out_lines - REASONS_SHOWN:,} more lines: --json names them")
    for line in _consequences(saved):
        say(line)
    say(f"{saved.lines:,} lines with {saved.tokens:,} tokens saved to {saved.output}")


def _consequences(saved: Salvaged) -> list[str]:
    found = []
    if not saved.left_out_lines:
        found.append("nothing had to be left out")
    if saved.missing_tokens:
        found.append(f"{saved.missing_tokens:,} tokens are missing: a `dropped` state stands where they were")
    if saved.restored_contexts:
        found.append(f"{saved.restored_contexts:,} `fresh_context` states are restored, where the prompt follows again")
    if saved.merged_contexts:
        found.append(f"{saved.merged_contexts:,} contexts have lost their start: their chunks count to the one before")
    if saved.computed:
        found.append(f"{saved.computed:,} chunks and keyframes after them are computed from the tokens that are left")
    return found


def _salvaged(saved: Salvaged) -> dict[str, Any]:
    return {
        "output": str(saved.output),
        "lines": saved.lines,
        "tokens": saved.tokens,
        "left_out": [{"line": each.line, "reason": each.reason} for each in saved.left_out],
        "left_out_lines": saved.left_out_lines,
        "missing_tokens": saved.missing_tokens,
        "computed": saved.computed,
    }
