"""`moe-watch models`: list the models on this machine."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from moe_watch.commands.output import print_result, say
from moe_watch.commands.tables import table_lines
from moe_watch.routing.errors import UserError

if TYPE_CHECKING:
    from moe_watch.backends.discovery.results import ListedModel, ModelList

PIPE_WIDTH = 200
"""Width in cells if standard output is no terminal."""
WIDE = 110
"""Smallest width in cells at which all columns are shown."""
SHORT_NAME = 1_000
"""Cells of a name. Names are shown in full, so that they can be copied; file systems allow 4,096 bytes."""


class ListColumn(NamedTuple):
    """ListColumn of the list."""

    heading: str
    cell: Callable[[ListedModel], str]
    is_right: bool = False
    is_wide: bool = False
    """The column is left out on narrow terminals."""


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[FOLDER]...")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def models(folders: tuple[Path, ...], as_json: bool) -> None:
    """List the models on this machine: layers × experts, experts per token, size, and whether each fits now.

    Searched are the caches of Hugging Face, llama.cpp, Ollama and LM Studio, the folders in the settings, and FOLDERs
    with everything below them. Only headers and metadata are read. NAME is what other commands take as MODEL.
    """
    from moe_watch.backends.discovery.finder import find_models
    from moe_watch.backends.discovery.places import search_places
    from moe_watch.backends.memory.available import available_memory
    from moe_watch.sessions.library.cache import LibraryCache
    from moe_watch.sessions.user_settings import read_user_settings
    from moe_watch.vitals.cgroup import group_memory

    for folder in folders:
        if not folder.expanduser().is_dir():
            raise UserError(f"{folder}: no such folder", advice="give a folder with models")
    places = search_places(read_user_settings().models.folders, [folder.absolute() for folder in folders])
    with _progress() as report:
        found = find_models(places, LibraryCache.of_models(), available_memory(group_memory).bytes, report)
    if as_json:
        print_result(found)
        return
    for line in _lines(found, shutil.get_terminal_size((PIPE_WIDTH, 24)).columns):
        say(line)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows the progress in one line on standard error, if that is a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _done, _total: None
        return
    with console.status("searching for models") as status:
        yield lambda done, total: status.update(f"reading headers: {done} of {total} models")


def _lines(found: ModelList, width: int) -> Iterator[str]:
    """Yield the lines of the list."""
    from moe_watch.tui.text.format import size

    usable = [model for model in found.models if model.problem is None]
    broken = [model for model in found.models if model.problem is not None]
    yield from _table(usable, [column for column in COLUMNS if width >= WIDE or not column.is_wide])
    if broken:
        yield from ("", "cannot be used:")
        yield from (f"  {_name(model)}: {_reason(model)}" for model in broken)
    yield ""
    yield from _counts(found, usable)
    yield f"FITS: an estimate against the {size(found.available_bytes)} available now; more: `moe-watch memory NAME`"
    yield from _missing_engines(usable)
    yield "watch one: `moe-watch watch NAME`"


def _table(models: Sequence[ListedModel], columns: Sequence[ListColumn]) -> list[str]:
    rows = [[column.heading for column in columns], *([column.cell(model) for column in columns] for model in models)]
    return table_lines(rows, right=[at for at, column in enumerate(columns) if column.is_right])


def _counts(found: ModelList, usable: Sequence[ListedModel]) -> Iterator[str]:
    """Yield the number of models by place, and what was left out."""
    from moe_watch.sessions.text import plural

    searched = [place for place in found.searched if place.exists]
    where = [f"{place.models} in {_home(place.folder)} ({place.place})" for place in searched if place.models]
    if where:
        yield f"found {', '.join(map(_safe, where))}"
    if not [model for model in usable if model.place != "built in"]:
        absent = [_home(place.folder) for place in found.searched if not place.exists]
        empty = [_home(place.folder) for place in searched if not place.models]
        yield from _where("no models in", empty)
        yield from _where("no such folder:", absent)
        yield "further folders: `moe-watch models FOLDER`"
    for kind, number in Counter(other.kind for other in found.others).items():
        yield f"left out: {plural(number, 'file')}, {_safe(kind)}"
    yield from (f"not searched: {_safe(note)}" for note in found.notes)


def _where(words: str, folders: Sequence[str]) -> Iterator[str]:
    if folders:
        yield f"{words} {', '.join(map(_safe, dict.fromkeys(folders)))}"


def _missing_engines(models: Sequence[ListedModel]) -> Iterator[str]:
    from moe_watch.backends.model_files.catalog import ENGINES
    from moe_watch.backends.optional_packages import install_command

    for engine in sorted({model.engine for model in models if model.engine and not model.installed}):
        yield f"{engine} is not installed: run `{install_command(ENGINES[engine].extra)}`"


# -- cells


def _size(model: ListedModel) -> str:
    from moe_watch.tui.text.format import size

    return size(model.bytes)


def _experts(model: ListedModel) -> str:
    """Return MoE layers × experts; of a dense model its layers, of a pruned one also the experts before."""
    if model.experts == 0:
        return "dense"
    before = "" if model.whole_experts is None else f" of {model.whole_experts}"
    return f"{_number(model.layers)} × {_number(model.experts)}{before}"


def _top(model: ListedModel) -> str:
    used = model.experts_per_token
    if isinstance(used, list):
        return f"{min(used)}–{max(used)}"
    return "–" if used == 0 else _number(used)


def _number(value: int | None) -> str:
    return "n/a" if value is None else str(value)


def _quantization(model: ListedModel) -> str:
    """Return the type with the largest share, or the bits of an MLX quantization."""
    return _safe((model.quantization or "n/a").split(",")[0], 14)


def _fits(model: ListedModel) -> str:
    return {True: "yes", False: "no", None: "n/a"}[model.fits]


def _template(model: ListedModel) -> str:
    return {True: "chat", False: "none", None: "n/a"}[model.template]


def _engine(model: ListedModel) -> str:
    return (model.engine or "n/a") + ("" if model.installed else " (missing)")


def _architecture(model: ListedModel) -> str:
    return _safe(model.architecture or "n/a", 16)


def _name(model: ListedModel) -> str:
    return _safe(_home(model.name))


def _reason(model: ListedModel) -> str:
    """Return the problem without the name that it begins with."""
    problem = model.problem or ""
    for name in (model.name, Path(model.name).name):
        problem = problem.removeprefix(f"{name} ")
    return _safe(problem)


def _home(path: str) -> str:
    """Return a path with `~` for the home directory, which shells and moe-watch expand."""
    home = str(Path("~").expanduser())
    return f"~{path.removeprefix(home)}" if path.startswith(f"{home}/") else path


def _safe(text: str, limit: int = SHORT_NAME) -> str:
    from moe_watch.tui.text.sanitize import one_line

    return one_line(text, limit)


COLUMNS = (
    ListColumn("SIZE", _size, is_right=True),
    ListColumn("EXPERTS", _experts, is_right=True),
    ListColumn("TOP", _top, is_right=True),
    ListColumn("QUANTIZATION", _quantization),
    ListColumn("FITS", _fits),
    ListColumn("TEMPLATE", _template, is_wide=True),
    ListColumn("ENGINE", _engine, is_wide=True),
    ListColumn("ARCHITECTURE", _architecture, is_wide=True),
    ListColumn("NAME", _name),
)
