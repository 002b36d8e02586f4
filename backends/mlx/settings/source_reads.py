"""Names of settings that the code of a loaded mlx-lm model reads, found in its source without running it.

mlx-lm drops settings that a family's `ModelArgs` does not list, and does not use some that it lists. Both are settings
that the code never names outside a declaration.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import mlx.nn as nn

MODELS = "mlx_lm.models."
"""Prefix of the modules whose source is read."""

Part = tuple[str, str]
"""Class or function, as its module and its name in it."""


def names_read(model: nn.Module) -> frozenset[str] | None:
    """Return all names that a model's classes, and the functions they call, read from an object or a mapping.

    None if the source of the model's own class is missing, or not in mlx-lm.
    """
    present = {base for module in model.modules() for base in type(module).__mro__}
    if _definition(_part(type(model))) is None:
        return None
    waiting = [_part(kind) for kind in present]
    seen: set[Part] = set()
    names: set[str] = set()
    while waiting:
        part = waiting.pop()
        if part in seen or _is_absent(part, present) or (definition := _definition(part)) is None:
            continue
        seen.add(part)
        names.update(_names(definition))
        waiting.extend(_referred(definition, part[0]))
    return frozenset(names)


def _part(thing: Any) -> Part:
    return str(getattr(thing, "__module__", "")), str(getattr(thing, "__name__", ""))


def _is_absent(part: Part, present: set[type]) -> bool:
    """Return whether a part is a layer class without an instance in this model."""
    found = getattr(sys.modules.get(part[0]), part[1], None)
    return isinstance(found, type) and issubclass(found, nn.Module) and found not in present


def _definition(part: Part) -> ast.stmt | None:
    return _definitions(part[0]).get(part[1])


@cache
def _definitions(module: str) -> dict[str, ast.stmt]:
    """Return the classes and functions of an mlx-lm module by name; nothing for other modules."""
    if not module.startswith(MODELS) or module not in sys.modules:
        return {}
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError, SyntaxError):  # installed without its source
        return {}
    return {each.name: each for each in tree.body if isinstance(each, ast.ClassDef | ast.FunctionDef)}


def _names(tree: ast.AST) -> Iterator[str]:
    """Yield attributes and keys that are read where their value can have an effect.

    Checks are left out: `if self.rope_scaling: raise …` in a dataclass reads a setting without using it.
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
    """Yield assertions, and conditions whose bodies only raise."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert | ast.If) and _only_checks(node):
            yield node


def _only_checks(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.If):
        return not statement.orelse and all(_only_checks(each) for each in statement.body)
    if isinstance(statement, ast.Assign):  # assigns a local name for a check
        return all(isinstance(target, ast.Name) for target in statement.targets)
    return isinstance(statement, ast.Raise | ast.Assert | ast.Pass)


def _referred(tree: ast.AST, module: str) -> Iterator[Part]:
    """Yield classes and functions that a part names, from its own module or another one."""
    space = vars(sys.modules[module])
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield (module, node.id) if node.id in _definitions(module) else _part(space.get(node.id))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = space.get(node.value.id)
            if inspect.ismodule(owner):
                yield owner.__name__, node.attr
