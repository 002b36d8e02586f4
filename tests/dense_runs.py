"""Runs of dense models, made from runs of MoE models: the same text and times, without routing."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from moe_watch.routing.events import Chunk, Event, Header, Keyframe, Token
from moe_watch.routing.header import NO_GATE, NO_TAP
from moe_watch.routing.pressure.instruments import Instruments


def dense_header(header: Header) -> Header:
    """Return the header of the same run on a dense model."""
    model = msgspec.structs.replace(
        header.model,
        name="mistral-7b",
        architecture="mistral",
        layers=[],
        experts=0,
        experts_per_token=0,
        gate=NO_GATE,
        expert_bytes=None,
        non_expert_bytes=header.model.bytes,
    )
    backend = msgspec.structs.replace(header.backend, tap=NO_TAP)
    return msgspec.structs.replace(header, model=model, backend=backend, capture=["logprob"], cost=None)


def as_dense(events: Iterable[Event]) -> list[Event]:
    """Return a whole run on a dense model, with the chunks and keyframes that its instruments derive."""
    found: list[Event] = []
    instruments: Instruments | None = None
    for event in events:
        if isinstance(event, Chunk | Keyframe):
            continue
        if isinstance(event, Header):
            event = dense_header(event)
            instruments = Instruments(event)
        elif isinstance(event, Token):
            event = msgspec.structs.replace(event, experts=[], weights=None, entropy=None, margin=None, probs=None)
        found.append(event)
        if instruments is not None and not isinstance(event, Header):
            found += instruments.feed(event)
    return found
