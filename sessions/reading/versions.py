"""The published versions of the session format, and what reading an older one means.

A minor version adds events and fields, each with a default that says what its absence meant before, and other ways to
write a value, beside the one there was: so every line of an older minor version is a line of this one, and reading it
migrates it. A major version changes what a line means: in schema 2 a row of experts has another length in each MoE
layer. Minor versions count through both.
"""

from __future__ import annotations

from dataclasses import dataclass

from moe_watch.routing.events import SCHEMA_BY_LAYER, SCHEMA_MINOR


@dataclass(frozen=True, slots=True)
class Version:
    """A published version."""

    major: int
    minor: int
    events: frozenset[str] = frozenset()
    """Events that it added."""
    fields: frozenset[str] = frozenset()
    """Fields that it added to older events, as `event.field`; nested ones with all names on the way."""

    forms: frozenset[str] = frozenset()
    """Fields that it writes in another way: both ways are read."""

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


PUBLISHED = (
    Version(1, 0),
    Version(
        1,
        1,
        events=frozenset({"change", "fork"}),
        fields=frozenset({"session.backend.settings", "session.multistep", "session.teacher", "keyframe.multistep"}),
        forms=frozenset({"keyframe.average_meso", "keyframe.average_macro", "keyframe.phases"}),
    ),
    Version(
        1,
        2,
        events=frozenset({"refused", "warning"}),
        fields=frozenset({"chunk.context", "keyframe.context", "keyframe.context_chunks"}),
    ),
    Version(2, 2, forms=frozenset({"session.model.experts_per_token"})),
)
"""Every version that a file may have, oldest first; the last of each major one is what is written now."""


def refusal(major: int) -> str:
    """Why a major version cannot be read, in a few words; empty if it can."""
    if major > SCHEMA_BY_LAYER:
        return f"schema {major}, and this moe-watch reads schema {SCHEMA_BY_LAYER}"
    return "" if major >= PUBLISHED[0].major else f"schema {major} does not exist"


def is_newer(minor: int) -> bool:
    """Whether a file of this minor version may hold events that are not known here, to be passed on as they stand."""
    return minor > SCHEMA_MINOR
