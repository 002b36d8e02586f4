"""Result of `check --show-prompt`: a prompt as a model is sent it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class ShownPrompt(Struct, frozen=True, kw_only=True):
    """Prompt as a model is sent it."""

    text: Annotated[str, Meta(description="Whole text, special tokens as they are written.")]
    ids: Annotated[list[int], Meta(description="Token ids.")]
    special: Annotated[list[int], Meta(description="Positions in `ids` of special and added tokens, from 0.")]
    template: Annotated[
        str | None,
        Meta(description="Origin of the chat template: `model`, `library`, or `file`; null for a raw prompt."),
    ]
    template_file: Annotated[str | None, Meta(description="Name of the template's file; null if it has none.")]
    template_sha256: Annotated[str | None, Meta(description="SHA-256 of the template's text; null if unknown.")]
    warnings: Annotated[list[str], Meta(description="Faults of the format, one line each.")]
