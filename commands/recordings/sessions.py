"""`moe-watch sessions`: list, show, rename and delete sessions."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moe_watch.commands.output import print_result, say
from moe_watch.commands.tables import table_lines
from moe_watch.routing.errors import UserError

if TYPE_CHECKING:
    from moe_watch.sessions.library.listing import Entry, Preview
    from moe_watch.sessions.library.scanning import Facts
    from moe_watch.sessions.results.recordings import RecordingPreview, RecordingResult

NAME_WIDTH = 40
MODEL_WIDTH = 28
WORDS_WIDTH = 44

folder_option = click.option(
    "--folder", type=click.Path(path_type=Path), help="Folder of the sessions. Default: the data directory."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
yes_option = click.option("-y", "--yes", is_flag=True, help="Delete without a confirmation.")


@click.group(invoke_without_command=True)
@folder_option
@json_option
@click.pass_context
def sessions(context: click.Context, folder: Path | None, as_json: bool) -> None:
    """List recorded sessions, newest first: model, date, tokens, size, half-life and state.

    Half-lives are fitted to the recorded chunks; `moe-watch fit` recomputes them from the tokens. The files of one run
    are listed together, each with the file that continues it.
    """
    context.obj = folder
    if context.invoked_subcommand is not None:
        return

    from moe_watch.sessions.library.listing import list_sessions

    found = list_sessions(folder)
    if as_json:
        from moe_watch.sessions.results.recordings import RecordingList

        print_result(RecordingList(folder=str(_folder(folder)), sessions=[_recording(entry) for entry in found]))
        return
    for line in _listed(found) if found else [f"no sessions in {_folder(folder)}"]:
        say(line)


@sessions.command(short_help="Show one session.")
@click.argument("name")
@json_option
@click.pass_obj
def show(folder: Path | None, name: str, as_json: bool) -> None:
    """Show facts of session NAME and the beginning of its text."""
    from moe_watch.sessions.library.listing import preview

    entry, run = _with_run(name, folder)
    if entry.facts is None:
        raise UserError(entry.problem or f"{entry.path}: cannot be read")
    seen = preview(entry)
    if as_json:
        print_result(_preview(seen))
        return
    for line in _shown(seen, entry.facts, run):
        say(line)


@sessions.command(short_help="Rename a session.")
@click.argument("name")
@click.argument("new_name")
@click.pass_obj
def rename(folder: Path | None, name: str, new_name: str) -> None:
    """Rename session NAME to NEW_NAME. No file is overwritten. The files of a multi-part session keep their names."""
    from moe_watch.sessions.library.housekeeping import rename_session

    entry, run = _with_run(name, folder)
    say(f"{entry.path.name} is now {rename_session(entry.path, new_name, run).name}")


@sessions.command(short_help="Delete sessions.")
@click.argument("names", nargs=-1, required=True)
@yes_option
@click.pass_obj
def delete(folder: Path | None, names: tuple[str, ...], yes: bool) -> None:
    """Delete sessions NAMES after a confirmation. All files of a multi-part session have to be named."""
    from moe_watch.sessions.library.housekeeping import require_whole_runs

    found = [_with_run(name, folder) for name in names]
    doomed = list({entry.path: entry for entry, _ in found}.values())
    require_whole_runs(doomed, [each for _, run in found for each in run])
    _delete(doomed, yes=yes)


@sessions.command(short_help="Delete old sessions.")
@click.option(
    "--keep",
    required=True,
    metavar="AMOUNT",
    help="Amount to keep: 20 (sessions), 30d (also h, w) or 5GB (also KB, MB, TB).",
)
@click.option("--dry-run", is_flag=True, help="Print the sessions that would be deleted, and keep them.")
@yes_option
@click.pass_obj
def prune(folder: Path | None, keep: str, dry_run: bool, yes: bool) -> None:
    """Delete all but the newest sessions, after a confirmation.

    The files of one run are kept or deleted together. A session that may still be recording is kept.
    """
    from moe_watch.sessions.library.housekeeping import to_prune
    from moe_watch.sessions.library.listing import list_sessions

    surplus = to_prune(list_sessions(folder), keep, time.time())
    if not surplus:
        say("nothing to delete")
    elif dry_run:
        for line in [*_listed(surplus), f"would delete {_amount(surplus)}"]:
            say(line)
    else:
        _delete(surplus, yes=yes)


def _with_run(name: str, folder: Path | None) -> tuple[Entry, list[Entry]]:
    """Return the session of a name, and all files of its run.

    Raises:
        UserError: there is no such session, or more than one.
    """
    from moe_watch.sessions.library.listing import entry_of, files_of_run, find_session, list_sessions

    here = click.get_current_context()
    new_name = here.params.get("new_name")
    path = find_session(name, folder, (str(here.info_name), "{}", *([new_name] if new_name else [])))
    entry = entry_of(path)
    return entry, files_of_run(entry, list_sessions(path.parent))


def _delete(entries: Sequence[Entry], *, yes: bool) -> None:
    """Delete files after a confirmation, or without one if `yes`.

    Raises:
        UserError: a confirmation is needed and standard input is no terminal, or a file cannot be deleted.
    """
    from moe_watch.sessions.library.housekeeping import delete_session

    if not yes:
        if not sys.stdin.isatty():
            raise UserError(f"no terminal to confirm the deletion of {_amount(entries)}", advice="add --yes")
        for line in _listed(entries):
            say(line, err=True)
        click.confirm(f"Delete {_amount(entries)}?", abort=True, err=True)
    for entry in entries:
        delete_session(entry)
    say(f"deleted {_amount(entries)}")


def _folder(folder: Path | None) -> Path:
    from moe_watch.sessions.paths import sessions_directory

    return sessions_directory() if folder is None else folder


def _amount(entries: Sequence[Entry]) -> str:
    from moe_watch.sessions.text import plural
    from moe_watch.tui.text.format import size

    return f"{plural(len(entries), 'session')}, {size(sum(entry.size for entry in entries))}"


# -- as text


def _listed(entries: Sequence[Entry]) -> list[str]:
    from moe_watch.sessions.library.listing import in_runs

    heading = ["NAME", "MODEL", "DATE (UTC)", "TOKENS", "SIZE", "HALF-LIFE", "STATE"]
    rows = [heading, *(_row(entry, run) for run in in_runs(entries) for entry in run)]
    return table_lines(rows, right=(3, 4))


def _row(entry: Entry, run: Sequence[Entry]) -> list[str]:
    from moe_watch.tui.text.format import count, size
    from moe_watch.tui.text.sanitize import one_line

    name = one_line(entry.name, NAME_WIDTH)
    facts = entry.facts
    if facts is None:
        return [name, "n/a", "n/a", "n/a", size(entry.size), "n/a", f"unreadable: {one_line(entry.problem, 120)}"]
    return [
        name,
        one_line(facts.model, MODEL_WIDTH),
        one_line(facts.created[:16].replace("T", " "), 16),
        count(facts.tokens),
        size(entry.size),
        one_line(_half_life(facts, run), WORDS_WIDTH),
        _condition(entry, facts, run),
    ]


def _half_life(facts: Facts, run: Sequence[Entry]) -> str:
    """Return the half-life of a file's chunks, if the file has all chunks of its run."""
    if len(run) > 1:
        return f"n/a: in {len(run)} files, `fit` joins them"
    return facts.half_life.words if facts.half_life.verdict else "n/a"


