"""Masks and another number of experts per token in a run, on both engines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.engine import Engine
from moe_watch.backends.generation.start import first_tokens
from moe_watch.backends.protocol import Pause, Perturb, Resume, SetMask, Start, Stop
from moe_watch.backends.run_spec import ForkPlan, TeacherTokens
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Change, Sampling, State
from moe_watch.routing.router.masks import ExpertMask
from tests.backends import llama_files
from tests.backends.scripted import Session, start

PROMPT_TOKENS = 10
CHUNK = 5
SAMPLED = Sampling(seed=4, stop="never")
OFF = ExpertMask.of([(0, 1), (1, 3)])
OTHER = ExpertMask.of([(1, 0)])
TOO_MANY = [(0, [0, 1, 2])]
"""Leaves one of four experts, and two are selected."""


@pytest.fixture(scope="module")
def engines(mixtral: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    path = llama_files.write_gguf(tmp_path_factory.mktemp("gguf") / "mixtral.gguf")
    with ExitStack() as stack:
        yield {"mlx": mixtral, "llama.cpp": stack.enter_context(llama_files.opening())(path)}


class Applied:
    """Masks that an engine was given, with the number of tokens in its context."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.masks: list[tuple[int, ExpertMask]] = []
        self._apply = engine._apply_mask if type(engine)._apply_mask is not Engine._apply_mask else None

    def __call__(self, mask: ExpertMask) -> None:
        assert self.engine.settled
        self.masks.append((self.engine.position, mask))
        if self._apply is not None:
            self._apply(mask)


