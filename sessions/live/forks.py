"""Conversion of a fork's continuations to events."""

from __future__ import annotations

from copy import deepcopy

from moe_watch.backends.protocol import Branch
from moe_watch.routing.events import Chunk, Fork
from moe_watch.routing.pressure.instruments import Instruments


def fork_event(branch: Branch, instruments: Instruments) -> Fork:
    """Return one continuation as an event, measured like a chunk of the run.

    Args:
        branch: tokens that the worker generated in the copied context.
        instruments: instruments of the run after all events up to the boundary; they are not changed.
    """
    copy = deepcopy(instruments)
    chunks = [event for token in branch.tokens for event in copy.feed(token) if isinstance(event, Chunk)]
    chunk = chunks[0] if chunks else None
    return Fork(
        i=branch.tokens[0].i,
        t=branch.t,
        arm=branch.arm,
        replicate=branch.replicate,
        seed=branch.seed,
        text=branch.text,
        injected=[token.id for token in branch.tokens if token.source == "injected"],
        generated=[token.id for token in branch.tokens if token.source == "generated"],
        signals=None if chunk is None else chunk.signals,
        pressures=None if chunk is None else chunk.pressures,
    )
