"""Observation can be switched off and on during a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.engine import Engine, Unobserved
from moe_watch.backends.llama.compiler import CannotCompile
from moe_watch.backends.protocol import Pause, Resume, SetSampling, SetTap
from moe_watch.routing.events import Change, Chunk, Header, Sampling, State, Token
from moe_watch.routing.pressure.instruments import Instruments
from tests.backends import llama_files
from tests.backends.mlx.test_engine import PROMPT, begin, draw
from tests.backends.scripted import Session, start

PROMPT_TOKENS = 10
SAMPLED = Sampling(seed=4, stop="never")


def no_compiler() -> None:
    raise CannotCompile("none here")


@pytest.fixture(scope="module")
def engines(mixtral: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    path = llama_files.write_gguf(tmp_path_factory.mktemp("gguf") / "mixtral.gguf")
    with ExitStack() as stack:
        open_gguf = stack.enter_context(llama_files.opening())
        compiled = open_gguf(path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("moe_watch.backends.llama.loading.compiled_tap", no_compiler)
            plain = open_gguf(path)
        yield {"mlx": mixtral, "llama.cpp, compiled": compiled, "llama.cpp, Python": plain}


@pytest.fixture(params=["mlx", "llama.cpp, compiled", "llama.cpp, Python"])
def engine(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Engine:
    return engines[request.param]


def run(engine: Engine, *script: tuple[int, Any], **options: Any) -> Session:
    return Session(engine).run(start(**{"chunk_size": 5, "sampling": SAMPLED} | options), *script)


def changes(session: Session) -> list[Change]:
    return [event for event in session.events if isinstance(event, Change)]


def is_observed(token: Token) -> bool:
    known = [token.weights, token.entropy, token.margin]
    if token.experts == [None] * 4:
        assert known == [None, None, None]
        return False
    assert None not in known
    return True


def test_the_taps_are_the_ones_meant(engines: dict[str, Engine]) -> None:
    assert "in Python" in engines["llama.cpp, Python"].backend.tap
    assert "compiled" in engines["llama.cpp, compiled"].backend.tap


def test_tokens_without_the_tap_are_the_same_and_have_no_routing(engine: Engine) -> None:
    script = [(PROMPT_TOKENS + 4, SetTap(on=False)), (PROMPT_TOKENS + 17, SetTap(on=True))]
    session, plain = run(engine, *script, tokens=30), run(engine, tokens=30)
    assert session.generated == plain.generated
    off, on = changes(session)
    assert (off.tap, on.tap) == (False, True)
    assert PROMPT_TOKENS + 4 <= off.i <= PROMPT_TOKENS + 5
    assert PROMPT_TOKENS + 17 <= on.i <= PROMPT_TOKENS + 18
    for token, other in zip(session.tokens, plain.tokens, strict=True):
        if off.i <= token.i < on.i:
            assert not is_observed(token)
        else:
            assert is_observed(other) == is_observed(token)
            assert token.experts == other.experts
        assert (token.logprob, token.top_margin, token.choice_gap) == (
            other.logprob,
            other.top_margin,
            other.choice_gap,
        )


def test_the_change_stands_right_before_the_first_token_it_holds_for(engine: Engine) -> None:
    session = run(engine, (PROMPT_TOKENS + 3, SetTap(on=False)), tokens=10)
    [change] = changes(session)
    following = session.events[session.events.index(change) + 1]
    assert isinstance(following, Token)
    assert following.i == change.i


def test_a_change_to_what_is_already_so_is_none(engine: Engine) -> None:
    script = [(PROMPT_TOKENS + 3, SetTap(on=True)), (PROMPT_TOKENS + 5, SetSampling(temperature=1.0))]
    assert changes(run(engine, *script, tokens=10)) == []


def test_the_next_run_is_observed(engine: Engine) -> None:
    run(engine, (PROMPT_TOKENS + 3, SetTap(on=False)), tokens=10)
    assert all(is_observed(token) for token in run(engine, tokens=10).tokens if token.source == "generated")


def test_switching_in_a_pause(engine: Engine) -> None:
    script = [(PROMPT_TOKENS + 3, Pause()), (0, SetTap(on=False)), (0, Resume())]
    session = run(engine, *script, tokens=12)
    [change] = changes(session)
    assert PROMPT_TOKENS + 3 <= change.i <= PROMPT_TOKENS + 4
    assert [is_observed(token) for token in session.tokens[PROMPT_TOKENS:]] == [
        token.i < change.i for token in session.tokens[PROMPT_TOKENS:]
    ]
    assert [event.state for event in session.events if isinstance(event, State)] == ["paused", "resumed", "finished"]


def test_nothing_is_asked_of_an_engine_that_is_left_alone(engine: Engine) -> None:
    begin(engine)
    engine.draw(last=True)
    engine.observe(False)
    try:
        assert all(isinstance(token.routing, Unobserved) for token in draw(engine, 5))
        engine.draw(last=True)
        [routing] = engine.prefill([5], lambda _: None)
        assert isinstance(routing, Unobserved)
        assert routing.tokens == 1
    finally:
        engine.observe(True)
    assert not isinstance(engine.draw(last=True).routing, Unobserved)
    assert engine.position > len(PROMPT)


def test_mlx_modules_are_untouched_while_the_tap_is_off(mixtral: Any) -> None:
    hooked = type(mixtral._loaded.model)
    mixtral.observe(False)
    try:
        assert type(mixtral._loaded.model) in hooked.__mro__[1:]
    finally:
        mixtral.observe(True)
    assert type(mixtral._loaded.model).__mro__[1:] == hooked.__mro__[1:]


# -- metrics computed from it


def chunks(engine: Engine, session: Session) -> list[Chunk]:
    header = Header(
        created="2026-11-20T09:00:00Z",
        moe_watch="0",
        model=engine.model,
        backend=engine.backend,
        sampling=SAMPLED,
        prompt="def f(x):",
        chunk_size=5,
        capture=["experts", "weights", "entropy", "margin", "logprob"],
    )
    instruments = Instruments(header)
    return [each for event in session.events for each in instruments.feed(event) if isinstance(each, Chunk)]


def test_chunks_have_signals_only_if_all_their_tokens_have_routing(engine: Engine) -> None:
    script = [(PROMPT_TOKENS + 7, SetTap(on=False)), (PROMPT_TOKENS + 18, SetTap(on=True))]
    session = run(engine, *script, tokens=30)
    observed = {token.i: is_observed(token) for token in session.tokens}
    found = chunks(engine, session)
    assert [chunk.tokens for chunk in found] == [5] * 6
    for chunk in found:
        whole = all(observed[i] for i in range(chunk.first, chunk.last + 1))
        assert (chunk.signals is not None) == (chunk.pressures is not None) == whole
    assert {chunk.signals is None for chunk in found} == {True, False}
