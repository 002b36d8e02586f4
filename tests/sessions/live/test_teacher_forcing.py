"""The tokens of a recorded session, as another run takes them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from moe_watch.backends.run_spec import TeacherTokens, TeacherTurn
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Event, Keyframe, Perturbation, State, Teacher, to_json
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.sessions.live.teacher_forcing import teacher_script
from tests.sessions.kit import HEADER, make_token

GOLDEN = Path(__file__).parents[2] / "golden" / "golden.moe.jsonl"


def write(path: Path, events: Iterable[Event]) -> Path:
    path.write_bytes(b"".join(to_json(event) + b"\n" for event in (HEADER, *events)))
    return path


def perturbation(i: int) -> Perturbation:
    return Perturbation(i=i, t=0.0, text="x", ids=[i], form="raw", source="key")


def test_a_session_is_taken_in_pieces(tmp_path: Path) -> None:
    events = [
        make_token(0, "prompt"),
        make_token(1, "prompt"),
        make_token(2),
        make_token(3),
        perturbation(4),
        make_token(4, "injected"),
        perturbation(5),
        make_token(5, "injected"),
        make_token(6),
        State(state="fresh_context", i=7, t=0.0, why="context"),
        make_token(7, "prompt"),
        make_token(8),
    ]
    script = teacher_script(write(tmp_path / "s.moe.jsonl", events))
    assert script.tokens == [
        TeacherTokens("prompt", [0, 1], " t0 t1"),
        TeacherTokens("generated", [2, 3], " t2 t3"),
        TeacherTokens("injected", [4], " t4"),
        TeacherTokens("injected", [5], " t5"),
        TeacherTokens("generated", [6], " t6"),
        TeacherTokens("prompt", [7], " t7"),
        TeacherTokens("generated", [8], " t8"),
    ]
    assert script.facts == Teacher(model="made/up model", quantization=None, backend="script", tokens=9)
    assert script.seed == HEADER.sampling.seed


def test_two_contexts_without_a_generated_token_stay_two(tmp_path: Path) -> None:
    events = [
        make_token(0, "prompt"),
        State(state="fresh_context", i=1, t=0.0, why="context"),
        make_token(1, "prompt"),
    ]
    assert [piece.ids for piece in teacher_script(write(tmp_path / "s.moe.jsonl", events)).tokens] == [[0], [1]]


def test_the_golden_session_is_taken_whole() -> None:
    script = teacher_script(GOLDEN)
    assert script.facts.tokens == sum(len(piece.ids) for piece in script.tokens) == 9
    assert [piece.source for piece in script.tokens][:3] == ["prompt", "generated", "injected"]


def test_what_is_left_of_a_torn_file_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe.jsonl", [make_token(0, "prompt"), make_token(1), make_token(2)])
    path.write_bytes(path.read_bytes()[:-40])
    assert [piece.ids for piece in teacher_script(path).tokens] == [[0], [1]]


def test_a_session_without_tokens_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe.jsonl", [State(state="error", i=0, t=0.0, message="no")])
    with pytest.raises(UserError, match="holds no token: give a session that got further"):
        teacher_script(path)


def test_the_rest_of_a_longer_run_is_refused(tmp_path: Path) -> None:
    instruments = Instruments(HEADER)
    for i in range(5):
        instruments.feed(make_token(i))
    frame = instruments.keyframe()
    assert isinstance(frame, Keyframe)
    path = write(tmp_path / "s.moe.jsonl", [frame, make_token(5)])
    with pytest.raises(UserError, match="begins in the middle of its run") as refused:
        teacher_script(path)
    assert "\n" not in str(refused.value)


def test_a_missing_token_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe.jsonl", [make_token(0, "prompt"), make_token(2)])
    with pytest.raises(UserError, match="token 1 is missing"):
        teacher_script(path)


def test_an_import_without_ids_cannot_teach(tmp_path: Path) -> None:
    path = write(tmp_path / "s.moe.jsonl", [msgspec.structs.replace(make_token(0, "prompt"), id=-1)])
    with pytest.raises(UserError, match="imported without token ids"):
        teacher_script(path)


def test_a_file_that_is_not_there_is_a_plain_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        teacher_script(tmp_path / "none.moe.jsonl")


def test_a_turn_that_cut_the_context_is_taken_with_its_cut(tmp_path: Path) -> None:
    """A cut of text begins a context with the kept tokens; one of an end token does not."""
    turn = {"t": 0.0, "text": "x", "form": "turn", "source": "key"}
    events = [
        make_token(0, "prompt"),
        make_token(1),
        make_token(2),
        State(state="fresh_context", i=3, t=0.0, why="turn"),
        Perturbation(i=3, ids=[3, 4], kept=1, cut=2, again=1, **turn),
        make_token(3, "injected"),
        make_token(4, "injected"),
        make_token(5),
        Perturbation(i=6, ids=[6], kept=3, cut=1, **turn),
        make_token(6, "injected"),
    ]
    script = teacher_script(write(tmp_path / "s.moe.jsonl", events))
    assert script.tokens == [
        TeacherTokens("prompt", [0], " t0"),
        TeacherTokens("generated", [1, 2], " t1 t2"),
        TeacherTokens("injected", [3, 4], " t3 t4", TeacherTurn(1, 1, True)),
        TeacherTokens("generated", [5], " t5"),
        TeacherTokens("injected", [6], " t6", TeacherTurn(3, 0, False)),
    ]
