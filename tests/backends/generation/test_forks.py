"""Continuations of a run, generated at its chunk boundaries without changing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.engine import Engine
from moe_watch.backends.generation.forks import branch_seed
from moe_watch.backends.protocol import Branch, Pause, Perturb, Resume, SetSampling, SetTap, Stop
from moe_watch.backends.run_spec import ForkPlan
from moe_watch.routing.events import Change, Sampling, State, Token
from tests.backends import llama_files, tiny
from tests.backends.conftest import load_folder
from tests.backends.scripted import GREEDY, Session, start

PROMPT_TOKENS = 10
CHUNK = 5
SAMPLED = Sampling(seed=4, stop="never")
PLAN = ForkPlan(text=" go on", neutral="ab", replicates=3, first=2, every=2)


@pytest.fixture(scope="module")
def engines(mixtral: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    path = llama_files.write_gguf(tmp_path_factory.mktemp("gguf") / "mixtral.gguf")
    with ExitStack() as stack:
        yield {"mlx": mixtral, "llama.cpp": stack.enter_context(llama_files.opening())(path)}


@pytest.fixture(params=["mlx", "llama.cpp"])
def engine(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Engine:
    return engines[request.param]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A context of 40 tokens."""
    config = tiny.MIXTRAL | {"max_position_embeddings": 40}
    return load_folder(tiny.write_model(tmp_path_factory.mktemp("short") / "model", config))


def run(engine: Engine, *script: tuple[int, Any], **options: Any) -> Session:
    return Session(engine).run(
        start(**{"chunk_size": CHUNK, "sampling": SAMPLED, "forks": PLAN, "tokens": 23} | options), *script
    )


def branches(session: Session) -> list[Branch]:
    return [item for item in session.items if isinstance(item, Branch)]


def generated(branch: Branch) -> list[int]:
    return [token.id for token in branch.tokens if token.source == "generated"]


def injected(branch: Branch) -> list[int]:
    return [token.id for token in branch.tokens if token.source == "injected"]


def test_all_arms_are_tried_at_every_due_boundary(engine: Engine) -> None:
    found = branches(run(engine))
    boundaries = [PROMPT_TOKENS + 10, PROMPT_TOKENS + 20]
    assert [(each.tokens[0].i, each.arm, each.replicate) for each in found] == [
        (i, arm, replicate) for i in boundaries for arm in ("none", "neutral", "text") for replicate in range(3)
    ]
    for each in found:
        assert [token.i for token in each.tokens] == list(range(each.tokens[0].i, each.tokens[0].i + len(each.tokens)))
        assert len(generated(each)) == CHUNK
        assert len(injected(each)) == (0 if each.arm == "none" else 6)
        assert [token.phase for token in each.tokens] == ["prefill"] * len(injected(each)) + ["decode"] * CHUNK
        for token in each.tokens[-CHUNK:]:
            assert len(token.experts) == len(token.weights) == 4
            assert None not in token.experts
            assert token.logprob <= 0


def test_the_run_is_the_unforked_one(engine: Engine) -> None:
    def described(session: Session) -> list[Any]:
        return [
            (token.i, token.id, token.text, token.logprob, token.experts, token.weights) for token in session.tokens
        ]

    assert described(run(engine)) == described(run(engine, forks=None))


def test_branches_stand_between_the_tokens_of_their_boundary(engine: Engine) -> None:
    items = [item for item in run(engine).items if isinstance(item, Token | Branch)]
    first = next(n for n, item in enumerate(items) if isinstance(item, Branch))
    assert (items[first - 1].i, items[first + 9].i) == (PROMPT_TOKENS + 9, PROMPT_TOKENS + 10)


def test_texts_have_equally_many_tokens(mixtral: Engine) -> None:
    found = {each.arm: each for each in branches(run(mixtral))}
    codec = tiny.byte_tokenizer()
    assert {arm: (each.text, codec.decode(injected(each))) for arm, each in found.items()} == {
        "none": ("", ""),
        "neutral": ("ababab", "ababab"),
        "text": (" go on", " go on"),
    }
    longer = ForkPlan(text="hi", neutral="something else", replicates=1, first=2, every=9)
    cut = branches(run(mixtral, forks=longer))[1]
    assert (cut.arm, cut.text, len(injected(cut))) == ("neutral", "so", 2)


def test_a_neutral_turn_is_a_turn(chat: Engine) -> None:
    plan = ForkPlan(text="more please", neutral="so", form="turn", replicates=1, first=1, every=9)
    found = {each.arm: each for each in branches(run(chat, forks=plan))}
    codec = tiny.byte_tokenizer()
    texts = {arm: codec.decode(injected(each), skip_special_tokens=False) for arm, each in found.items()}
    assert texts["text"] == "</s>[user]more please</s>[assistant]"
    assert texts["neutral"] == "</s>[user]" + "sososososos" + "</s>[assistant]"
    assert len(injected(found["text"])) == len(injected(found["neutral"]))


def test_seeds_are_independent_and_reproducible(engine: Engine) -> None:
    once, again = branches(run(engine)), branches(run(engine))
    assert [(each.seed, generated(each)) for each in once] == [(each.seed, generated(each)) for each in again]
    assert len({each.seed for each in once}) == len(once) == 18
    assert len({tuple(generated(each)) for each in once}) == 18
    assert once[0].seed == branch_seed(4, 2, "none", 0)
    assert 0 <= min(each.seed for each in once) <= max(each.seed for each in once) < 2**31


