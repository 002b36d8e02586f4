"""Bounds that keep the code findable: files per folder, one meaning per class name, small state, typed results."""

from __future__ import annotations

import ast
import pathlib
from collections import Counter, defaultdict
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = ("routing", "vitals", "backends", "sessions", "tui", "commands")
PRODUCT = (*PACKAGES, "moe_watch")

MAX_FILES = 16
MAX_ATTRIBUTES = 14
MAX_ASSERTS = 10
MAX_UNTYPED = 8
WIRE_RECORDS = {"Header", "ModelInfo", "Keyframe", "Token", "Vitals", "PlanRecord"}
"""Lines of the session format, and plan.json: one field per key, and the keys are fixed. So are those of `--json`, in
`results.py`."""
WIDGETS = {"App", "Screen", "ModalScreen", "Widget", "Static"}


def sources(*folders: str) -> Iterator[tuple[pathlib.Path, ast.Module]]:
    """Yield the Python files of top-level folders, parsed."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not any(part.is_symlink() for part in path.relative_to(ROOT).parents if part.name):
                yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def attributes(node: ast.ClassDef) -> set[str]:
    """Return the annotated fields of a class, and what its methods assign to `self`."""
    fields = {
        item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    assigned = {
        item.attr
        for item in ast.walk(node)
        if isinstance(item, ast.Attribute)
        and isinstance(item.ctx, ast.Store)
        and isinstance(item.value, ast.Name)
        and item.value.id == "self"
    }
    return fields | assigned


def classes(*folders: str) -> Iterator[tuple[pathlib.Path, ast.ClassDef]]:
    """Yield every class with its file."""
    for path, tree in sources(*folders):
        yield from ((path, node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def test_no_folder_holds_more_files_than_a_reader_can_scan() -> None:
    counted = Counter(path.parent for path, _ in sources(*PRODUCT, "benchmarks", "models", "tests"))
    assert len(counted) > 40
    assert {str(folder): number for folder, number in counted.items() if number > MAX_FILES} == {}


def test_a_class_name_means_one_thing() -> None:
    found = defaultdict(set)
    for path, node in classes(*PRODUCT):
        found[node.name].add(str(path))
    assert len(found) > 300
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


def test_state_is_in_small_objects() -> None:
    """Widgets are exempt: Textual keeps what belongs to one in its attributes."""
    bases = {node.name: {ast.unparse(base) for base in node.bases} for _, node in classes(*PRODUCT)}

    def is_widget(name: str) -> bool:
        return name in WIDGETS or any(is_widget(base.partition("[")[0]) for base in bases.get(name, ()))

    large = {
        f"{path}:{node.name}": number
        for path, node in classes(*PRODUCT)
        if (number := len(attributes(node))) > MAX_ATTRIBUTES
        and node.name not in WIRE_RECORDS
        and "results" not in (path.stem, path.parent.name)
        and not is_widget(node.name)
    }
    assert large == {}


def test_types_say_what_is_there() -> None:
    """`assert x is not None` says that a type is wider than the state it is for."""
    asserts = [
        f"{path}:{node.lineno}"
        for path, tree in sources(*PRODUCT)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert) and "is not None" in ast.unparse(node.test)
    ]
    assert len(asserts) <= MAX_ASSERTS, asserts


def test_results_are_typed() -> None:
    untyped = [
        f"{path}:{node.lineno}"
        for path, tree in sources(*PRODUCT)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and ast.unparse(node) == "dict[str, Any]"
    ]
    assert len(untyped) <= MAX_UNTYPED, untyped
