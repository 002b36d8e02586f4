"""Results of `import` and `export`: files made from other files."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class ImportReport(Struct, frozen=True, kw_only=True):
    """Session made from another program's trace."""

    path: Annotated[str, Meta(description="Path of the session.")]
    engine: Annotated[str, Meta(description="Program that wrote the trace.")]
    what: Annotated[str, Meta(description="Trace format in words.")]
    layers: Annotated[list[int], Meta(description="Index of each MoE layer in the model.")]
    experts: Annotated[int, Meta(description="Routed experts of a layer.")]
    experts_per_token: Annotated[
        int | list[int],
        Meta(description="Experts that a layer selects for a token; a list, one per MoE layer, where layers differ."),
    ]
    tokens: Annotated[int, Meta(description="Number of tokens; 0 for counts without tokens.")]
    warnings: Annotated[list[str], Meta(description="What the trace lacks, one line each.")]


class ExportReport(Struct, frozen=True, kw_only=True):
    """Files written from a session."""

    output: Annotated[str, Meta(description="Path of the folder, or of the one file.")]
    format: Annotated[str, Meta(description="Format, as given with `--to`.")]
    rows: Annotated[dict[str, int], Meta(description="Rows of each table by its name.")]
    warnings: Annotated[list[str], Meta(description="What the tables lack, one line each.")]
