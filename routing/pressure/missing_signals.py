"""Signals that pressure is computed from and that a recording does not have, by what its header says it captured."""

from __future__ import annotations

from moe_watch.routing.events import Header

SIGNALS = {"entropy": "router entropy", "margin": "router margin", "logprob": "the margin of the likeliest token"}
"""Beside experts, by the names in `Header.capture`."""
REFERENCE_NEEDS = frozenset({"entropy", "margin"})
"""The reference's adapter has a constant in place of the margin of tokens."""


def lacking_signals(header: Header, mode: str) -> str:
    """Return why pressure in this mode can never be computed from a recording; empty if it can.

    Imports have experts only, and routers of an unknown gate no entropy and no margin. A recording whose header leaves
    out `logprob` alone may have margins of tokens all the same.
    """
    if header.counts_only:
        return "pressure needs tokens in order, which this recording does not have"
    absent = {name: words for name, words in SIGNALS.items() if name not in header.capture}
    if mode == "chronomoe-v1":
        absent = {name: words for name, words in absent.items() if name in REFERENCE_NEEDS}
    if not absent.keys() & REFERENCE_NEEDS or not header.model.layers:
        return ""
    words = list(absent.values())
    named = " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
    return f"pressure needs {named}, which this recording does not have"