def test_a_branch_s_seed_is_fixed_for_ever() -> None:
    """Sessions must stay comparable across versions."""
    assert [branch_seed(7, 10, arm, 3) for arm in ("none", "neutral", "text")] == [
        448044287,
        1579495800,
        1734956394,
    ]


def test_a_greedy_branch_without_text_is_what_the_run_goes_on_with(engine: Engine) -> None:
    session = run(engine, sampling=GREEDY)
    for each in branches(session):
        if each.arm == "none":
            i = each.tokens[0].i
            rest = [token.id for token in session.tokens if token.i >= i]
            compared = min(CHUNK, len(rest))
            assert compared == min(CHUNK, PROMPT_TOKENS + 23 - i)
            assert generated(each)[:compared] == rest[:compared]


def test_boundaries_count_whole_chunks_only(mixtral: Engine) -> None:
    script = (PROMPT_TOKENS + 2, Perturb(text="xy", at_once=True))
    session = run(mixtral, script, forks=ForkPlan(text="a", neutral="b", replicates=1, first=1, every=1), tokens=15)
    cut = session.perturbations[0].i
    assert sorted({each.tokens[0].i for each in branches(session)}) == [cut + 2 + CHUNK, cut + 2 + 2 * CHUNK]


def test_a_fork_comes_before_an_injection_at_the_same_boundary(mixtral: Engine) -> None:
    session = run(mixtral, perturb="zz", perturb_every=2, tokens=15)
    kinds = [
        type(item).__name__
        for item in session.items
        if not isinstance(item, State) and type(item).__name__ != "Progress"
    ]
    at = kinds.index("Perturbation")
    assert kinds[at - 9 : at] == ["Branch"] * 9
    assert kinds[at - 10] == "Token"
    assert branches(session)[0].tokens[0].i == session.perturbations[0].i


def test_the_beginning_is_a_boundary(mixtral: Engine) -> None:
    plan = ForkPlan(text="a", neutral="b", replicates=1, first=0, every=2)
    session = run(mixtral, forks=plan)
    assert sorted({each.tokens[0].i for each in branches(session)}) == [PROMPT_TOKENS + n for n in (0, 10, 20)]
    assert session.generated == run(mixtral, forks=None).generated


def test_end_of_text_is_masked_in_a_branch(mixtral: Engine, tmp_path_factory: pytest.TempPathFactory) -> None:
    ends = list(range(0, 258, 2))
    folder = tiny.write_model(tmp_path_factory.mktemp("ends") / "model", tiny.MIXTRAL | {"eos_token_id": ends})
    plan = ForkPlan(text="a", neutral="b", replicates=8, first=0, every=1000)
    found = branches(run(load_folder(folder), sampling=Sampling(seed=1), forks=plan))
    assert len(found) == 24
    assert any(token.would_stop for each in found for token in each.tokens)
    assert not any(token % 2 == 0 for each in found for token in generated(each))


def test_without_room_nothing_is_forked_and_it_is_said_once(short: Engine) -> None:
    plan = ForkPlan(text="abcdefgh", neutral="x", replicates=1, first=1, every=1)
    session = run(short, forks=plan, tokens=None)
    assert sorted({each.tokens[0].i for each in branches(session)}) == [15, 20, 25]
    assert session.refusals == [
        "nothing was forked: the context has no room for the 13 tokens of a text and a chunk",
    ]
    assert session.states == [("finished", "context", 40)]
    again = run(short, forks=plan, tokens=60, on_full_context="restart")
    assert len(again.refusals) == 1
    assert max(each.tokens[0].i for each in branches(again)) > 40


def test_commands_are_heard_between_branches(engine: Engine) -> None:
    """The position of a continuation's end is not reached by the run before the fork."""
    at = PROMPT_TOKENS + 10 + CHUNK
    script = [(at, Pause()), (10_000, Resume()), (at, Stop(why="enough"))]
    session = run(engine, *script)
    kinds = [
        item.state if isinstance(item, State) else type(item).__name__
        for item in session.items
        if isinstance(item, State | Branch)
    ]
    assert kinds == ["Branch", "paused", "resumed", "finished"]
    assert session.states[-1] == ("finished", "enough", PROMPT_TOKENS + 10)


def test_changes_asked_for_in_a_fork_hold_after_it(engine: Engine) -> None:
    at = PROMPT_TOKENS + 10 + CHUNK
    session = run(engine, (at, SetTap(on=False)), (at, SetSampling(temperature=0.0)), tokens=20)
    changes = [item for item in session.items if isinstance(item, Change)]
    assert [(change.i, change.tap, change.sampling and change.sampling.temperature) for change in changes] == [
        (PROMPT_TOKENS + 10, False, None),
        (PROMPT_TOKENS + 10, None, 0.0),
    ]
    for each in branches(session):
        assert all(token.weights is not None for token in each.tokens if token.source == "generated")
    after = [token for token in session.tokens if token.i >= PROMPT_TOKENS + 10]
    assert {(token.weights is None, token.choice_gap) for token in after} == {(True, 0.0)}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            ForkPlan(text="", neutral="b"),
            "the text of a fork is empty: give some text",
        ),
        (
            ForkPlan(text="a", neutral=""),
            "the neutral text of a fork is empty: give some text",
        ),
        (
            ForkPlan(text="a", neutral="b", replicates=0),
            "cannot fork 0 continuations every 1 chunks from chunk 0 on: "
            "give 1 or more continuations, 1 or more chunks, and a first one of 0 or more",
        ),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_an_error(mixtral: Engine, plan: ForkPlan, message: str) -> None:
    [state] = run(mixtral, forks=plan).events
    assert isinstance(state, State)
    assert (state.state, state.message) == ("error", message)
