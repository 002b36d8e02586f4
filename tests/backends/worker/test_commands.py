"""Commands of the user during a run."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from moe_watch.backends.engine import Engine
from moe_watch.backends.protocol import Load, Pause, Perturb, Resume, SetRate, SetSampling, Start, Stop
from moe_watch.routing.events import Change, Perturbation, Sampling, State, Token
from tests.backends.conftest import load_folder
from tests.backends.scripted import Session, start

PROMPT_TOKENS = 10


def run(engine: Engine, begin: Start, *script: tuple[int, object]) -> Session:
    return Session(engine).run(begin, *script)


@pytest.fixture
def short(mixtral_folder: pathlib.Path, changed: Callable[..., pathlib.Path]) -> Engine:
    """A context of 40 tokens."""
    return load_folder(changed(mixtral_folder, max_position_embeddings=40))


def test_stop_ends_the_run(mixtral: Engine) -> None:
    session = run(mixtral, start(), (PROMPT_TOKENS + 9, Stop(why="quit")))
    assert session.states == [("finished", "quit", PROMPT_TOKENS + 9)]


def test_stop_is_heard_between_prefill_steps(mixtral: Engine) -> None:
    session = run(mixtral, start("x" * 1500), (512, Stop()))
    assert session.states == [("finished", "user", 512)]


def test_a_start_ends_the_run_and_begins_the_next(mixtral: Engine) -> None:
    following = start("x")
    session = run(mixtral, start(), (PROMPT_TOKENS + 4, following))
    assert session.states == [("finished", "user", PROMPT_TOKENS + 4)]
    assert session.following == following
    assert [token.i for token in run(mixtral, following, (4, Stop())).tokens] == [0, 1, 2, 3]


def test_a_start_that_cannot_begin_is_refused_and_the_run_goes_on(short: Engine) -> None:
    script = [
        (PROMPT_TOKENS + 2, start("x" * 60)),
        (PROMPT_TOKENS + 4, start(sampling=Sampling(top_p=2.0, seed=0))),
    ]
    session = run(short, start(tokens=12), *script)
    assert session.refusals == [
        "the prompt has 61 tokens, the context holds 40: shorten the prompt",
        "top-p 2.0 is out of range: give more than 0 and at most 1",
    ]
    assert session.states == [("finished", "length", PROMPT_TOKENS + 12)]
    assert session.generated == run(short, start(tokens=12)).generated
    assert session.following is None


def test_after_its_end_a_run_gives_way_to_any_other(short: Engine) -> None:
    """No run is left to continue: the next run reports itself why it cannot begin."""
    following = start("x" * 60)
    session = run(short, start(tokens=5), (10_000, following))
    assert session.refusals == []
    assert session.following == following


def test_a_pause_changes_nothing_but_time(mixtral: Engine) -> None:
    sampling = Sampling(seed=4, stop="never")
    paused = run(
        mixtral,
        start(tokens=20, sampling=sampling),
        (PROMPT_TOKENS + 6, Pause()),
        (0, SetRate(0.0)),
        (0, Pause()),
        (0, Resume()),
    )
    plain = run(mixtral, start(tokens=20, sampling=sampling))
    assert paused.states == [
        ("paused", "user", PROMPT_TOKENS + 6),
        ("resumed", "user", PROMPT_TOKENS + 6),
        ("finished", "length", PROMPT_TOKENS + 20),
    ]
    assert paused.generated == plain.generated


def test_text_asked_for_in_a_pause_waits_for_its_end(mixtral: Engine) -> None:
    script = [(PROMPT_TOKENS + 2, Pause()), (0, Perturb(text="ab", at_once=True)), (0, Resume())]
    session = run(mixtral, start(tokens=9), *script)
    kinds = [
        event.state if isinstance(event, State) else type(event) for event in session.events[PROMPT_TOKENS + 2 :][:4]
    ]
    assert kinds == ["paused", "resumed", Token, Perturbation]


def test_a_paused_run_can_be_stopped(mixtral: Engine) -> None:
    session = run(mixtral, start(), (PROMPT_TOKENS + 2, Pause()), (0, Stop()))
    assert [state[0] for state in session.states] == ["paused", "finished"]


def test_sampling_can_be_changed(mixtral: Engine) -> None:
    change = (PROMPT_TOKENS + 10, SetSampling(temperature=0.0))
    session = run(mixtral, start(tokens=40, sampling=Sampling(seed=3)), change)
    gaps = [token.choice_gap for token in session.tokens if token.source == "generated"]
    [change] = [event for event in session.events if isinstance(event, Change)]
    at = change.i - PROMPT_TOKENS
    assert 10 <= at <= 11
    assert max(gaps[:at]) > 0
    assert set(gaps[at:]) == {0.0}
    assert change.sampling == Sampling(seed=3, temperature=0.0)
    assert (change.tap, change.multistep) == (None, None)
    following = session.events[session.events.index(change) + 1]
    assert isinstance(following, Token)
    assert following.i == change.i


def test_several_changes_of_sampling_add_up(mixtral: Engine) -> None:
    script = [(PROMPT_TOKENS + 10, SetSampling(temperature=0.5)), (PROMPT_TOKENS + 10, SetSampling(top_k=3))]
    session = run(mixtral, start(tokens=30, sampling=Sampling(seed=3)), *script)
    changes = [event.sampling for event in session.events if isinstance(event, Change)]
    assert changes == [Sampling(seed=3, temperature=0.5), Sampling(seed=3, temperature=0.5, top_k=3)]


def test_a_change_does_not_disturb_what_it_does_not_concern(mixtral: Engine) -> None:
    """Waiting for a pending token samples nothing again."""
    script = (PROMPT_TOKENS + 10, SetSampling(temperature=1.0))
    sampling = Sampling(seed=3, stop="never")
    session = run(mixtral, start(tokens=30, sampling=sampling), script)
    assert session.generated == run(mixtral, start(tokens=30, sampling=sampling)).generated


def test_impossible_commands_are_refused_and_the_run_goes_on(mixtral: Engine) -> None:
    script = [(PROMPT_TOKENS + 1, SetSampling(top_p=2.0)), (PROMPT_TOKENS + 2, Load(model="pocket"))]
    session = run(mixtral, start(tokens=10), *script)
    assert session.refusals == [
        "top-p 2.0 is out of range: give more than 0 and at most 1",
        "a model is loaded already",
    ]
    assert session.refused == ["sampling", "load"]
    assert len(session.generated) == 10


def states(session):
    return [each for each in session.events if isinstance(each, State) and each.state in ("paused", "resumed")]


def test_the_users_pause_replaces_one_of_the_program_and_only_the_user_ends_it(mixtral):
    hot = Pause(why="temperature", message="85 °C")
    session = run(
        mixtral,
        start(tokens=12),
        (PROMPT_TOKENS + 2, hot),
        (0, Resume(why="memory")),
        (0, Pause()),
        (0, Resume(why="temperature")),
        (0, hot),
        (0, Resume()),
    )
    found = [(each.state, each.why, each.message) for each in states(session)]
    assert found == [("paused", "temperature", "85 °C"), ("paused", "user", None), ("resumed", "user", None)]


def test_a_pause_of_the_program_ends_with_its_cause(mixtral):
    cool = Resume(why="temperature", message="79 °C")
    session = run(mixtral, start(tokens=12), (PROMPT_TOKENS + 2, Pause(why="temperature")), (0, cool))
    found = [(each.state, each.why, each.message) for each in states(session)]
    assert found == [("paused", "temperature", None), ("resumed", "temperature", "79 °C")]
