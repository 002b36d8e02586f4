"""`moe-watch import`: convert another program's trace to a session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from moe_watch.commands.options import COUNT, checked_output, recording_options, require
from moe_watch.commands.output import complain, print_result, say

if TYPE_CHECKING:
    from moe_watch.sessions.imports.importer import Imported
    from moe_watch.sessions.imports.traces import ImportOptions
    from moe_watch.sessions.results.conversion import ImportReport

LEAST_1 = ("experts", "experts_per_token")
"""Options that must be at least 1."""
EPILOG = """
Formats are detected by content. Names for --from:

\b
sglang, sglang-response, vllm, verifiers
megatron, moe-trace, moe-vis, atlas, profile
tensorrt-llm, imatrix, coli-usage, coli-trace
csv, bigmoeonedge, layer-expert, layer-expert-count

Contents of each format, and what it lacks: docs/data.md.
"""


@click.command("import", epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--from", "form", metavar="FORMAT", help="Format, if it cannot be detected: arrays and plain lists.")
@click.option("--name", metavar="NAME", help="Name of the model.")
@click.option("--experts", type=COUNT, metavar="N", help="Experts per layer, if not in the file.")
@click.option("--experts-per-token", type=COUNT, metavar="N", help="Experts per token, if not in the file.")
@click.option("--layers", metavar="LIST", help="Index in the model of each layer in the file, such as 1-26.")
@click.option("--prompt-tokens", type=COUNT, metavar="N", help="Number of prompt tokens, at the start of the trace.")
@click.option("--phase", type=click.Choice(["prefill", "decode"]), help="Phase of counts, if not in the file.")
@click.option(
    "--run", type=COUNT, metavar="N", help="Number of the run, in a file with several responses, turns or prompts."
)
@click.option(
    "--choice",
    type=COUNT,
    default=0,
    show_default=True,
    metavar="N",
    help="Number of the choice, in a response with several.",
)
@click.option("--start", type=COUNT, metavar="N", help="Tokens before the first row, if not in the file.")
@click.option(
    "--dtype",
    type=click.Choice(["uint8", "int16", "uint16", "int32", "int64"]),
    help="Type of expert ids in bare base64, if neither file nor format defines it.",
)
@recording_options
@click.option("--json", "as_json", is_flag=True, help="Print facts of the session as one JSON object.")
def import_(file: Path, form: str | None, output: Path | None, force: bool, as_json: bool, **options: Any) -> None:
    """Convert FILE, another program's trace, to a session that can be replayed, compared and exported like any other.

    Values that the file lacks are absent in the session, and panels show that. A PyTorch file is loaded safely, and
    only if PyTorch is installed.
    """
    from moe_watch.sessions.imports.importer import import_trace
    from moe_watch.sessions.text import plural

    imported = import_trace(file, _options(**options), form=form, output=checked_output(output), force=force)
    if as_json:
        print_result(_report(imported))
        return
    for warning in imported.trace.warnings:
        complain(warning)
    shape = imported.trace.shape
    routers = f"{plural(len(shape.layers), 'layer')} × {plural(shape.experts, 'expert')}, top-{shape.experts_per_token}"
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
    from moe_watch.sessions.text import plural

    if isinstance(imported.trace, RoutedTrace):
        return plural(_tokens(imported), "token")
    return f"counts over {plural(int(imported.trace.rows.max()), 'token')}, and no tokens"


def _report(imported: Imported) -> ImportReport:
    from moe_watch.sessions.results.conversion import ImportReport

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
