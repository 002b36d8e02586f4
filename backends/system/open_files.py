"""Limits on open files that a library would raise beyond what the system allows."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def tolerated() -> Iterator[None]:
    """Let limits be as they are where a library may not raise them.

    mlx-lm asks for 4,096 open files when it is imported, and fails where fewer are allowed, though it needs a dozen.
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
