"""Hooks on single modules of an mlx-lm model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.nn as nn

Call = Callable[..., Any]


def hook(module: nn.Module, wrap: Callable[[Call], Call]) -> Callable[[], None]:
    """Give one module a separate subclass with a wrapped `__call__`; return the function that removes it again.

    Python looks up `__call__` on the type, never on the instance. Hooks of one module are removed in reverse order.
    """
    original = type(module)
    members = {"__call__": wrap(original.__call__), "__module__": original.__module__}
    module.__class__ = type(original.__name__, (original,), members)

    def undo() -> None:
        module.__class__ = original

    return undo
