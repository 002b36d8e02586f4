"""Load of the machine during a timing, and the check that a measured observation cost is not too noisy."""

from __future__ import annotations

import msgspec

from moe_watch.routing.stats.ratios import FEWEST_ROUNDS

FASTEST = 1.02
"""Largest plausible ratio. Observing costs time; only llama.cpp may gain some 1 % of a token, since the tap fetches its
graph's nodes ahead."""

WIDEST = 0.2
"""Largest width of a 95 % interval over its ratio. A wider one cannot separate a cost of 0 from a cost of 10 %."""

BUSIEST = 0.25
"""Largest share of all processors' time for other processes. Beyond it they compete with the measured thread."""


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """Load of the machine beside the timed process. A field that is None has its reason in `unavailable`."""

    cores: int
    """Logical processors."""
    load: float | None = None
    """Mean number of tasks that ran or waited to run, in the last minute of the timing."""
    others: float | None = None
    """Share of all processors' time that other processes used, 0..1."""
    steal: float | None = None
    """Share that the hypervisor gave to other machines, 0..1."""
    unavailable: dict[str, str] = {}


def in_words(noise: Noise) -> str:
    """Return the load as one line of text."""
    load = "n/a" if noise.load is None else f"{noise.load:.2f}"
    return (
        f"load {load} on {noise.cores} {'core' if noise.cores == 1 else 'cores'},"
        f" other processes used {_percent(noise.others)} of the processors,"
        f" steal {_percent(noise.steal)}"
    )


def _percent(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:.0f} %"


def doubt(ratio: float, interval: tuple[float, float] | None, noise: Noise | None = None) -> str | None:
    """Return why a measured observation cost is too noisy; None if it is not.

    Args:
        ratio: speed with the tap over speed without.
        interval: 95 % interval of `ratio`.
        noise: load of the machine during the measurement, if known.
    """
    if interval is None:
        return f"no 95 % interval: that needs at least {FEWEST_ROUNDS} rounds"
    low, high = interval
    if low > FASTEST:
        return f"observing cannot make a model faster, and the ratio is {ratio:.3f} [{low:.3f}, {high:.3f}]"
    if high - low > WIDEST * ratio:
        return f"the 95 % interval is wide, [{low:.3f}, {high:.3f}]"
    return None if noise is None else _busy(noise)


def _busy(noise: Noise) -> str | None:
    taken = (noise.others or 0.0) + (noise.steal or 0.0)
    if taken <= BUSIEST:
        return None
    return f"other processes took {_percent(taken)} of the processors during the measurement"
