"""Result of `perplexity`: one model on a text, and its comparison with another one."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from moe_watch.routing.results import Interval


class PerplexityValue(Struct, frozen=True, kw_only=True):
    """Perplexity of one model on the text."""

    model: Annotated[str, Meta(description="Name of the model.")]
    quantization: Annotated[str | None, Meta(description="Quantization of its weights; null if unknown.")]
    backend: Annotated[str, Meta(description="Name of the engine.")]
    experts_per_token: Annotated[int | list[int], Meta(description="Experts per token that were used; 0 if dense.")]
    ablate: Annotated[
        str | None, Meta(description="Experts that were off, in the notation of --ablate; null if all were on.")
    ]
    perplexity: Annotated[float, Meta(description="exp of the mean surprisal of the scored tokens.")]
    standard_error: Annotated[
        float, Meta(description="Standard error as llama.cpp gives it: tokens are taken as independent.")
    ]
    interval: Annotated[
        Interval | None,
        Meta(description="95 % interval of `perplexity`, by a block bootstrap; null for too few tokens."),
    ]


class PerplexityRatio(Struct, frozen=True, kw_only=True):
    """Comparison of two models, token by token."""

    ratio: Annotated[float, Meta(description="Perplexity of the model over that of the other one.")]
    ratio_interval: Annotated[Interval | None, Meta(description="95 % interval of `ratio`; null for too few tokens.")]
    difference: Annotated[float, Meta(description="Mean difference of surprisal, model less the other one, in nats.")]
    difference_interval: Annotated[
        Interval | None,
        Meta(description="95 % interval of `difference`, by a block bootstrap; null for too few tokens."),
    ]


class PerplexityReport(PerplexityValue, frozen=True, kw_only=True):
    """Perplexity of a model on a text, by llama.cpp's convention."""

    tokens: Annotated[int, Meta(description="Scored tokens: the second half of each window.")]
    context: Annotated[int, Meta(description="Tokens of a window.")]
    windows: Annotated[int, Meta(description="Number of windows.")]
    text: Annotated[str, Meta(description="Name of the text file.")]
    text_tokens: Annotated[int, Meta(description="Tokens of the whole text.")]
    text_sha256: Annotated[str, Meta(description="SHA-256 of the text file.")]
    against: Annotated[PerplexityValue | None, Meta(description="The model of --against; null without one.")]
    paired: Annotated[
        PerplexityRatio | None, Meta(description="Comparison with the model of --against; null without one.")
    ]
