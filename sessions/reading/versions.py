"""Published versions of the session format.

A minor version adds events and fields, each with a default for its absence in older files, and further forms of a value
beside the old one. Every line of an older minor version is therefore a line of this one, and reading it migrates it. A
major version changes the meaning of a line: in schema 2 the length of a row of experts differs by MoE layer. The minor
number keeps counting across major versions.
"""

from __future__ import annotations

from dataclasses import dataclass

from moe_watch.routing.events import SCHEMA_BY_LAYER, SCHEMA_MINOR


@dataclass(frozen=True, slots=True)
class Version:
    """One published version."""

    major: int
    minor: int
    events: frozenset[str] = frozenset()
    """Events added by it."""
    fields: frozenset[str] = frozenset()
    """Fields added to older events, as `event.field`; a nested field with its whole path."""
    forms: frozenset[str] = frozenset()
    """Fields written in a new form; both forms are read."""

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
    Version(
        1,
        3,
        fields=frozenset(
            {
                "session.backend.buffers",
                "session.control",
                "change.rate",
                *(f"vitals.{name}" for name in ("thermal_level", "clocks", "gpu_memory", "throttling_source")),
                *(f"vitals.{name}" for name in ("swapped_in", "swapped_out", "worker_read", "worker_faults")),
                *(f"vitals.{name}" for name in ("group_events", "model_memory")),
                *(f"vitals.pressure.{name}" for name in ("stalled_full", "reason")),
                *("session.system", "session.template_source"),
                *("perturbation.kept", "perturbation.cut", "perturbation.again"),
            }
        ),
    ),
    Version(2, 3),
    Version(
        1,
        4,
        fields=frozenset(
            {
                *(f"session.model.{name}" for name in ("expert_ids", "own_experts_per_token")),
                *(f"change.{name}" for name in ("mask", "experts_per_token")),
                "keyframe.mask",
            }
        ),
    ),
    Version(2, 4),
)
"""All versions that a file may have, oldest first; the last of each major version is written today."""


def refusal(major: int) -> str:
    """Return the reason why a major version cannot be read; empty if it can."""
    if major > SCHEMA_BY_LAYER:
        return f"schema {major}, while this moe-watch reads up to schema {SCHEMA_BY_LAYER}"
    return "" if major >= PUBLISHED[0].major else f"schema {major} does not exist"


def is_newer(minor: int) -> bool:
    """Return whether a file of this minor version may contain events of a newer version; these are kept unchanged."""
    return minor > SCHEMA_MINOR
