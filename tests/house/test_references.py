"""Keys of docs/references.md in docstrings: each exists, and each module names the keys that the page lists for it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "references.md").read_text(encoding="utf-8")
KEYS = set(re.findall(r"^### (\S+)$", PAGE, re.MULTILINE))
PACKAGES = ("moe_watch", "routing", "vitals", "backends", "sessions", "tui", "commands", "benchmarks", "models")

NAMED = re.compile(r"\bReferences: ([a-z0-9]+(?:-[a-z0-9]+)+(?:,\s+[a-z0-9]+(?:-[a-z0-9]+)+)*)\.")
"""The one form in which a docstring names keys; a list may be wrapped."""

BY_MODULE = PAGE.partition("## By module")[2]
TABLE, _, WITHOUT = BY_MODULE.partition("No method from elsewhere:")
LISTED = {
    row[1]: re.findall(r"\(#(\S+?)\)", row[0]) for row in re.finditer(r"^\| `(\S+\.py)` \| .*$", TABLE, re.MULTILINE)
}
UNLISTED = re.findall(r"`(\S+\.py)`", WITHOUT)


def docstrings(path: Path) -> Iterator[str]:
    """Yield the docstrings of a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def named_keys(text: str) -> set[str]:
    """Return the keys that a docstring names."""
    return {key for found in NAMED.findall(text) for key in re.split(r",\s+", found)}


def modules(package: str) -> list[Path]:
    """Return the modules of a package."""
    return [path for path in sorted((ROOT / package).rglob("*.py")) if path.name != "__init__.py"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_key_in_a_docstring_is_on_the_page(package):
    for path in modules(package):
        for text in docstrings(path):
            assert named_keys(text) <= KEYS, path
            assert text.count("References: ") == len(NAMED.findall(text)), f"{path}: another form of a reference"


@pytest.mark.parametrize("module", LISTED)
def test_a_module_names_the_keys_that_the_page_lists_for_it(module):
    head, *others = docstrings(ROOT / module)
    assert named_keys(head) == set(LISTED[module])
    assert set().union(*map(named_keys, others)) <= set(LISTED[module])


def test_every_module_of_routing_is_listed_once():
    paths = [path.relative_to(ROOT).as_posix() for path in modules("routing")]
    assert sorted([*LISTED, *UNLISTED]) == sorted(paths)
    assert not any(named_keys(text) for module in UNLISTED for text in docstrings(ROOT / module))


def test_an_entry_and_the_table_name_the_same_modules():
    entries = re.findall(
        r"^### (\S+)$(.*?)(?=^##)", PAGE.partition("## By module")[0] + "\n##", re.MULTILINE | re.DOTALL
    )
    implemented = {
        key: set(re.findall(r"`(routing/\S+\.py)`", text.partition("Implemented in")[2])) for key, text in entries
    }
    by_key = {key: {module for module, keys in LISTED.items() if key in keys} for key in KEYS}
    assert implemented == by_key
