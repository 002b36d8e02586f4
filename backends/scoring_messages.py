"""Commands and answers that score given tokens: surprisal, divergence and routing of whole windows."""

from __future__ import annotations

import msgspec

from moe_watch.routing.header import MaskRows

Conversation = list[dict[str, str]]
"""The `role` and the `content` of each message; the same type as `moe_watch.backends.engine.Messages`."""


class Tokenize(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Tokenize texts. Accepted between runs only; the answer is `Tokenized`."""

    texts: list[str | Conversation]
    """Plain texts, and conversations that the chat template formats."""
    plain: bool = False
    """Read special tokens that are written in a plain text as text, as llama.cpp's tools do."""


class Score(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Evaluate one window of given tokens in an empty context, once with each mask. Accepted between runs only.

    The answers are one `Scored` for the whole model, then one for each of `masks`, in order.
    """

    ids: list[int]
    """At least one."""
    window: int
    """Length of the context in tokens; equal for all windows of one measurement, and at least the number of `ids`."""
    base: MaskRows = []
    """Experts that are off in every evaluation, the first one included."""
    masks: list[MaskRows] = []
    """Experts that are off beside the ones in `base`, one evaluation each."""
    surprisal: bool = True
    """Return the surprisal of each token; with `masks` also the divergence from the whole model."""
    usage: bool = False
    """Return the sums of the routing of the first evaluation."""
    saliency: bool = False
    """Also sum the norms of the experts' weighted outputs; needs `usage`."""


class Tokenized(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The answer to `Tokenize`."""

    ids: list[list[int]]
    """Token ids of each text, with the special tokens that begin a text."""
    begin: int | None
    """Token that the tokenizer puts in front of every text; None if it puts none there."""


class UsageSums(msgspec.Struct, frozen=True, kw_only=True):
    """Sums of the routing of one window, per MoE layer."""

    rows: list[int]
    """[L] observed tokens."""
    counts: list[list[int]]
    """[L][E] selections."""
    weights: list[list[float]] | None = None
    """[L][E] sums of router weights, as the model applies them; None if the gate is unknown."""
    norms: list[list[float]] | None = None
    """[L][E] sums of ‖weight · f(x)‖₂ over the tokens that select the expert; None if not requested."""
    entropy: list[float] | None = None
    """[L] sums of router entropy, over ln E; None if the gate is unknown, or with one expert per layer."""


class Scored(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One evaluation of a `Score` command."""

    mask: int
    """Index in `Score.masks`; −1 for the first evaluation."""
    surprisal: bytes = b""
    """[T − 1] 64-bit floats, little-endian: −ln p of each token after the first, in nats."""
    divergence: bytes = b""
    """[T − 1] 64-bit floats: KL(first evaluation ‖ this one) of the prediction of each of these tokens, in nats."""
    usage: UsageSums | None = None
    unused: bool = False
    """Not evaluated: no token of the window selects a masked expert, so that surprisal is unchanged and KL is 0."""
