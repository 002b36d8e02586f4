"""`moe-watch memory`: predict the memory of a model, and whether it fits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from moe_watch.commands.options import chosen_model, engine_options, engine_options_of, model_choice, require
from moe_watch.commands.output import complain, print_result, say
from moe_watch.commands.tables import table_lines
from moe_watch.routing.errors import UserError

if TYPE_CHECKING:
    from moe_watch.backends.memory.available import AvailableMemory
    from moe_watch.backends.memory.report import OtherQuantization
    from moe_watch.backends.memory.results import MemoryReport, PublishedMemoryReport, SettingResult
    from moe_watch.backends.model_files.catalog import ModelLocation
    from moe_watch.backends.protocol import EngineOptions

NOT_FINE = 1

SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]i?B?|B?)", re.IGNORECASE)
POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
LEAST_SIZE = 1_000_000
"""Bytes: no run needs less. A smaller size is a number whose unit was forgotten, such as `18`."""
SHORTEST_CONTEXT = 512
"""Tokens of the shortest context that is advised for a published model."""

OPTIONAL = frozenset({"mapped", "repacked", "loading", "address space"})
"""Rows that are left out if they are 0."""

EPILOG = """
\b
Exit status: 0 it fits, 1 it does not, 2 the model cannot be used.
How each number is computed, and its accuracy: docs/memory.md.
"""


@click.command(epilog=EPILOG)
@model_choice
@click.option(
    "--for", "published", metavar="NAME", help="Answer for a published model, without a file; `list` lists them."
)
@click.option(
    "--memory",
    metavar="SIZE",
    help="Compare with this memory, e.g. 18GB, instead of this machine's available memory.",
)
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def memory(
    model: str | None,
    model_option: str | None,
    published: str | None,
    memory: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Predict the memory of a run of MODEL: weights, KV cache, compute buffers, and the memory that is available.

    The engine computes the sizes without reading the weights. Settings that change them are listed, with one
    recommended command line.
    """
    backend = options.pop("backend")
    engine = engine_options_of(options)
    available = _available(memory)
    if published is not None:
        require(model is None and model_option is None, "--for and MODEL both given", "keep one of them")
        _published(published, available, engine, as_json=as_json)
        return
    report = _report(chosen_model(model, model_option), backend, engine, available)
    if as_json:
        print_result(report)
    else:
        _print(report)
    if not report.fits:
        raise click.exceptions.Exit(NOT_FINE)


def _available(given: str | None) -> AvailableMemory:
    from moe_watch.backends.memory.available import available_memory
    from moe_watch.vitals.cgroup import group_memory

    found = available_memory(group_memory)
    if given is None:
        return found
    size = size_of(given)
    return replace(found, bytes=size, total=size, limit="given", counts_mapped_files=False) if size else found


def size_of(text: str) -> int:
    """Return a size such as `18GB`, `16GiB` or `500M` in bytes. GB is 10⁹, GiB 2³⁰.

    Raises:
        UserError: it is no size.
    """
    matched = SIZE.fullmatch(text.strip())
    if matched is None:
        raise UserError(f"--memory is {text!r}", advice="give a size, for example 18GB or 16GiB")
    unit = matched["unit"].upper().removesuffix("B")
    base = 1024 if unit.endswith("I") else 1000
    size = int(float(matched["number"]) * base ** POWERS[unit.removesuffix("I")])
    require(size >= LEAST_SIZE, f"--memory is {text!r}, {size:,} bytes", "give a size with its unit, for example 18GB")
    return size


def _report(model: str, backend: str, options: EngineOptions, available: AvailableMemory) -> MemoryReport:
    from moe_watch.backends.memory.report import memory_report
    from moe_watch.backends.model_files.catalog import choose_backend, locate
    from moe_watch.backends.model_files.preflight import preflight
    from moe_watch.sessions.user_settings import read_user_settings

    location = locate(model, backend)
    engine = choose_backend(backend, location)
    if location.path is None:
        raise UserError(
            f"{model} is not on this machine", advice="download it first, or use --for NAME for a published model"
        )
    preflight(location)
    folders = read_user_settings().models.folders
    return memory_report(
        model, location, engine, options, available, backend=backend, others=lambda: _others(location, folders)
    )


def _others(location: ModelLocation, folders: Sequence[str]) -> list[OtherQuantization]:
    from moe_watch.backends.discovery.alternatives import LONGEST_SEARCH, other_quantizations
    from moe_watch.backends.discovery.places import search_places

    found, in_time = other_quantizations(location, search_places(folders))
    if not in_time:
        complain(f"other quantizations were searched for {LONGEST_SEARCH:g} s: not all places were searched")
    return found


# -- text


def _print(report: MemoryReport) -> None:

    for line in _sizes(report):
        say(line)
    rows = [_row(report, each) for each in report.settings]
    if rows:
        say("")
        for line in table_lines([["SETTING", "TOTAL", "FITS", ""], *rows], right=(1,)):
            say(line)
    say("")
    say(_advice(report))
    for note in report.notes:
        complain(note)


def _row(report: MemoryReport, setting: SettingResult) -> list[str]:
    from moe_watch.tui.text.format import NOT_AVAILABLE, size

    total = NOT_AVAILABLE if setting.total_bytes is None else size(setting.total_bytes)
    note = setting.note if setting.model == report.model else f"{setting.note}: {setting.model}"
    return [
        setting.arguments or "(defaults)",
        total,
        _fits(setting.fits) if setting.total_bytes is not None else NOT_AVAILABLE,
        note,
    ]


