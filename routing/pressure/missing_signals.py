"""Signals that pressure needs but a recording lacks, by the `capture` field of its header."""

from __future__ import annotations

from moe_watch.routing.events import Header

SIGNALS = {"entropy": "router entropy", "margin": "router margin", "logprob": "the margin of the likeliest token"}
"""Signals needed in addition to experts, by the names in `Header.capture`."""
REFERENCE_NEEDS = frozenset({"entropy", "margin"})
"""Signals that the reference needs: its adapter has a constant in place of the margin of tokens."""

DENSE = "a dense model has no router, and so no pressure"


def lacking_signals(header: Header, mode: str) -> str:
    """Return why pressure in this mode can never be computed from a recording; empty if it can.

    Imports have experts only, and routers with an unknown gate have no entropy and no margin. A recording that lacks
    only `logprob` in its header may still have margins of tokens. A dense model has no router.
    """
    if header.is_dense:
        return DENSE
    if header.counts_only:
        return "pressure needs tokens in order, which this recording does not have"
    absent = {name: words for name, words in SIGNALS.items() if name not in header.capture}
    if mode == "chronomoe-v1":
        absent = {name: words for name, words in absent.items() if name in REFERENCE_NEEDS}
    if not absent.keys() & REFERENCE_NEEDS:
        return ""
    words = list(absent.values())
    named = " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
    return f"pressure needs {named}, which this recording does not have"
