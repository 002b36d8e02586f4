"""Words for masks: experts that are off, and what a change of the mask switches."""

from __future__ import annotations

from collections.abc import Sequence

from moe_watch.routing.router.masks import ExpertMask
from moe_watch.routing.router.present_mask import PresentMask
from moe_watch.sessions.text import plural
from moe_watch.tui.text.format import count

OFF = "×"
"""Sign of a switched-off expert, and of a change of the mask."""
NAMED = 4
"""Experts of one layer that are named one by one."""


def off_text(mask: ExpertMask) -> str:
    """Return the number of experts that are off: `3 experts off`; empty if all are on."""
    return f"{plural(len(mask), 'expert')} off" if mask else ""


def masked_router_text(masked: PresentMask) -> str:
    """Return the statement that numbers are of a masked router, and since when; empty if all experts are on.

    It fits the narrowest panel; the panel of experts has the number of experts that are off.
    """
    if not masked.mask:
        return ""
    since = "" if masked.since is None else f" since token {count(masked.since)}"
    return f"of the masked router{since}"


def mask_change_text(before: ExpertMask, after: ExpertMask) -> str:
    """Return what a change of the mask switches: `layer 3 expert 5 off`, `expert 2 on in 6 layers`."""
    if not after:
        return "all experts on"
    had, has = set(before.pairs), set(after.pairs)
    switched = ((sorted(has - had), "off"), (sorted(had - has), "on"))
    return ", ".join(named_experts(pairs, state) for pairs, state in switched if pairs) or off_text(after)


def named_experts(pairs: Sequence[tuple[int, int]], state: str) -> str:
    """Return what became of these pairs of a model layer index and an expert; `state` is `off` or `on`."""
    layers, experts = {layer for layer, _ in pairs}, {expert for _, expert in pairs}
    if len(layers) == 1 and len(experts) <= NAMED:
        noun = "expert" if len(experts) == 1 else "experts"
        return f"layer {min(layers)} {noun} {', '.join(str(each) for each in sorted(experts))} {state}"
    if len(experts) == 1:
        return f"expert {min(experts)} {state} in {plural(len(layers), 'layer')}"
    where = f" in layer {min(layers)}" if len(layers) == 1 else ""
    return f"{len(pairs)} experts {state}{where}"
