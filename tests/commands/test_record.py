"""`record` on the real pocket model, where a flag decides what becomes of a run."""

from __future__ import annotations

import json

import pytest

from commands.app import run
from routing.events import State
from sessions.reader import read_session

pytestmark = pytest.mark.model

CONTEXT = 2048
"""Tokens that pocket's context holds."""


@pytest.mark.parametrize(("flags", "expected"), [((), ("finished", "context")), (("restart",), ("finished", "length"))])
def test_at_the_end_of_the_context(tmp_path, capsys, flags, expected):
    output = tmp_path / "long.moe.jsonl"
    choice = [part for flag in flags for part in ("--on-full-context", flag)]
    arguments = ["--prompt", "x = 1\n" * 490, "--seed", "7", "--tokens", "120", "--json", "--output", str(output)]
    assert run(["record", "pocket", *arguments, *choice]) == 0
    tokens = json.loads(capsys.readouterr().out)["tokens"]
    states = [event for event in read_session(output) if isinstance(event, State)]
    assert (states[-1].state, states[-1].why) == expected
    assert [event.state for event in states[:-1]] == ["fresh_context"] * len(flags)
    assert sum(tokens.values()) == CONTEXT if not flags else tokens["generated"] == 120
