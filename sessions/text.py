"""Conversion of untrusted text for files, pipes and pages, and phrases for messages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moe_watch.routing.events import ModelInfo
    from moe_watch.routing.results import MaskResult
    from moe_watch.routing.router.masks import ExpertMask

UNKNOWN = "unknown"
"""Value of a required header field that an imported trace does not have."""

_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>#|!&~]")


def whole_text(text: str) -> str:
    """Return the text with U+FFFD for lone surrogates, which a command line can contain and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def markdown_text(text: str) -> str:
    """Return one line of Markdown that renders as `text`: markup is escaped, and hidden characters show their code."""
    shown = "".join(each if each.isprintable() else f"⟨{ord(each):04X}⟩" for each in text)
    return _MARKDOWN.sub(r"\\\g<0>", shown)


def plural(number_of: int, noun: str) -> str:
    """Return a count with its noun: `1 token`, `1,200 tokens`."""
    return f"{number_of:,} {noun}{'' if number_of == 1 else 's'}"


def top_k_text(experts_per_token: int | list[int]) -> str:
    """Return `top-8`, or `top-4 to 8 by layer` if layers differ."""
    if isinstance(experts_per_token, list) and len(set(experts_per_token)) > 1:
        return f"top-{min(experts_per_token)} to {max(experts_per_token)} by layer"
    k = experts_per_token[0] if isinstance(experts_per_token, list) and experts_per_token else experts_per_token
    return f"top-{k}"


def routers_text(layers: int, experts: int, experts_per_token: int | list[int]) -> str:
    """Return a model's routers, such as `4 layers × 32 experts, top-4`; `dense, no MoE layers` without any."""
    if not layers:
        return "dense, no MoE layers"
    return f"{layers} layers × {experts} experts, {top_k_text(experts_per_token)}"


PRUNED = "experts have the numbers of the pruned model; their original numbers are in model.expert_ids of the session"
"""Note of a session of a pruned model."""

MASK_SHOWN = 12
"""Experts of a mask that a text names."""


def mask_text(mask: ExpertMask) -> str:
    """Return the experts of a mask, such as `0:3, 5:1 and 4 more`; `none` without any."""
    pairs = [f"{layer}:{expert}" for layer, expert in mask.pairs]
    more = len(pairs) - MASK_SHOWN
    named = pairs if more <= 1 else pairs[:MASK_SHOWN]
    return (", ".join(named) or "none") + ("" if more <= 1 else f" and {more:,} more")


def masks_text(masks: Sequence[MaskResult]) -> str:
    """Return the changes of a mask, such as `0:3 from token 0, none from token 40`; empty without any."""
    from moe_watch.routing.router.masks import ExpertMask

    return "; ".join(f"{mask_text(ExpertMask.from_rows(each.mask))} from token {each.i:,}" for each in masks)


def weights_text(model: ModelInfo) -> str:
    """Return a model's quantization in words. Every engine reports it; the trace of another program does not."""
    return "quantization not known" if model.architecture == UNKNOWN else model.quantization or "not quantized"
