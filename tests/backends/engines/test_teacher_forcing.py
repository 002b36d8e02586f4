"""Teacher forcing: tokens are taken from another session instead of being sampled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.engine import Engine
from moe_watch.backends.generation.start import BROKEN
from moe_watch.backends.mlx.engine import load as load_mlx
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions, Perturb, SetSampling
from moe_watch.backends.run_spec import ForkPlan, TeacherTokens
from moe_watch.routing.events import Perturbation, Sampling, State, Token
from tests.backends import llama_files
from tests.backends.mlx.test_engine import PROMPT, begin, draw
from tests.backends.reference import log_softmax, reference
from tests.backends.scripted import Session, start

SAMPLED = Sampling(seed=4, stop="never")


@pytest.fixture(scope="module")
def engines(mixtral: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    path = llama_files.write_gguf(tmp_path_factory.mktemp("gguf") / "mixtral.gguf")
    with ExitStack() as stack:
        open_gguf = stack.enter_context(llama_files.opening())
        yield {"mlx": mixtral, "llama.cpp": open_gguf(path), "llama.cpp, pocket": open_gguf("pocket")}


@pytest.fixture(params=["mlx", "llama.cpp"])
def engine(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Engine:
    return engines[request.param]


def pieces(session: Session) -> list[TeacherTokens]:
    """Return a session's tokens in the form that another run takes."""
    found: list[list[Token]] = []
    begins = True
    for event in session.events:
        if isinstance(event, Token):
            if begins or found[-1][-1].source != event.source:
                found.append([])
            found[-1].append(event)
            begins = False
        elif isinstance(event, Perturbation) or (isinstance(event, State) and event.state == "fresh_context"):
            begins = True
    return [
        TeacherTokens(piece[0].source, [token.id for token in piece], "".join(token.text for token in piece))
        for piece in found
    ]


def run(engine: Engine, *script: tuple[int, Any], **options: Any) -> Session:
    return Session(engine).run(start(**{"chunk_size": 5, "sampling": SAMPLED} | options), *script)


def taking(engine: Engine, teacher: list[TeacherTokens], *script: tuple[int, Any], **options: Any) -> Session:
    other = Sampling(seed=99, stop="never")
    return run(engine, *script, prompt="not used", sampling=other, teacher=teacher, **options)


def described(session: Session) -> list[Any]:
    return [
        (token.i, token.source, token.id, token.text, token.logprob, token.choice_gap, token.experts, token.weights)
        for token in session.tokens
    ]


# -- the engine


def test_forced_tokens_come_with_what_the_model_thought_of_them(engine: Engine, mixtral_folder: Any) -> None:
    ids = np.random.default_rng(2).integers(2, 258, 40).tolist()
    begin(engine, SAMPLED)
    engine.force(ids)
    drawn = [*draw(engine, 39), engine.draw(last=True)]
    assert [token.id for token in drawn] == ids
    predicted = log_softmax(reference(mixtral_folder, PROMPT + ids, 2).output)[len(PROMPT) - 1 : -1]
    chosen = predicted[np.arange(40), ids]
    np.testing.assert_allclose([token.logprob for token in drawn], chosen, atol=1e-4)
    gaps = np.exp(predicted.max(-1)) - np.exp(chosen)
    np.testing.assert_allclose([token.choice_gap for token in drawn], gaps, atol=1e-4)
    assert len({token.id for token in draw(engine, 20)}) > 5


def test_what_is_forced_is_forgotten_with_the_context(engine: Engine) -> None:
    begin(engine, SAMPLED)
    expected = [token.id for token in draw(engine, 10)]
    begin(engine, SAMPLED)
    engine.force([3] * 10)
    engine.draw(last=True)
    begin(engine, SAMPLED)
    assert [token.id for token in draw(engine, 10)] == expected


# -- the run


def test_a_session_taken_by_its_own_model_is_the_same_session(engine: Engine) -> None:
    script = [(14, Perturb(text=" go on")), (32, Perturb(text="xy", at_once=True))]
    original = run(engine, *script, tokens=30)
    taken = taking(engine, pieces(original))
    assert described(taken) == described(original)
    assert taken.states == [("finished", "length", len(original.tokens))]
    assert [(each.i, each.ids, each.text.lstrip(BROKEN), each.form, each.source) for each in taken.perturbations] == [
        (each.i, each.ids, each.text, "raw", "schedule") for each in original.perturbations
    ]
    assert [each.at_once for each in taken.perturbations] == [False, True]


def test_engines_take_each_other_s_tokens(engines: dict[str, Engine]) -> None:
    """Token texts come in other pieces where bytes make no character; the session is the same."""
    for giver, taker in (("mlx", "llama.cpp"), ("llama.cpp", "mlx")):
        original = run(engines[giver], tokens=120)
        taken = taking(engines[taker], pieces(original))
        assert [token.id for token in taken.tokens] == [token.id for token in original.tokens]
        surprise = [
            [token.logprob for token in session.tokens if token.source == "generated"] for session in (original, taken)
        ]
        np.testing.assert_allclose(*surprise, atol=2e-4)


