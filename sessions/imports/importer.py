"""Import of a trace: detection of its format, reading, and writing as a session file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.document import Document, open_document
from moe_watch.sessions.imports.formats import READABLE, Format, named, recognised
from moe_watch.sessions.imports.readers.csv_tables import heading_of
from moe_watch.sessions.imports.session_writer import write_trace
from moe_watch.sessions.imports.traces import CountedTrace, ImportOptions, RoutedTrace, Trace
from moe_watch.sessions.reading.multipart import shown

NAME_FORMAT = "name the format: `moe-watch import FILE --from sglang` (counts) or `--from vllm` (expert ids)"
UNKNOWN = "convert it to one of the formats in docs/data.md, such as CSV of token,layer,expert_1,…"
SHOWN = 8
"""Largest number of names that a message lists."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A trace that was written as a session."""

    path: Path
    """The session file."""
    trace: Trace


def import_trace(
    path: Path,
    options: ImportOptions,
    *,
    form: str | None = None,
    output: Path | None = None,
    force: bool = False,
    folder: Path | None = None,
) -> Imported:
    """Import a trace of another program as a session.

    Args:
        path: the trace.
        options: facts that the trace does not state.
        form: its format, one of `READABLE`; None detects it by content.
        output: the session file; None makes a name in `folder`.
        force: replace `output` if it exists.
        folder: folder for files without a given name; by default the folder for recordings.

    Raises:
        UserError: it cannot be read or understood, or the session cannot be written.
    """
    trace = read_trace(path, options, form)
    written = write_trace(trace, path, output, model=options.model, force=force, folder=folder)
    return Imported(written, trace)


def read_trace(path: Path, options: ImportOptions, form: str | None = None) -> Trace:
    """Read the routing in a file of another program.

    Raises:
        UserError: it cannot be read or understood; the message names the format that was recognised.
    """
    given = None if form is None else named(form)
    if form is not None and given is None:
        advice = "leave it out to detect the format by content"
        raise UserError(f"--from: {form!r} is not one of {', '.join(READABLE)}", advice=advice)
    document = open_document(path)
    try:
        return _read_document(document, options, given)
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply", advice=UNKNOWN) from error


def _read_document(document: Document, options: ImportOptions, given: Format | None) -> Trace:
    path, found = document.path, recognised(document)
    if found is not None and given is not None and found != given:
        raise UserError(f"{path}: looks like {found.name}, not {given.name}", advice=f"leave out --from {given.name}")
    chosen = found or given
    if chosen is None:
        raise _unknown(document)
    return _read(chosen, document, options)


def _read(form: Format, document: Document, options: ImportOptions) -> Trace:
    if form.read is None:
        raise UserError(f"{document.path}: {_plain(form.title)}: {_plain(form.reason)}", advice=form.advice)
    _refuse_unused(form, options, document.path)
    try:
        found = form.read(document, options)
    except UserError as error:
        raise UserError(_naming(form, document.path, error.what), advice=error.advice) from error
    if isinstance(found, CountedTrace) and options.prompt_tokens is not None:
        raise _unused(form, "--prompt-tokens", document.path, "it has counts but no tokens: use --phase")
    if isinstance(found, RoutedTrace) and options.phase is not None:
        raise _unused(form, "--phase", document.path, "it has tokens: use --prompt-tokens")
    if isinstance(found, RoutedTrace) and found.prompt_tokens > len(found.experts):
        what = f"{document.path} ({form.name}): {len(found.experts)} tokens, but {found.prompt_tokens} prompt tokens"
        raise UserError(what, advice="check --prompt-tokens")
    return found


def _refuse_unused(form: Format, options: ImportOptions, path: Path) -> None:
    """Refuse options that would have no effect: the user expects one."""
    plain = ImportOptions()
    for name in ("run", "choice", "start", "dtype"):
        if name not in form.takes and getattr(options, name) != getattr(plain, name):
            raise _unused(form, f"--{name}", path, "leave it out")


def _unused(form: Format, option: str, path: Path, advice: str) -> UserError:
    return UserError(f"{path} ({form.name}): {option} has no effect on this format", advice=advice)


def _naming(form: Format, path: Path, what: str) -> str:
    """Return a message about a file with the name of the format that it was read as."""
    rest = what.removeprefix(str(path))
    return f"{path} ({form.name}){rest}" if rest != what else what


def _plain(text: str) -> str:
    """Return a text of the table without its backticks."""
    return text.replace("`", "")


def _unknown(document: Document) -> UserError:
    """Return an error that describes a file of unknown format."""
    path, value = document.path, document.value
    if document.kind == "arrays" and not isinstance(value, dict):
        return UserError(f"{path}: an array that may be counts or expert ids", advice=NAME_FORMAT)
    if document.kind in ("json", "json lines", "arrays", "tensors"):
        first = document.records[0] if document.records else None
        if not isinstance(first, dict):
            return UserError(f"{path}: a list that may be counts or expert ids", advice=NAME_FORMAT)
        keys = ", ".join(shown(str(key)[:24]) for key in list(first)[:SHOWN]) or "nothing"
        kind = {"json lines": "JSON Lines", "json": "JSON"}.get(document.kind, document.kind)
        return UserError(f"{path}: {kind} of unknown format, with {keys}", advice=UNKNOWN)
    if document.kind == "text":
        heading = ", ".join(shown(each[:24]) for each in heading_of(document)[:SHOWN]) or "nothing"
        return UserError(f"{path}: text of unknown format, with columns {heading}", advice=UNKNOWN)
    return UserError(f"{path}: neither UTF-8 text nor a known format", advice=UNKNOWN)
