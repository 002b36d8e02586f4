"""A pause after every chunk, and the commands that may follow it."""

from __future__ import annotations

from typing import Any

from moe_watch.backends.engine import Engine
from moe_watch.backends.protocol import Pause, Perturb, Resume, SetMultistep, SetSampling, Stop
from moe_watch.routing.events import Change, Chunk, Header, Perturbation, Sampling, State, Token
from moe_watch.routing.pressure.instruments import Instruments
from tests.backends.scripted import Session, start

PROMPT_TOKENS = 10
WAITING = 10_000
"""More tokens than any run here generates: the command is sent when the run waits for one."""
SAMPLED = Sampling(seed=4, stop="never")


def run(engine: Engine, *script: tuple[int, Any], **options: Any) -> Session:
    options = {"multistep": True, "chunk_size": 5, "sampling": SAMPLED} | options
    return Session(engine).run(start(**options), *script)


def kinds(session: Session) -> list[Any]:
    """Return the state, reason and token index of each state event."""
    return [(event.state, event.why, event.i) for event in session.events if isinstance(event, State)]


def test_a_run_waits_after_every_whole_chunk(mixtral: Engine) -> None:
    session = run(mixtral, (WAITING, Resume()), (WAITING, Resume()), tokens=14)
    assert session.states == [
        ("paused", "chunk", PROMPT_TOKENS + 5),
        ("resumed", "user", PROMPT_TOKENS + 5),
        ("paused", "chunk", PROMPT_TOKENS + 10),
        ("resumed", "user", PROMPT_TOKENS + 10),
        ("finished", "length", PROMPT_TOKENS + 14),
    ]
    assert session.generated == run(mixtral, tokens=14, multistep=False).generated


def test_the_end_of_the_run_is_no_pause(mixtral: Engine) -> None:
    session = run(mixtral, (WAITING, Resume()), tokens=10)
    assert [state[:2] for state in session.states][-2:] == [("resumed", "user"), ("finished", "length")]


def test_a_text_is_injected_at_once_and_the_run_goes_on(mixtral: Engine) -> None:
    session = run(mixtral, (WAITING, Perturb(text="ab")), (WAITING, Stop()), tokens=30)
    [perturbation] = session.perturbations
    assert (perturbation.i, perturbation.at_once) == (PROMPT_TOKENS + 5, False)
    assert session.states == [
        ("paused", "chunk", PROMPT_TOKENS + 5),
        ("resumed", "perturbation", PROMPT_TOKENS + 5),
        ("paused", "chunk", PROMPT_TOKENS + 5 + 2 + 5),
        ("finished", "user", PROMPT_TOKENS + 5 + 2 + 5),
    ]


def test_a_text_that_cannot_be_injected_leaves_the_run_waiting(mixtral: Engine) -> None:
    session = run(mixtral, (WAITING, Perturb(text="")), (WAITING, Stop()), tokens=30)
    assert session.refusals == ["nothing was injected: the text is empty"]
    assert [state[:2] for state in session.states] == [("paused", "chunk"), ("finished", "user")]


def test_a_scheduled_text_comes_before_the_pause(mixtral: Engine) -> None:
    session = run(mixtral, (WAITING, Stop()), perturb="ab", perturb_every=1)
    at = session.events.index(session.perturbations[0])
    following = session.events[at + 1 : at + 4]
    assert [type(event) for event in following] == [Token, Token, State]
    assert (following[-1].state, following[-1].why, following[-1].i) == ("paused", "chunk", PROMPT_TOKENS + 7)


def test_a_chunk_cut_short_is_no_step(mixtral: Engine) -> None:
    script = [(PROMPT_TOKENS + 2, Perturb(text="ab", at_once=True)), (WAITING, Stop())]
    session = run(mixtral, *script)
    assert session.states[0] == ("paused", "chunk", PROMPT_TOKENS + 3 + 2 + 5)


def test_a_pause_ends_when_multistep_does(mixtral: Engine) -> None:
    session = run(mixtral, (WAITING, SetMultistep(on=False)), tokens=14)
    [change] = [event for event in session.events if isinstance(event, Change)]
    assert (change.i, change.multistep, change.tap, change.sampling) == (PROMPT_TOKENS + 5, False, None, None)
    assert session.states == [
        ("paused", "chunk", PROMPT_TOKENS + 5),
        ("resumed", "user", PROMPT_TOKENS + 5),
        ("finished", "length", PROMPT_TOKENS + 14),
    ]


def test_a_person_s_own_pause_does_not_end_with_multistep(mixtral: Engine) -> None:
    script = [(PROMPT_TOKENS + 2, Pause()), (WAITING, SetMultistep(on=False)), (WAITING, Resume())]
    session = run(mixtral, *script, tokens=8)
    assert [type(event) for event in session.events if not isinstance(event, Token)] == [State, Change, State, State]
    assert [state[:2] for state in session.states] == [("paused", "user"), ("resumed", "user"), ("finished", "length")]


def test_multistep_begins_in_the_middle_of_a_chunk(mixtral: Engine) -> None:
    script = [(PROMPT_TOKENS + 7, SetMultistep(on=True)), (PROMPT_TOKENS + 8, SetMultistep(on=True)), (WAITING, Stop())]
    session = run(mixtral, *script, multistep=False)
    changes = [event for event in session.events if isinstance(event, Change)]
    assert [(change.i, change.multistep) for change in changes] == [(PROMPT_TOKENS + 7, True)]
    assert session.states[0] == ("paused", "chunk", PROMPT_TOKENS + 10)


def test_the_instruments_hear_of_it_before_the_chunk_it_holds_for(mixtral: Engine) -> None:
    """Mark a chunk that ends in a pause, from the first chunk with multistep on."""
    script = [(PROMPT_TOKENS + 9, SetMultistep(on=True)), (WAITING, Resume()), (WAITING, SetMultistep(on=False))]
    session = run(mixtral, *script, multistep=False, tokens=20)
    header = Header(
        created="2026-11-20T09:00:00Z",
        moe_watch="0",
        model=mixtral.model,
        backend=mixtral.backend,
        sampling=SAMPLED,
        prompt="def f(x):",
        chunk_size=5,
        capture=["experts", "weights", "entropy", "margin", "logprob"],
    )
    instruments = Instruments(header)
    chunks = [each for event in session.events for each in instruments.feed(event) if isinstance(each, Chunk)]
    assert [chunk.pause for chunk in chunks] == [None, "multistep_chunk_complete", "multistep_chunk_complete", None]
    assert [chunk.tokens for chunk in chunks] == [5, 5, 5, 5]


def test_sampling_changed_in_the_pause_holds_from_the_next_token(mixtral: Engine) -> None:
    session = run(mixtral, (WAITING, SetSampling(temperature=0.0)), (WAITING, SetMultistep(on=False)), tokens=20)
    change = next(event for event in session.events if isinstance(event, Change))
    assert change.i == PROMPT_TOKENS + 5
    gaps = [token.choice_gap for token in session.tokens if token.source == "generated"]
    assert max(gaps[:5]) > 0
    assert set(gaps[5:]) == {0.0}


def test_perturbations_are_the_only_events_beside_states(mixtral: Engine) -> None:
    session = run(mixtral, (WAITING, Perturb(text="ab")), (WAITING, Stop()))
    assert {type(event) for event in session.events} == {Token, State, Perturbation}
