"""Origin of the events as data: one module of the dashboard reads it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from moe_watch.sessions.source import Origin
from moe_watch.tui.state.origin_words import words_of

TUI = Path(__file__).resolve().parents[2] / "tui"
ALLOWED = {
    "state/origin_words.py": {"_WORDS[origin.kind]", "origin.kind == 'model'"},
    "state/pace.py": {"_SCALES[pace.kind]", "pace.kind == 'speed'"},
    "widgets/panels/vitals/memory.py": {"KINDS[part.kind]"},
    "screens/sessions.py": {"'replay'"},
    "app.py": {"ReplaySource(path, self._clock)"},
}
"""The words of each origin, the scale of each pace, the kind of a buffer, the action of the list, the session that it
opens."""
SOURCES = {"ReplaySource", "LiveSource"}


def asks(node, text):
    """Return whether an expression depends on which source the dashboard has."""
    match node:
        case ast.Call():
            return any(text.startswith(name) for name in SOURCES) or (
                text.startswith("isinstance") and any(name in text for name in SOURCES)
            )
        case ast.Compare():
            return ".kind" in text or "'replay'" in text or "'session'" in text
        case ast.Subscript():
            return text.endswith(".kind]")
    return isinstance(node, ast.Constant) and node.value == "replay"


def questions(path):
    """Return the expressions of a module that depend on which source it has."""
    expressions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.expr)]
    return {ast.unparse(node) for node in expressions if asks(node, ast.unparse(node))}


@pytest.mark.parametrize("path", sorted(TUI.rglob("*.py")), ids=lambda path: path.relative_to(TUI).as_posix())
def test_only_one_module_asks_where_events_come_from(path):
    name = path.relative_to(TUI).as_posix()
    assert questions(path) <= ALLOWED.get(name, set())


@pytest.mark.parametrize("kind", ["model", "session"])
def test_each_origin_has_its_words(kind):
    words = words_of(Origin(kind))
    assert words.end
    assert words.machine
    assert words.refusal(frozenset({"seek"}))
    assert words.refusal(frozenset()) == ""
    assert words.refusal(frozenset({"pause", "seek"})) == ""