def _condition(entry: Entry, facts: Facts, run: Sequence[Entry]) -> str:
    """Return the condition of a file, and its place among the files of its run."""
    from moe_watch.tui.text.sanitize import one_line

    ending = f" ({one_line(facts.ended, 40)})" if facts.ended else ""
    words = {"whole": f"whole{ending}", "failed": f"failed{ending}", "unfinished": "no end: still recording, or killed"}
    after = run[1 + [each.path for each in run].index(entry.path) :]
    if after:
        words["unfinished"] = f"continues in {one_line(after[0].name, NAME_WIDTH)}"
    return words.get(entry.condition, f"{entry.condition}: {one_line(entry.problem, 80)}") + _first(facts, run)


def _first(facts: Facts, run: Sequence[Entry]) -> str:
    """Return the first file of a continuation file's run, and whether it is missing."""
    from moe_watch.tui.text.sanitize import one_line

    continues = facts.continues
    if continues is None:
        return ""
    there = any(each.path.name == continues for each in run)
    return f", part of {one_line(continues, NAME_WIDTH)}{'' if there else ', which is missing'}"


def _shown(seen: Preview, facts: Facts, run: Sequence[Entry]) -> list[str]:
    from msgspec import UNSET

    from moe_watch.sessions.library.listing import names_of
    from moe_watch.sessions.text import PRUNED, masks_text, routers_text
    from moe_watch.tui.text.format import count, size
    from moe_watch.tui.text.sanitize import one_line
    from moe_watch.tui.text.template_origin import template_in_words

    entry, header = seen.entry, seen.header
    model = header.model
    prompt = one_line(header.prompt, 100)
    return [
        str(entry.path),
        f"model      {model.name}" + (f", {model.quantization}" if model.quantization else ""),
        f"routers    {routers_text(len(model.layers), model.experts, model.experts_per_token)}",
        *([f"off        {masks_text(facts.masks)}"] if facts.masks else []),
        *([f"pruned     {PRUNED}"] if model.expert_ids is not UNSET else []),
        f"engine     {header.backend.name} {header.backend.version}, {header.backend.device}",
        f"begun      {header.created}, seed {header.sampling.seed}",
        f"holds      {count(facts.tokens)} tokens, {count(facts.chunks)} chunks, {size(entry.size)}",
        f"recorded   {', '.join(header.capture) or 'nothing per token'}",
        f"half-life  {facts.half_life.words if len(run) == 1 else _half_life(facts, run)}",
        f"state      {_condition(entry, facts, run)}",
        *([f"run        {names_of(run)}"] if len(run) > 1 else []),
        *(f"warning    {warning}" for warning in header.warnings),
        *(
            [f"template   {template_in_words(header.template_source).removeprefix('template ')}"]
            if header.template_source
            else []
        ),
        *([f"system     {one_line(header.system, 100)}"] if header.system else []),
        f"prompt     {prompt}" if prompt else "prompt     n/a",
        "",
        *(seen.text.splitlines() or ["no text"]),
        *(["…"] if seen.cut else []),
    ]


