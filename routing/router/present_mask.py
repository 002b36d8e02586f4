"""Mask of a run at one position, followed through its events."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import UNSET

from moe_watch.routing.events import Change, Header, Keyframe, StreamItem
from moe_watch.routing.router.masks import ExpertMask


@dataclass(frozen=True, slots=True)
class PresentMask:
    """Experts that are off now. Immutable: an event gives a new object."""

    mask: ExpertMask = field(default_factory=ExpertMask)
    since: int | None = None
    """Index of the first token with this mask; None without a change so far, or if it came before the recording."""

    def after(self, item: StreamItem) -> PresentMask:
        """Return the mask after the next event; most events leave it as it is."""
        if isinstance(item, Change):
            return self if item.mask is UNSET else PresentMask(ExpertMask.from_rows(item.mask), item.i)
        if isinstance(item, Keyframe):
            found = keyframe_mask(item)
            return self if found == self.mask else PresentMask(found)
        return PresentMask() if isinstance(item, Header) else self


def keyframe_mask(frame: Keyframe) -> ExpertMask:
    """Return the mask of a keyframe; empty if it has none."""
    return ExpertMask() if frame.mask is UNSET else ExpertMask.from_rows(frame.mask)
