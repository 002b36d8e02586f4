"""Foreign traces as session files: which format a file has, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.document import Document, open_document
from moe_watch.sessions.imports.formats import READABLE, Format, named, recognised
from moe_watch.sessions.imports.readers.tables import heading_of
from moe_watch.sessions.imports.session_writer import write_trace
from moe_watch.sessions.imports.traces import CountedTrace, ImportOptions, RoutedTrace, Trace
from moe_watch.sessions.reading.multipart import shown

WHICH = "say whose it is with --from, as sglang (counts) or vllm (expert ids)"
UNKNOWN = "docs/data.md has the formats; convert it to one of them, as CSV of token,layer,expert_1,…"
SHOWN = 8
"""Names that a message lists."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A trace that was recorded."""

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
    """Make a session of a foreign trace.

    Args:
        path: the trace.
        options: what it does not tell itself.
        form: its format, one of `READABLE`; None looks at the file.
        output: where to record it; None makes a name in `folder`.
        force: replace `output` if it exists.
        folder: for files without a given name, the one for recordings by default.

    Raises:
        UserError: it cannot be read or understood, or the session cannot be written.
    """
    trace = read_trace(path, options, form)
    written = write_trace(trace, path, output, model=options.model, force=force, folder=folder)
    return Imported(written, trace)


def read_trace(path: Path, options: ImportOptions, form: str | None = None) -> Trace:
    """Read the routing in a foreign file.

    Raises:
        UserError: it cannot be read or understood; the message names the format that was recognised.
    """
    wanted = None if form is None else named(form)
    if form is not None and wanted is None:
        raise UserError(
            f"--from: {form!r} is not one of {', '.join(READABLE)}", advice="leave it out to look at the file"
        )
    document = open_document(path)
    try:
        return _of_document(document, options, wanted)
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply", advice=UNKNOWN) from error


def _of_document(document: Document, options: ImportOptions, wanted: Format | None) -> Trace:
    path, found = document.path, recognised(document)
    if found is not None and wanted not in (None, found):
        given = "" if wanted is None else wanted.name
        raise UserError(f"{path}: looks like {found.name}, not {given}", advice=f"leave out --from {given}")
    chosen = found or wanted
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
        raise _unused(form, "--prompt-tokens", document.path, "it has counts, and no tokens: say --phase")
    if isinstance(found, RoutedTrace) and options.phase is not None:
        raise _unused(form, "--phase", document.path, "it has tokens: say --prompt-tokens")
    if isinstance(found, RoutedTrace) and found.prompt_tokens > len(found.experts):
        what = f"{document.path} ({form.name}): {len(found.experts)} tokens, and {found.prompt_tokens} of prompt"
        raise UserError(what, advice="check --prompt-tokens")
    return found


def _refuse_unused(form: Format, options: ImportOptions, path: Path) -> None:
    """Refuse options that would make no difference: the user expects one."""
    plain = ImportOptions()
    for name in ("run", "choice", "start", "dtype"):
        if name not in form.takes and getattr(options, name) != getattr(plain, name):
            raise _unused(form, f"--{name}", path, "leave it out")


def _unused(form: Format, option: str, path: Path, advice: str) -> UserError:
    return UserError(f"{path} ({form.name}): {option} is of no use here", advice=advice)


def _naming(form: Format, path: Path, what: str) -> str:
    """A message about a file that says what the file was read as."""
    rest = what.removeprefix(str(path))
    return f"{path} ({form.name}){rest}" if rest != what else what


def _plain(text: str) -> str:
    """A text of the table without what marks code."""
    return text.replace("`", "")


def _unknown(document: Document) -> UserError:
    """Describe a file that is in no known format, with advice."""
    path, value = document.path, document.value
    if document.kind == "arrays" and not isinstance(value, dict):
        return UserError(f"{path}: an array that may be counts or expert ids", advice=WHICH)
    if document.kind in ("json", "json lines", "arrays", "tensors"):
        first = document.records[0] if document.records else None
        if not isinstance(first, dict):
            return UserError(f"{path}: a list that may be counts or expert ids", advice=WHICH)
        keys = ", ".join(shown(str(key)[:24]) for key in list(first)[:SHOWN]) or "nothing"
        kind = {"json lines": "JSON Lines", "json": "JSON"}.get(document.kind, document.kind)
        return UserError(f"{path}: {kind} of no known format, with {keys}", advice=UNKNOWN)
    if document.kind == "text":
        heading = ", ".join(shown(each[:24]) for each in heading_of(document)[:SHOWN]) or "nothing"
        return UserError(f"{path}: text of no known format, with columns {heading}", advice=UNKNOWN)
    return UserError(f"{path}: not UTF-8 text, and no known format", advice=UNKNOWN)