# -- as JSON


def _recording(entry: Entry) -> RecordingResult:
    from moe_watch.sessions.results.recordings import RecordingResult

    found = RecordingResult(
        condition=entry.condition,
        problem=entry.problem,
        name=entry.name,
        path=str(entry.path),
        run=entry.run,
        bytes=entry.size,
        modified=entry.modified,
    )
    return found if entry.facts is None else _with_facts(found, entry.facts)


def _with_facts(found: RecordingResult, facts: Facts) -> RecordingResult:
    from msgspec import structs

    from moe_watch.sessions.results.recordings import HalfLifeResult

    half_life = facts.half_life
    return structs.replace(
        found,
        model=facts.model,
        quantization=facts.quantization,
        backend=facts.backend,
        created=facts.created,
        layers=facts.layers,
        experts=facts.experts,
        experts_per_token=facts.experts_per_token,
        continues=facts.continues,
        tokens=facts.tokens,
        end=facts.end,
        chunks=facts.chunks,
        ended=facts.ended,
        masks=facts.masks,
        half_life=HalfLifeResult(verdict=half_life.verdict, half_life=half_life.half_life, words=half_life.words),
    )


def _preview(seen: Preview) -> RecordingPreview:
    from msgspec import structs

    from moe_watch.sessions.results.recordings import RecordingPreview

    header, template = seen.header, seen.header.template_source
    return RecordingPreview(
        **structs.asdict(_recording(seen.entry)),
        prompt=header.prompt,
        system=header.system,
        template=None if template is None else template.origin,
        template_file=None if template is None else template.name,
        template_sha256=None if template is None else template.sha256,
        text=seen.text,
        capture=header.capture,
        warnings=header.warnings,
    )
