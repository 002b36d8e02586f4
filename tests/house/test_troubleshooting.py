"""docs/troubleshooting.md: each failure has a test, and each test that it names exists."""

from __future__ import annotations

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
NAMED = re.compile(r"`(?P<file>tests/[\w/]+\.py)?(?P<names>(?:::\w+)+)`")


def failures() -> list[list[str]]:
    """Cells of the table of failures, without its heading."""
    _, _, table = PAGE.read_text(encoding="utf-8").partition("## Failures of a run")
    rows = [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return rows[1:]


def named_tests(path: pathlib.Path) -> set[str]:
    """Names of the tests of a file, with their class before them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = {f"::{node.name}" for node in tree.body if isinstance(node, functions)}
    for owner in tree.body:
        if isinstance(owner, ast.ClassDef):
            found |= {f"::{owner.name}::{node.name}" for node in owner.body if isinstance(node, functions)}
    return found


def test_each_named_test_exists() -> None:
    rows = failures()
    assert len(rows) > 10
    for failure, shown, to_do, tests in rows:
        assert all(cell.strip() for cell in (failure, shown, to_do))
        file = None
        named = list(NAMED.finditer(tests))
        assert named, f"{failure}: no test"
        for match in named:
            file = match["file"] or file
            assert match["names"] in named_tests(ROOT / str(file)), f"{failure}: {match[0]}"
