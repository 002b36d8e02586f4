"""Limits on open files, for libraries that raise them beyond the system's hard limit."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def clamped_limits() -> Iterator[None]:
    """Clamp limits that a library sets to the hard limit, in place of an error.

    mlx-lm sets a limit of 4,096 open files on import, and fails if the hard limit is lower, though it needs a dozen.
    """
    original = resource.setrlimit

    def set_if_allowed(kind: int, limits: tuple[int, int]) -> None:
        try:
            original(kind, limits)
        except (ValueError, OSError):
            soft, hard = limits[0], resource.getrlimit(kind)[1]
            original(kind, (min(soft, hard), hard))

    resource.setrlimit = set_if_allowed
    try:
        yield
    finally:
        resource.setrlimit = original
