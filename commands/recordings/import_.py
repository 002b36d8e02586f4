"""`moe-watch import`: routing that another program recorded, as a session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from moe_watch.commands.options import COUNT, checked_output, recording_options, require
from moe_watch.commands.output import complain, print_result, say

if TYPE_CHECKING:
    from moe_watch.sessions.imports.importer import Imported
    from moe_watch.sessions.imports.traces import ImportOptions
    from moe_watch.sessions.results import ImportReport

LEAST_1 = ("experts", "experts_per_token")
"""Options of which 0 is impossible."""
EPILOG = """
Formats are recognised by what is in a file. For --from:

\b
sglang, sglang-response, vllm, verifiers
megatron, moe-trace, moe-vis, atlas, profile
tensorrt-llm, imatrix, coli-usage, coli-trace
csv, bigmoeonedge, layer-expert, layer-expert-count

What each of them holds and lacks: docs/data.md.
"""


@click.command("import", short_help="Make a session of another program's trace.", epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--from", "form", metavar="FORMAT", help="Format, where the file does not tell: arrays and bare lists.")
@click.option("--name", metavar="NAME", help="Name of the model.")
@click.option("--experts", type=COUNT, metavar="N", help="Experts per layer, where the file does not tell.")
@click.option("--experts-per-token", type=COUNT, metavar="N", help="Experts per token, where the file does not tell.")
@click.option("--layers", metavar="LIST", help="The model's own index of each layer in the file, like 1-26.")
@click.option("--prompt-tokens", type=COUNT, metavar="N", help="Number of tokens at the beginning that are the prompt.")
@click.option("--phase", type=click.Choice(["prefill", "decode"]), help="Of counts that do not tell.")
@click.option("--run", type=COUNT, metavar="N", help="Which run, of a file with several answers, turns or prompts.")
@click.option("--choice", type=COUNT, default=0, show_default=True, metavar="N", help="Which choice of a response.")
@click.option("--start", type=COUNT, metavar="N", help="Tokens before the first row, where the file does not tell.")
@click.option(
    "--dtype",
    type=click.Choice(["uint8", "int16", "uint16", "int32", "int64"]),
    help="Of expert ids in bare base64, where neither file nor format tells.",
)
@recording_options
@click.option("--json", "as_json", is_flag=True, help="Print what was imported as one JSON object.")
def import_(file: Path, form: str | None, output: Path | None, force: bool, as_json: bool, **options: Any) -> None:
    """Make a session of FILE, which another program recorded, to be replayed, compared and exported like any other.

    What the file does not hold stays absent in the session, and panels say so. A file of PyTorch is loaded safely, and
    only where PyTorch is installed.
    """
    from moe_watch.sessions.imports.importer import import_trace

    imported = import_trace(file, _options(**options), form=form, output=checked_output(output), force=force)
    if as_json:
        print_result(_report(imported))
        return
    for warning in imported.trace.warnings:
        complain(warning)
    shape = imported.trace.shape
    routers = f"{len(shape.layers)} layers × {shape.experts} experts, top-{shape.experts_per_token}"
    say(f"{imported.trace.what}: {routers}, {_amount(imported)}")
    say(f"recorded to {imported.path}")


def _options(
    *,
    name: str | None,
    layers: str | None,
    dtype: str | None,
    phase: Literal["prefill", "decode"] | None,
    **numbers: Any,
) -> ImportOptions:
    from moe_watch.sessions.imports.traces import ImportOptions, parse_layers

    for option, value in numbers.items():
        least = 1 if option in LEAST_1 else 0
        named = f"--{option.replace('_', '-')}"
        require(value is None or value >= least, f"{named} is {value}", f"use {least} or more")
    parsed = None if layers is None else parse_layers(layers)
    return ImportOptions(model=name, layers=parsed, phase=phase, dtype=dtype, **numbers)


def _tokens(imported: Imported) -> int:
    from moe_watch.sessions.imports.traces import RoutedTrace

    return len(imported.trace.experts) if isinstance(imported.trace, RoutedTrace) else 0


def _amount(imported: Imported) -> str:
    from moe_watch.sessions.imports.traces import RoutedTrace

    if isinstance(imported.trace, RoutedTrace):
        return f"{_tokens(imported):,} tokens"
    return f"counts over {int(imported.trace.rows.max()):,} tokens, and no tokens"


def _report(imported: Imported) -> ImportReport:
    from moe_watch.sessions.results import ImportReport

    trace = imported.trace
    return ImportReport(
        path=str(imported.path),
        engine=trace.engine,
        what=trace.what,
        layers=trace.shape.layers,
        experts=trace.shape.experts,
        experts_per_token=trace.shape.experts_per_token,
        tokens=_tokens(imported),
        warnings=trace.warnings,
    )
