"""The tokens of a recorded session, for another model to take in place of its own.

Routing of two models, or of two quantisations of one, can be compared only where both see the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from backends.protocol import TeacherTokens
from routing.events import Teacher


@dataclass(frozen=True, slots=True)
class TeacherScript:
    """Whose tokens a run is to take, and which they are."""

    facts: Teacher
    tokens: list[TeacherTokens]
