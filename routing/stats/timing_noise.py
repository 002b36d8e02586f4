"""Noise of the machine while something was timed, and what cannot be believed because of it."""

from __future__ import annotations

import msgspec

from moe_watch.routing.stats.ratios import FEWEST_ROUNDS

FASTEST = 1.02
"""Observing costs time. llama.cpp alone may gain: the tap fetches its graph's nodes ahead, some 1 % of a token."""

WIDEST = 0.2
"""Width of a 95 % interval over its ratio. A wider one does not tell a cost of nothing from one of a tenth."""

BUSIEST = 0.25
"""Share of all processors' time that others may take. Beyond it they compete with the very thread that is measured."""


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """Load that a machine had beside what was timed. A field that is None has its reason in `unavailable`."""

    cores: int
    """Logical processors."""
    load: float | None = None
    """Mean number of tasks that ran or waited to run, over the minute before the end."""
    others: float | None = None
    """Share of all processors' time that other processes used, 0..1."""
    steal: float | None = None
    """Share that the hypervisor gave to other machines, 0..1."""
    unavailable: dict[str, str] = {}


def in_words(noise: Noise) -> str:
    """Return noise as a line of text."""
    load = "n/a" if noise.load is None else f"{noise.load:.2f}"
    return (
        f"load {load} on {noise.cores} {'core' if noise.cores == 1 else 'cores'},"
        f" other processes used {_percent(noise.others)} of the processors,"
        f" steal {_percent(noise.steal)}"
    )


def _percent(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:.0f} %"


def doubt(ratio: float, interval: tuple[float, float] | None, noise: Noise | None = None) -> str | None:
    """Return why a measured cost of observing is too noisy to be believed; None if it is not.

    Args:
        ratio: speed while observing over speed without.
        interval: 95 % interval of `ratio`.
        noise: of the machine meanwhile, where that is known.
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
    return None if taken <= BUSIEST else f"others took {_percent(taken)} of the processors meanwhile"
