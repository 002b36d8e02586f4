"""Settings of a run that the user may change while it runs: tap, multistep, sampling, mask."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from msgspec import UNSET

from moe_watch.routing.events import Change, Sampling
from moe_watch.routing.router.present_mask import PresentMask
from moe_watch.tui.text.format import count


@dataclass(frozen=True, slots=True)
class CurrentSettings:
    """Settings that are in effect now. Immutable: a change gives a new object."""

    tap_off_at: int | None = None
    """Index of the first token whose routing is not observed; None while the tap is on."""
    multistep: bool = False
    """The run pauses after every chunk."""
    sampling: Sampling | None = None
    """Settings of the sampler."""
    masked: PresentMask = field(default_factory=PresentMask)
    """Experts that are off, and the first token without them."""

    def changed(self, change: Change) -> CurrentSettings:
        """Return the settings after a change."""
        found = replace(self, masked=self.masked.after(change))
        if change.tap is not None:
            found = replace(found, tap_off_at=None if change.tap else change.i)
        if change.multistep is not None:
            found = replace(found, multistep=change.multistep)
        return found if change.sampling is None else replace(found, sampling=change.sampling)

    @property
    def tap_off_text(self) -> str:
        """Message that routing is not observed, and since when; empty while the tap is on."""
        return "" if self.tap_off_at is None else f"tap off since token {count(self.tap_off_at)}"


def sampling_text(sampling: Sampling) -> str:
    """Return the sampler's settings in words."""
    top_k = f", top-k {sampling.top_k}" if sampling.top_k else ""
    return f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}{top_k}"


def change_labels(change: Change) -> list[str]:
    """Return one label per changed setting, except the mask: `tap off`, `multistep on`, the sampler's settings."""
    switched = {"tap": change.tap, "multistep": change.multistep}
    found = [f"{name} {'on' if on else 'off'}" for name, on in switched.items() if on is not None]
    if change.experts_per_token is not UNSET:
        found.append(f"{change.experts_per_token} experts per token")
    return found if change.sampling is None else [*found, sampling_text(change.sampling)]
