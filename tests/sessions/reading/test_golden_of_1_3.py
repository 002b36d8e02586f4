"""Golden files of schema 1.3 with everything that it added, of an MoE model and of a dense one."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

import pytest

from moe_watch.commands.app import run
from moe_watch.routing.contexts import ContextNumbers
from moe_watch.routing.events import Keyframe, Perturbation, State, Token, Vitals, from_json, to_json
from moe_watch.sessions.reading.reader import read_session
from moe_watch.sessions.reading.versions import PUBLISHED
from moe_watch.sessions.verifying.file import verify
from moe_watch.sessions.verifying.salvage import salvage
from tests.sessions.kit import replayed

FOLDER = pathlib.Path(__file__).parents[2] / "golden"
MOE, DENSE = FOLDER / "golden-1.3-fields.moe.jsonl", FOLDER / "golden-1.3-dense.moe.jsonl"
[ADDED] = [each.fields for each in PUBLISHED if (each.major, each.minor) == (1, 3)]
BOTH = pytest.mark.parametrize("path", [MOE, DENSE], ids=["moe", "dense"])


def paths_in(value: object, name: str) -> Iterator[str]:
    """The path of every key in a value, lists left out."""
    yield name
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths_in(inner, f"{name}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from paths_in(inner, name)


def lines_of(path: pathlib.Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


@BOTH
def test_every_field_that_1_3_added_is_in_it(path: pathlib.Path) -> None:
    lines = [json.loads(line) for line in lines_of(path)]
    found = {key for line in lines for key in paths_in(line, line["event"])}
    assert found >= ADDED
    assert "vitals.temperatures.critical" in found
    pauses = {line["why"] for line in lines if line.get("state") == "paused"}
    assert pauses == {"temperature", "memory"}
    assert [line["why"] for line in lines if line.get("state") == "fresh_context"] == ["turn"]


@BOTH
def test_every_line_survives_reading_and_writing(path: pathlib.Path) -> None:
    for line in lines_of(path):
        assert to_json(from_json(line)) + b"\n" == line


@BOTH
def test_it_has_no_fault(path: pathlib.Path) -> None:
    assert verify(path).findings == []


@BOTH
def test_a_replay_shows_every_event(path: pathlib.Path) -> None:
    events = list(read_session(path))
    assert [item for item in replayed(path) if not isinstance(item, Keyframe)] == [
        event for event in events if not isinstance(event, Keyframe)
    ]
    assert sum(isinstance(event, Vitals) for event in events) == 3


@BOTH
def test_its_tables(path: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", str(path), "--to", "csv", "--output", str(tmp_path / "tables"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert (rows["tokens"], rows["vitals"]) == (43, 3)


class TestDamagedTurn:
    """A turn that repeats the conversation begins a context, so a damaged line before it was its state."""

    @pytest.fixture(params=[MOE, DENSE], ids=["moe", "dense"])
    def lines(self, request: pytest.FixtureRequest) -> list[bytes]:
        return lines_of(request.param)

    @pytest.fixture
    def copy(self, tmp_path: pathlib.Path) -> pathlib.Path:
        return tmp_path / "copy.moe.jsonl"

    def turn(self, lines: list[bytes], *, again: bool) -> int:
        found = [(at, from_json(line)) for at, line in enumerate(lines)]
        [at] = [at for at, each in found if isinstance(each, Perturbation) and (each.again > 0) == again]
        return at

    def damaged(self, tmp_path: pathlib.Path, lines: list[bytes]) -> pathlib.Path:
        path = tmp_path / "damaged.moe.jsonl"
        path.write_bytes(b"".join(lines))
        return path

    def test_the_state_is_restored(self, lines: list[bytes], tmp_path: pathlib.Path, copy: pathlib.Path) -> None:
        at = next(at for at, line in enumerate(lines) if b'"fresh_context"' in line)
        saved = salvage(self.damaged(tmp_path, [*lines[:at], b"garbage\n", *lines[at + 1 :]]), copy)
        assert (saved.restored_contexts, saved.merged_contexts, saved.computed) == (1, 0, 0)
        kept = lines_of(copy)
        assert (kept[:at], kept[at + 1 :]) == (lines[:at], lines[at + 1 :])
        state, before = from_json(kept[at]), from_json(lines[at])
        assert isinstance(state, State)
        assert isinstance(before, State)
        assert (state.state, state.i, state.why) == (before.state, before.i, before.why)
        assert verify(copy).findings == []

    @pytest.mark.parametrize("again", [False, True])
    def test_no_state_is_invented(
        self, lines: list[bytes], tmp_path: pathlib.Path, copy: pathlib.Path, again: bool
    ) -> None:
        """Damage before a turn that is a continuation, and between a recorded state and its turn."""
        at = self.turn(lines, again=again)
        saved = salvage(self.damaged(tmp_path, [*lines[:at], b"garbage\n", *lines[at:]]), copy)
        assert (saved.restored_contexts, saved.merged_contexts) == (0, 0)
        assert lines_of(copy) == lines

    def test_contexts_are_counted(self, lines: list[bytes]) -> None:
        numbers = ContextNumbers()
        by_token = []
        for line in lines:
            event = from_json(line)
            if not isinstance(event, bytes):
                numbers.feed(event)
            if isinstance(event, Token):
                by_token.append(numbers.current)
        assert by_token == [0] * 29 + [1] * 14