@pytest.fixture(params=["mlx", "llama.cpp"])
def engine(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Engine:
    return engines[request.param]


@pytest.fixture
def applied(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Applied:
    applied = Applied(engine)
    monkeypatch.setattr(engine, "_apply_mask", applied, raising=False)
    return applied


def run(engine: Engine, *script: tuple[int, Any], **options: Any) -> Session:
    return Session(engine).run(start(**{"chunk_size": CHUNK, "sampling": SAMPLED} | options), *script)


def changes(session: Session) -> list[Change]:
    return [event for event in session.events if isinstance(event, Change)]


def check_selections(applied: Applied, session: Session, first: int, last: int | None, mask: ExpertMask) -> None:
    """Check that tokens from `first` on and before `last` select no masked expert."""
    if applied._apply is None:
        return
    k = session.engine.model.k_by_layer[0]
    for token in session.tokens[first:last]:
        for at, layer in enumerate(session.engine.model.layers):
            assert not set(token.experts[at * k : at * k + k]) & mask.masked(layer)


def test_a_mask_holds_from_the_beginning_and_ends_with_the_run(engine: Engine, applied: Applied) -> None:
    session = run(engine, tokens=12, mask=OFF.rows)
    assert [(change.i, change.mask) for change in changes(session)] == [(0, OFF.rows)]
    assert session.events[0] == changes(session)[0]
    assert applied.masks == [(0, OFF), (0, ExpertMask())]
    check_selections(applied, session, 0, None, OFF)
    assert changes(run(engine, tokens=3)) == []


def test_nothing_is_asked_of_an_engine_without_a_mask(engine: Engine, applied: Applied) -> None:
    assert changes(run(engine, tokens=6)) == []
    assert applied.masks == []


def test_a_mask_during_a_run(engine: Engine, applied: Applied) -> None:
    script = [(PROMPT_TOKENS + 3, SetMask(OFF.rows)), (PROMPT_TOKENS + 12, SetMask([]))]
    session = run(engine, *script, tokens=20)
    off, on = changes(session)
    assert (off.mask, on.mask) == (OFF.rows, [])
    assert PROMPT_TOKENS + 3 <= off.i <= PROMPT_TOKENS + 4
    assert PROMPT_TOKENS + 12 <= on.i <= PROMPT_TOKENS + 13
    assert applied.masks == [(off.i, OFF), (on.i, ExpertMask())]
    check_selections(applied, session, off.i, on.i, OFF)
    following = session.events[session.events.index(off) + 1]
    assert getattr(following, "i", None) == off.i


def test_the_same_mask_again_is_no_change(engine: Engine, applied: Applied) -> None:
    session = run(engine, (PROMPT_TOKENS + 3, SetMask(OFF.rows)), tokens=8, mask=OFF.rows)
    assert len(changes(session)) == 1
    assert applied.masks == [(0, OFF), (0, ExpertMask())]


def test_a_refused_mask_leaves_the_run_as_it_is(engine: Engine, applied: Applied) -> None:
    script = [(PROMPT_TOKENS + 2, SetMask(TOO_MANY)), (PROMPT_TOKENS + 4, SetMask([(9, [0])]))]
    session = run(engine, *script, tokens=10)
    assert session.refused == ["mask", "mask"]
    assert "layer 0 would keep 1 expert, and selects 2 per token" in session.refusals[0]
    assert "has no MoE layer 9" in session.refusals[1]
    assert changes(session) == []
    assert applied.masks == []
    assert session.states[-1][:2] == ("finished", "length")


def test_a_model_without_masks_refuses_them(engine: Engine, applied: Applied, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "why_no_mask", "its router is a table", raising=False)
    session = run(engine, (PROMPT_TOKENS + 2, SetMask(OFF.rows)), tokens=5)
    assert "cannot be switched off: its router is a table" in session.refusals[0]
    assert run(engine, (PROMPT_TOKENS + 2, SetMask([])), tokens=5).refusals == []
    assert applied.masks == []


def test_a_run_with_a_refused_mask_does_not_begin(engine: Engine, applied: Applied) -> None:
    session = run(engine, tokens=5, mask=TOO_MANY)
    [state] = session.events
    assert isinstance(state, State)
    assert state.state == "error"
    assert "would keep 1 expert" in (state.message or "")
    assert applied.masks == []
    with pytest.raises(UserError, match="has no expert 4"):
        first_tokens(engine, start(mask=[(0, [4])]))


def test_a_start_with_a_refused_mask_does_not_end_the_present_run(engine: Engine, applied: Applied) -> None:
    session = run(engine, (PROMPT_TOKENS + 3, start(mask=TOO_MANY)), tokens=10)
    assert session.refused == ["start"]
    assert session.following is None
    assert len(session.generated) == 10


def test_the_next_run_has_its_own_mask(engine: Engine, applied: Applied) -> None:
    following: Start = start(tokens=3)
    session = run(engine, (PROMPT_TOKENS + 3, following), tokens=10, mask=OFF.rows)
    assert session.following == following
    assert applied.masks[-1] == (0, ExpertMask())


def test_a_mask_ends_the_chunk(engine: Engine, applied: Applied) -> None:
    """An injection at once cuts a chunk like this: the chunk after it is whole again."""
    session = run(engine, (PROMPT_TOKENS + 2, SetMask(OFF.rows)), tokens=14, perturb=" x", perturb_every=1)
    [change] = changes(session)
    assert session.perturbations[0].i == change.i + CHUNK


def test_a_mask_holds_in_fresh_contexts_and_injections(
    engine: Engine, applied: Applied, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = 40
    monkeypatch.setattr(engine, "context_length", length)
    script = [(PROMPT_TOKENS + 3, SetMask(OFF.rows)), (PROMPT_TOKENS + 7, Perturb(text=" x y", at_once=True))]
    session = run(engine, *script, tokens=length, on_full_context="restart")
    [change] = changes(session)
    assert ("fresh_context", "context") in [state[:2] for state in session.states]
    assert session.perturbations
    check_selections(applied, session, change.i, None, OFF)
    assert [mask for _, mask in applied.masks] == [OFF, ExpertMask()]


def test_a_mask_in_a_pause_and_after_the_end(engine: Engine, applied: Applied) -> None:
    script = [
        *[(PROMPT_TOKENS + 3, Pause()), (0, SetMask(OFF.rows)), (0, Resume())],
        *[(99, SetMask(OTHER.rows)), (99, Perturb(text=" x", at_once=True)), (PROMPT_TOKENS + 20, Stop())],
    ]
    session = run(engine, *script, tokens=10)
    first, second = changes(session)
    assert (first.mask, second.mask) == (OFF.rows, OTHER.rows)
    finished = next(i for state, _, i in session.states if state == "finished")
    assert second.i == finished == session.perturbations[0].i
    check_selections(applied, session, second.i, None, OTHER)


def test_continuations_have_the_mask_of_the_run(engine: Engine, applied: Applied) -> None:
    plan = ForkPlan(text=" go on", neutral="ab", replicates=2, first=1, every=1)
    session = run(engine, tokens=CHUNK + 1, forks=plan, mask=OFF.rows)
    assert applied.masks == [(0, OFF), (0, ExpertMask())]
    branches = [item for item in session.items if not hasattr(item, "phase") and hasattr(item, "arm")]
    assert len(branches) == 6
    if applied._apply is not None:
        for branch in branches:
            for token in branch.tokens:
                assert not set(token.experts[:2]) & OFF.masked(0)


def test_a_mask_with_teacher_forcing(engine: Engine, applied: Applied) -> None:
    taught = run(engine, tokens=11)
    pieces = [
        TeacherTokens(source, [t.id for t in part], "".join(t.text for t in part))
        for source, part in (
            ("prompt", taught.tokens[:PROMPT_TOKENS]),
            ("generated", taught.tokens[PROMPT_TOKENS:]),
        )
    ]
    session = run(engine, (PROMPT_TOKENS + 5, SetMask(OTHER.rows)), teacher=pieces, mask=OFF.rows)
    assert [token.id for token in session.tokens] == [token.id for token in taught.tokens]
    first, second = changes(session)
    assert (first.i, first.mask, second.mask) == (0, OFF.rows, OTHER.rows)
    assert PROMPT_TOKENS + 5 <= second.i <= PROMPT_TOKENS + 6
    check_selections(applied, session, 0, second.i, OFF)
    check_selections(applied, session, second.i, None, OTHER)


def test_another_number_of_experts_is_named_at_the_beginning(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    own = msgspec.structs.replace(engine.model, own_experts_per_token=3)
    monkeypatch.setattr(engine, "model", own)
    [change] = changes(run(engine, tokens=3))
    assert (change.i, change.experts_per_token, change.mask) == (0, 2, UNSET)