def _sizes(report: MemoryReport) -> list[str]:
    from moe_watch.backends.memory.available import LIMIT_WORDS
    from moe_watch.tui.text.format import size

    experts = f"experts {size(report.expert_bytes)}" if report.expert_bytes else ""
    other = "" if not experts or report.non_expert_bytes is None else f", other {size(report.non_expert_bytes)}"
    rows = [
        ["weights", size(report.weights_bytes), experts + other],
        ["  mapped", size(report.mapped_bytes), "pages of the file, which the system can evict"],
        ["  repacked", size(report.repacked_bytes), "copies in the CPU's own layout"],
        [
            "KV cache",
            size(report.kv_bytes),
            f"{report.context:,} tokens" + (f", {report.kv_type}" if report.kv_type else ""),
        ],
        ["compute buffers", size(report.compute_bytes), ""],
        ["runtime", size(report.runtime_bytes), "engine, tokenizer, tap, dashboard"],
        ["loading", size(report.loading_bytes), "largest moment while the weights are read"],
        ["total", size(report.total_bytes), f"{size(report.required_bytes)} of it cannot be evicted"],
        [
            "address space",
            size(report.address_space_bytes if report.limit == "ulimit -v" else 0),
            "of the model's process",
        ],
        ["available", size(report.available_bytes), LIMIT_WORDS[report.limit]],
    ]
    shown = [row for row in rows if row[0].strip() not in OPTIONAL or row[1] != size(0)]
    devices = [
        f"{name}: {size(each.total_bytes)} of {size(each.free_bytes)} free"
        for name, each in report.by_device.items()
        if each.free_bytes is not None
    ]
    answer = "it fits" if report.fits else "it does not fit"
    return [f"{report.model} with {report.engine}: {answer}", "", *table_lines(shown, right=(1,)), *devices]


def _fits(fits: bool) -> str:
    return "yes" if fits else "no"


def _advice(report: MemoryReport) -> str:
    from moe_watch.tui.text.format import size

    if report.recommendation is not None:
        return f"recommended: {report.recommendation.command}"
    beyond = report.smallest_bytes - report.available_bytes
    if beyond <= 0:
        return "nothing fits: the memory of a device is too small"
    return f"nothing fits: the smallest setting needs {size(report.smallest_bytes)}, {size(beyond)} more than there is"


# -- published models


def _published(name: str, available: AvailableMemory, options: EngineOptions, *, as_json: bool) -> None:
    from moe_watch.backends.memory.published import published_report
    from moe_watch.backends.memory.published_shapes import PUBLISHED

    if name == "list":
        rows = [
            [key, each.title, f"{each.parameters / 1e9:.1f} B", f"{each.active_parameters / 1e9:.1f} B"]
            for key, each in PUBLISHED.items()
        ]
        for line in table_lines([["NAME", "MODEL", "PARAMETERS", "ACTIVE"], *rows], right=(2, 3)):
            say(line)
        return
    report = published_report(name, available, options.context)
    if as_json:
        print_result(report)
    else:
        _print_published(report)
    if not report.fits:
        raise click.exceptions.Exit(NOT_FINE)


def _print_published(report: PublishedMemoryReport) -> None:
    from moe_watch.backends.memory.available import LIMIT_WORDS
    from moe_watch.tui.text.format import size

    parameters = f"{report.parameters / 1e9:.1f} B parameters, {report.active_parameters / 1e9:.1f} B active"
    experts = f"{report.moe_layers} of {report.layers} layers with {report.experts} experts"
    say(f"{report.title}: {parameters}; {experts}, top-{report.experts_per_token}")
    say(f"KV cache {size(report.kv_bytes)} for {report.context:,} tokens, other {size(report.overhead_bytes)}")
    say(f"available {size(report.available_bytes)}, {LIMIT_WORDS[report.limit]}")
    say("")
    rows = [
        [each.format, size(each.weights_bytes), size(each.total_bytes), _fits(each.fits)] for each in report.formats
    ]
    for line in table_lines([["FORMAT", "WEIGHTS", "TOTAL", "FITS"], *rows], right=(1, 2)):
        say(line)
    say("")
    rows = [
        [f"{each.experts} of {report.experts}", size(each.weights_bytes), size(each.total_bytes), _fits(each.fits)]
        for each in report.resident
    ]
    say("MLX 4-bit with some experts resident, for engines that load experts on demand (moe-watch keeps all):")
    for line in table_lines([["EXPERTS RESIDENT", "WEIGHTS", "TOTAL", "FITS"], *rows], right=(1, 2)):
        say(line)
    say("")
    say(_published_advice(report))


def _published_advice(report: PublishedMemoryReport) -> str:
    """Return the format to use; without one, the missing bytes and a shorter context that fits."""
    from moe_watch.tui.text.format import size

    if report.recommendation is not None:
        return f"largest format that fits: {report.recommendation}"
    smallest = min(report.formats, key=lambda each: each.total_bytes)
    beyond = smallest.total_bytes - report.available_bytes
    missing = f"nothing fits: {smallest.format} takes {size(smallest.total_bytes)}, {size(beyond)} more than there is"
    shorter = _shorter_context(report, beyond)
    return missing if shorter is None else f"{missing}; it fits with --context {shorter}"


def _shorter_context(report: PublishedMemoryReport, beyond: int) -> int | None:
    """Return a context whose cache is smaller by that many bytes, or None if none of at least 512 tokens is."""
    from moe_watch.backends.memory.published_shapes import PUBLISHED

    shape, tokens = PUBLISHED[report.name], report.context // 2
    while tokens >= SHORTEST_CONTEXT:
        if report.kv_bytes - shape.kv_bytes(tokens) >= beyond:
            return tokens
        tokens //= 2
    return None
