"""`moe-watch import`: routing that another program recorded, as a session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from commands.options import COUNT, checked_output, recording_options, require
from commands.output import complain, say

if TYPE_CHECKING:
    from sessions.imports.importing import Imported
    from sessions.imports.traces import ImportOptions

EPILOG = """
\b
sglang   expert distribution dump: logical_count or records,
         as .pt, .npz, .npy or JSON
vllm     routed experts: a response as JSON,
         or .npy, .npz of [tokens, layers, top-k]
imatrix  llama.cpp's importance matrix as GGUF
csv      token,layer,expert_1,expert_2,…,
         also the routing table of `moe-watch export`
What each of them lacks: docs/data.md.
"""


@click.command("import", short_help="Make a session of another program's trace.", epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "form",
    type=click.Choice(["sglang", "vllm", "imatrix", "csv"]),
    help="Format; told by the file if not given.",
)
@click.option("--name", metavar="NAME", help="What the model is called.")
@click.option("--experts", type=COUNT, metavar="N", help="Experts of a layer, where the file does not tell.")
@click.option("--experts-per-token", type=COUNT, metavar="N", help="Experts of a token, where the file does not tell.")
@click.option("--layers", metavar="LIST", help="The model's own index of each layer in the file, like 1-26.")
@click.option("--prompt-tokens", type=COUNT, metavar="N", help="So many tokens at the beginning are the prompt's.")
@click.option("--phase", type=click.Choice(["prefill", "decode"]), help="Of counts that do not tell.")
@click.option("--choice", type=COUNT, default=0, show_default=True, metavar="N", help="Which answer of a response.")
@click.option(
    "--dtype",
    type=click.Choice(["uint8", "int16", "uint16", "int32", "int64"]),
    default="int16",
    show_default=True,
    help="Of expert ids in bare base64.",
)
@recording_options
@click.option("--json", "as_json", is_flag=True, help="Print what was imported as one JSON object.")
def import_(
    file: Path,
    form: Literal["sglang", "vllm", "imatrix", "csv"] | None,
    dtype: str,
    output: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Make a session of FILE, which another program recorded, to be replayed, compared and exported like any other.

    What the file does not hold stays absent in the session, and panels say so. A file of PyTorch is loaded safely, and
    only where PyTorch is installed.
    """
    from sessions.imports.importing import import_trace

    imported = import_trace(
        file, _options(**options), form=form, dtype=dtype, output=checked_output(output), force=force
    )
    if as_json:
        click.echo(json.dumps(_result(imported), allow_nan=False))
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
    choice: int,
    phase: Literal["prefill", "decode"] | None,
    **numbers: int | None,
) -> ImportOptions:
    from sessions.imports.traces import ImportOptions, parse_layers

    for option, value in numbers.items():
        least = 0 if option == "prompt_tokens" else 1
        named = f"--{option.replace('_', '-')}"
        require(value is None or value >= least, f"{named} is {value}", f"use {least} or more")
    require(choice >= 0, f"--choice is {choice}", "use 0 or more")
    parsed = None if layers is None else parse_layers(layers)
    return ImportOptions(model=name, layers=parsed, choice=choice, phase=phase, **numbers)


def _tokens(imported: Imported) -> int:
    from sessions.imports.traces import RoutedTrace

    return len(imported.trace.experts) if isinstance(imported.trace, RoutedTrace) else 0


def _amount(imported: Imported) -> str:
    from sessions.imports.traces import RoutedTrace

    if isinstance(imported.trace, RoutedTrace):
        return f"{_tokens(imported):,} tokens"
    return f"counts over {int(imported.trace.rows.max()):,} tokens, and no tokens"


def _result(imported: Imported) -> dict[str, Any]:
    trace = imported.trace
    return {
        "path": str(imported.path),
        "engine": trace.engine,
        "what": trace.what,
        "layers": trace.shape.layers,
        "experts": trace.shape.experts,
        "experts_per_token": trace.shape.experts_per_token,
        "tokens": _tokens(imported),
        "warnings": trace.warnings,
    }
