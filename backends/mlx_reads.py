"""Names of settings that the code of a loaded mlx-lm model reads, found in its source: nothing is run.

mlx-lm drops settings that a family's `ModelArgs` does not list, and does not use some that it lists. Both are
settings that the code never names outside of a declaration.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import mlx.nn as nn

MODELS = "mlx_lm.models."
"""Prefix of the modules whose source is read."""


def names_read(model: nn.Module) -> frozenset[str]:
    """Return all names that the model's classes, and the functions they call, read from an object or a mapping."""
    present = {base for module in model.modules() for base in type(module).__mro__}
    waiting: list[Any] = [kind for kind in present if _is_of_mlx_lm(kind)]
    seen: set[Any] = set()
    names: set[str] = set()
    while waiting:
        part = waiting.pop()
        if part in seen or (isinstance(part, type) and issubclass(part, nn.Module) and part not in present):
            continue
        seen.add(part)
        tree = _tree(part)
        names.update(_names(tree))
        waiting.extend(_referred(tree, part))
    return frozenset(names)


def _is_of_mlx_lm(part: Any) -> bool:
    return isinstance(part, type | FunctionType) and str(part.__module__).startswith(MODELS)


def _tree(part: Any) -> ast.AST:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(part)))
    except (OSError, TypeError, SyntaxError):  # a class made at run time has no source
        return ast.Module(body=[], type_ignores=[])


def _names(tree: ast.AST) -> Iterator[str]:
    """Attributes and keys that are read where their value can have an effect.

    A check is none: `if self.rope_scaling: raise …` in a dataclass reads a setting and uses it for nothing.
    """
    checks = {id(node) for check in _checks(tree) for node in ast.walk(check)}
    for node in ast.walk(tree):
        if id(node) in checks:
            continue
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _checks(tree: ast.AST) -> Iterator[ast.AST]:
    """Conditions, with what they guard, that only raise; and assertions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert | ast.If) and _only_checks(node):
            yield node


def _only_checks(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.If):
        return not statement.orelse and all(_only_checks(each) for each in statement.body)
    if isinstance(statement, ast.Assign):  # of a local name, for a check
        return all(isinstance(target, ast.Name) for target in statement.targets)
    return isinstance(statement, ast.Raise | ast.Assert | ast.Pass)


def _referred(tree: ast.AST, part: Any) -> Iterator[Any]:
    """Classes and functions of mlx-lm that a part names."""
    space = vars(sys.modules[part.__module__])
    for node in ast.walk(tree):
        found: Any = None
        if isinstance(node, ast.Name):
            found = inspect.unwrap(space.get(node.id, str))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found = getattr(space.get(node.value.id), node.attr, None)
        if _is_of_mlx_lm(found):
            yield found