def test_pocket_s_tokens_are_taken_by_the_other_engine(engines: dict[str, Engine]) -> None:
    mlx = load_mlx(catalog.locate("pocket", "mlx"), options=EngineOptions(), progress=lambda _: None)
    original = run(mlx, tokens=300, sampling=Sampling(seed=1, temperature=1.3, stop="never"))
    taken = taking(engines["llama.cpp, pocket"], pieces(original))
    assert [token.id for token in taken.tokens] == [token.id for token in original.tokens]
    assert not any(token.would_stop for token in taken.tokens)


def test_contexts_begin_anew_where_they_did(engine: Engine) -> None:
    first = run(engine, tokens=8)
    second = run(engine, prompt="class A:", tokens=6)
    taken = taking(engine, pieces(first) + pieces(second))
    assert [token.id for token in taken.tokens] == [token.id for token in first.tokens + second.tokens]
    assert taken.states[0] == ("fresh_context", "context", len(first.tokens))
    assert [token.experts for token in taken.tokens[len(first.tokens) :]] == [token.experts for token in second.tokens]


def test_end_of_text_is_taken_as_any_token(engine: Engine) -> None:
    teacher = [TeacherTokens("prompt", [0, 50], "<s>" + text_of(engine, 50)), forced(engine, [60, 1, 61])]
    session = taking(engine, teacher)
    assert [token.id for token in session.tokens] == [0, 50, 60, 1, 61]
    assert session.states == [("finished", "length", 5)]


def text_of(engine: Engine, *ids: int) -> str:
    detokenizer = engine.detokenizer()
    return "".join(detokenizer.add(token) for token in ids)


def forced(engine: Engine, ids: list[int]) -> TeacherTokens:
    return TeacherTokens("generated", ids, text_of(engine, *ids))


def test_the_list_may_be_cut(engine: Engine) -> None:
    original = run(engine, tokens=20)
    session = taking(engine, pieces(original), tokens=7)
    assert session.generated == original.generated[:7]
    assert session.states == [("finished", "length", 17)]


def test_text_after_the_last_generated_token_is_taken(engine: Engine) -> None:
    teacher = [*pieces(run(engine, tokens=5)), TeacherTokens("injected", [60, 61], text_of(engine, 60, 61))]
    session = taking(engine, teacher)
    assert [token.source for token in session.tokens[-2:]] == ["injected"] * 2
    assert session.states == [("finished", "length", 17)]


def test_after_the_list_the_run_goes_on_by_itself(engine: Engine) -> None:
    teacher = pieces(run(engine, tokens=5))
    session = taking(engine, teacher, (10_000, Perturb(text="ab")), (40, SetSampling(temperature=0.0)))
    assert [state[:2] for state in session.states[:2]] == [("finished", "length"), ("resumed", "perturbation")]


def test_a_person_does_not_disturb_the_list(engine: Engine) -> None:
    teacher = pieces(run(engine, tokens=20))
    session = taking(engine, teacher, (12, Perturb(text="ab")), (14, SetSampling(temperature=0.0)))
    assert session.refusals == [
        "nothing was injected: the run evaluates the tokens of another session",
        "sampling was not changed: the run evaluates the tokens of another session",
    ]
    assert [token.id for token in session.tokens] == [token for piece in teacher for token in piece.ids]


def test_steps_are_possible(engine: Engine) -> None:
    session = taking(engine, pieces(run(engine, tokens=12)), multistep=True)
    assert session.states[0] == ("paused", "chunk", 15)


BEGIN = TeacherTokens("prompt", [0, 50], "<s>Q")


@pytest.mark.parametrize(
    ("teacher", "options", "message"),
    [
        (
            [BEGIN, TeacherTokens("generated", [50, 258], "")],
            {},
            "the teacher session has token 258, the vocabulary of model ends at 257: "
            "give a session of a model with the same tokenizer",
        ),
        (
            [BEGIN, TeacherTokens("generated", [50, 51], "zz")],
            {},
            "the teacher session has the text 'zz', and this model's tokenizer decodes the same tokens to 'QR': "
            "give a session of a model with the same tokenizer",
        ),
        (
            [BEGIN, TeacherTokens("generated", [50] * 2047, "P" * 2047)],
            {},
            "the teacher session has 2,049 tokens in one context, that of model holds 2,048: give a shorter session",
        ),
        (
            [TeacherTokens("generated", [50], "P")],
            {},
            "the teacher session does not begin with a prompt: give another session",
        ),
        (
            [BEGIN],
            {"perturb": "x", "perturb_every": 1},
            "teacher forcing allows no injections and no forks: remove one of the two",
        ),
        (
            [BEGIN],
            {"forks": ForkPlan(text="a", neutral="b")},
            "teacher forcing allows no injections and no forks: remove one of the two",
        ),
    ],
    ids=["vocabulary", "text", "room", "no prompt", "perturbed", "forked"],
)
def test_tokens_that_cannot_be_taken_are_refused(
    mixtral: Engine, teacher: list[TeacherTokens], options: dict[str, Any], message: str
) -> None:
    [state] = taking(mixtral, teacher, **options).events
    assert isinstance(state, State)
    assert state.state == "error"
    assert state.message.replace(mixtral.model.name, "model") == message
