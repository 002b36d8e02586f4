"""The course of a run: generation, injections, pauses, the end, and the order of their events."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from moe_watch.backends.engine import Engine
from moe_watch.backends.generation.observation import NO_PREDICTION
from moe_watch.backends.protocol import MemoryCounters, Perturb, SetRate, Start, Stop
from moe_watch.routing.events import Progress, Sampling, State, Token
from tests.backends import tiny
from tests.backends.conftest import load_folder
from tests.backends.scripted import GREEDY, Session, start
from tests.backends.tiny import BOS

PROMPT = "def f(x):"
PROMPT_TOKENS = 1 + len(PROMPT)

Changed = Callable[..., pathlib.Path]


def run(engine: Engine, begin: Start, *script: tuple[int, object]) -> Session:
    return Session(engine).run(begin, *script)


@pytest.fixture
def short(mixtral_folder: pathlib.Path, changed: Changed) -> Engine:
    """A context of 40 tokens."""
    return load_folder(changed(mixtral_folder, max_position_embeddings=40))


@pytest.fixture
def stopping(mixtral: Engine, mixtral_folder: pathlib.Path, changed: Changed) -> Engine:
    """Ends after its first few tokens when it is greedy."""
    greedy = run(mixtral, start(tokens=8)).generated
    return load_folder(changed(mixtral_folder, eos_token_id=greedy[3]))


# -- tokens


def test_a_prediction_that_is_no_number_ends_the_run(mixtral_folder: pathlib.Path, changed: Changed) -> None:
    folder = changed(mixtral_folder)
    (path,) = folder.glob("*.safetensors")
    weights = mx.load(str(path))
    mx.save_safetensors(str(path), weights | {"model.norm.weight": mx.full(weights["model.norm.weight"].shape, np.nan)})
    session = run(load_folder(folder), start(tokens=8))
    (error,) = [event for event in session.events if isinstance(event, State) and event.state == "error"]
    assert error.message is not None
    assert NO_PREDICTION in error.message
    assert session.generated == []


def test_tokens_are_numbered_and_described(mixtral: Engine) -> None:
    session = run(mixtral, start(tokens=12))
    tokens = session.tokens
    assert [token.i for token in tokens] == list(range(PROMPT_TOKENS + 12))
    prompt, generated = tokens[:PROMPT_TOKENS], tokens[PROMPT_TOKENS:]
    assert {(token.phase, token.source) for token in prompt} == {("prefill", "prompt")}
    assert {(token.phase, token.source) for token in generated} == {("decode", "generated")}
    assert (prompt[0].id, "".join(token.text for token in prompt)) == (BOS, "<s>" + PROMPT)
    assert {(token.logprob, token.top_margin, token.choice_gap) for token in prompt} == {(None, None, None)}
    for token in generated:
        assert token.logprob < 0
        assert 0 <= token.top_margin <= 1
        assert token.choice_gap == 0
    for token in tokens:
        assert len(token.experts) == len(token.weights) == 2 * 2
        assert sum(token.weights) == pytest.approx(2 * 10_000, abs=2)
        assert len(token.entropy) == len(token.margin) == 2
    assert session.states == [("finished", "length", PROMPT_TOKENS + 12)]


def test_no_token_asked_for(mixtral: Engine) -> None:
    session = run(mixtral, start(tokens=0))
    assert len(session.tokens) == PROMPT_TOKENS
    assert session.states == [("finished", "length", PROMPT_TOKENS)]


def test_the_prompt_can_be_a_turn_or_raw(chat: Engine) -> None:
    def text(raw: bool) -> str:
        return "".join(token.text for token in run(chat, start("hi", tokens=0, raw=raw)).tokens)

    assert text(raw=False) == "[user]hi</s>[assistant]"
    assert text(raw=True) == "<s>hi"


def test_what_the_first_evaluation_also_does_is_told_once(mixtral_folder: pathlib.Path) -> None:
    engine = load_folder(mixtral_folder)
    engine.first_use = "this takes its time"
    first, second = (
        [item for item in run(engine, start(tokens=0)).items if isinstance(item, Progress)] for _ in range(2)
    )
    assert (first[0].done, first[0].total, first[0].note) == (0, PROMPT_TOKENS, "this takes its time")
    assert {item.note for item in first} == {"this takes its time"}
    assert {item.note for item in second} == {None}


def test_on_a_processor_mlx_says_that_its_kernels_may_have_to_be_compiled(mixtral_folder: pathlib.Path) -> None:
    note = load_folder(mixtral_folder).first_use
    assert (note is not None) == (mx.default_device() == mx.Device(mx.cpu))


def test_prefill_reports_its_progress(mixtral: Engine) -> None:
    mixtral.first_use = None
    items = run(mixtral, start("x" * 600, tokens=0)).items
    progress = [item for item in items if isinstance(item, Progress)]
    assert [(item.done, item.total, item.unit) for item in progress] == [
        (512, 601, "tokens"),
        (600, 601, "tokens"),
        (601, 601, "tokens"),
    ]
    assert [type(item) for item in items[:2]] == [Progress, Token]


def test_batches_are_bounded(mixtral: Engine) -> None:
    session = run(mixtral, start("x" * 300, tokens=150))
    sizes = [len(batch.items) for batch in session.batches]
    assert max(sizes) == 64
    assert len(session.tokens) == 301 + 150


def test_a_batch_says_what_single_tokens_say(mixtral: Engine) -> None:
    together = run(mixtral, start(tokens=50))
    apart = run(mixtral, start(tokens=50, rate=1000.0))
    assert len(together.batches) < len(apart.batches)
    assert [
        (token.id, token.experts, token.weights, token.entropy, token.margin, token.text) for token in together.tokens
    ] == [(token.id, token.experts, token.weights, token.entropy, token.margin, token.text) for token in apart.tokens]


# -- pace


def test_a_rate_paces_and_sends_every_token_at_once(mixtral: Engine) -> None:
    session = run(mixtral, start(tokens=5, rate=10.0))
    times = [token.t for token in session.tokens if token.source == "generated"]
    assert times == [0.0, 0.1, 0.2, 0.3, 0.4]
    generated = [[item for item in batch.items if isinstance(item, Token)] for batch in session.batches[-6:-1]]
    assert [len(tokens) for tokens in generated] == [1] * 5


def test_the_rate_can_be_changed(mixtral: Engine) -> None:
    session = run(mixtral, start(tokens=4, rate=10.0), (PROMPT_TOKENS + 2, SetRate(1.0)))
    assert [token.t for token in session.tokens][-4:] == [0.0, 0.1, 0.2, 1.2]


# -- injections


def test_text_is_injected_after_a_whole_chunk(mixtral: Engine) -> None:
    session = run(mixtral, start(tokens=15, chunk_size=5), (PROMPT_TOKENS + 7, Perturb(text=" go on")))
    [perturbation] = session.perturbations
    assert perturbation.i == PROMPT_TOKENS + 10
    assert (perturbation.form, perturbation.source, perturbation.at_once) == ("raw", "key", False)
    position = session.events.index(perturbation)
    injected = session.events[position + 1 : position + 7]
    assert [token.i for token in injected] == list(range(perturbation.i, perturbation.i + 6))
    assert {(token.phase, token.source, token.logprob) for token in injected} == {("prefill", "injected", None)}
    assert [token.id for token in injected] == perturbation.ids
    assert "".join(token.text for token in injected).endswith(" go on")
    assert len(session.generated) == 15


def test_text_can_be_injected_at_once(mixtral: Engine) -> None:
    session = run(mixtral, start(tokens=12, chunk_size=5), (PROMPT_TOKENS + 2, Perturb(text="ab", at_once=True)))
    [perturbation] = session.perturbations
    assert (perturbation.i, perturbation.at_once) == (PROMPT_TOKENS + 3, True)


def test_an_injection_at_once_begins_a_new_chunk(mixtral: Engine) -> None:
    script = [(PROMPT_TOKENS + 2, Perturb(text="ab", at_once=True)), (PROMPT_TOKENS + 5, Perturb(text="cd"))]
    session = run(mixtral, start(tokens=20, chunk_size=5), *script)
    assert [perturbation.i for perturbation in session.perturbations] == [PROMPT_TOKENS + 3, PROMPT_TOKENS + 3 + 2 + 5]


def test_injections_come_in_the_order_asked_for(mixtral: Engine) -> None:
    script = [(PROMPT_TOKENS + 1, Perturb(text="a")), (PROMPT_TOKENS + 1, Perturb(text="bc"))]
    session = run(mixtral, start(tokens=8, chunk_size=5), *script)
    assert [(item.text, item.i) for item in session.perturbations] == [
        ("a", PROMPT_TOKENS + 5),
        ("bc", PROMPT_TOKENS + 6),
    ]


def test_text_can_come_on_a_schedule(mixtral: Engine) -> None:
    session = run(mixtral, start(tokens=20, chunk_size=3, perturb="ab", perturb_every=2))
    expected = [PROMPT_TOKENS + 6, PROMPT_TOKENS + 14, PROMPT_TOKENS + 22]
    assert [(item.i, item.source) for item in session.perturbations] == [(i, "schedule") for i in expected]


def test_a_schedule_ends_with_the_run(mixtral: Engine) -> None:
    session = run(mixtral, start(tokens=6, chunk_size=3, perturb="ab", perturb_every=2))
    assert session.perturbations == []
    assert session.states == [("finished", "length", PROMPT_TOKENS + 6)]


def test_what_follows_an_injection_follows_from_the_whole_text(mixtral: Engine) -> None:
    """With greedy sampling, tokens and routing are the same when all tokens before them are one prompt."""
    session = run(mixtral, start(tokens=20, chunk_size=5), (PROMPT_TOKENS + 3, Perturb(text="\nclass A:")))
    [perturbation] = session.perturbations
    end = perturbation.i + len(perturbation.ids)
    ids = [token.id for token in session.tokens]
    mixtral.reset()
    mixtral.configure(GREEDY, reseed=True)
    for _ in mixtral.prefill(ids[:end], lambda _: None):
        pass
    assert [mixtral.draw().id for _ in ids[end:]] == ids[end:]


def test_a_turn_needs_a_template(mixtral: Engine, chat: Engine) -> None:
    script = (PROMPT_TOKENS + 1, Perturb(text="more", form="turn"))
    [raw] = run(mixtral, start(tokens=8, chunk_size=5), script).perturbations
    assert (raw.form, len(raw.ids)) == ("raw", 4)
    session = run(chat, start(tokens=8, chunk_size=5, raw=True), script)
    [turn] = session.perturbations
    assert turn.form == "turn"
    assert (
        "".join(token.text for token in session.tokens if token.source == "injected") == "</s>[user]more</s>[assistant]"
    )


def test_a_text_that_the_template_leaves_out_is_said(tmp_path: pathlib.Path) -> None:
    """At the prompt, and at every later turn, beside what the model saw in its place."""
    template = (
        "{% for m in messages %}[{{ m.role }}]{% if 'secret' not in m.content %}{{ m.content }}{% endif %}{% endfor %}"
    )
    engine = load_folder(tiny.write_model(tmp_path / "m", chat_template=template))
    script = (8, Perturb(text="another secret", form="turn"))
    session = run(engine, start(prompt="a secret", tokens=8, chunk_size=5), script)
    said = "the chat template leaves out or changes the user's text: the model gets '[user]'"
    assert session.warnings == [said, said]
    assert len(session.generated) == 8
    plain = run(engine, start(prompt="no riddle", tokens=8, chunk_size=5))
    assert plain.warnings == []
    [raw] = run(engine, start(prompt="a secret", raw=True, tokens=8, chunk_size=5)).warnings
    assert "leaves out" not in raw


def test_an_empty_text_is_refused(mixtral: Engine) -> None:
    session = run(mixtral, start(tokens=8, chunk_size=5), (PROMPT_TOKENS + 1, Perturb(text="")))
    assert session.refusals == ["nothing was injected: the text is empty"]
    assert session.refused == ["inject"]
    assert len(session.generated) == 8


# -- ends


def test_end_of_text_ends_the_run(stopping: Engine) -> None:
    session = run(stopping, start(sampling=Sampling(temperature=0.0, seed=0)))
    assert session.states[0][:2] == ("finished", "eos")
    last = session.tokens[-1]
    assert last.id in stopping._loaded.text.ends
    assert len(last.experts) == 4
    assert None not in last.experts
    assert not last.would_stop


def test_end_of_text_can_be_masked(stopping: Engine) -> None:
    session = run(stopping, start(tokens=20))
    assert session.states == [("finished", "length", PROMPT_TOKENS + 20)]
    assert any(token.would_stop for token in session.tokens)
    assert stopping._loaded.text.ends.isdisjoint(session.generated)


def test_a_run_goes_on_after_end_of_text(stopping: Engine) -> None:
    begin = start(sampling=Sampling(temperature=0.0, seed=0), chunk_size=5, tokens=30)
    session = run(stopping, begin, (10_000, Perturb(text="go")))
    end = session.states[0][2]
    assert session.states[:2] == [("finished", "eos", end), ("resumed", "perturbation", end)]
    [perturbation] = session.perturbations
    assert (perturbation.i, perturbation.at_once) == (end, True)
    assert session.tokens[end + 2].source == "generated"


def test_text_that_waits_when_the_run_ends_is_injected_then(stopping: Engine) -> None:
    begin = start(sampling=Sampling(temperature=0.0, seed=0), chunk_size=1000)
    session = run(stopping, begin, (PROMPT_TOKENS + 1, Perturb(text="go")))
    assert [state[:2] for state in session.states[:2]] == [("finished", "eos"), ("resumed", "perturbation")]
    assert session.perturbations[0].i == session.states[0][2]


def test_after_its_length_a_run_goes_on_without_one(mixtral: Engine) -> None:
    script = [(10_000, Perturb(text="go")), (PROMPT_TOKENS + 5 + 2 + 40, Stop())]
    session = run(mixtral, start(tokens=5), *script)
    assert session.states == [
        ("finished", "length", PROMPT_TOKENS + 5),
        ("resumed", "perturbation", PROMPT_TOKENS + 5),
        ("finished", "user", PROMPT_TOKENS + 5 + 2 + 40),
    ]


def test_a_full_context_ends_the_run(short: Engine) -> None:
    session = run(short, start())
    assert session.states == [("finished", "context", 40)]
    assert None not in session.tokens[-1].experts


def test_a_full_context_begins_anew_with_the_prompt(short: Engine) -> None:
    session = run(short, start(tokens=70, on_full_context="restart", sampling=Sampling(seed=1, stop="never")))
    assert session.states == [
        ("fresh_context", "context", 40),
        ("fresh_context", "context", 80),
        ("finished", "length", 70 + 3 * PROMPT_TOKENS),
    ]
    assert [token.i for token in session.tokens] == list(range(len(session.tokens)))
    again = session.tokens[40 : 40 + PROMPT_TOKENS]
    assert {token.source for token in again} == {"prompt"}
    assert [token.experts for token in again] == [token.experts for token in session.tokens[:PROMPT_TOKENS]]


def test_going_on_after_a_full_context_takes_a_fresh_one(short: Engine) -> None:
    session = run(short, start(), (10_000, Perturb(text="ab")))
    assert session.states[:3] == [
        ("finished", "context", 40),
        ("resumed", "perturbation", 40),
        ("fresh_context", "context", 40),
    ]
    assert session.perturbations[0].i == 40 + PROMPT_TOKENS


def test_text_that_does_not_fit_any_more(short: Engine) -> None:
    script = (36, Perturb(text="abcdef", at_once=True))
    refused = run(short, start(), script)
    assert refused.refusals == ["nothing was injected: the text has 6 tokens, and the context has room for 3"]
    assert refused.states[0] == ("finished", "context", 40)
    restarted = run(short, start(tokens=40, on_full_context="restart"), script)
    assert restarted.states[0] == ("fresh_context", "context", 37)
    assert restarted.perturbations[0].i == 37 + PROMPT_TOKENS


def test_text_that_never_fits_is_refused(short: Engine) -> None:
    session = run(short, start(), (10_000, Perturb(text="x" * 40)))
    assert len(session.refusals) == 1
    assert session.states == [("finished", "context", 40)]


def test_a_prompt_that_does_not_fit_is_an_error(short: Engine) -> None:
    session = run(short, start("x" * 39))
    [state] = session.events
    assert isinstance(state, State)
    assert (state.state, state.i) == ("error", 0)
    assert state.message == "the prompt has 40 tokens, the context holds 40: shorten the prompt"


def test_an_empty_prompt_is_what_begins_a_text(mixtral: Engine) -> None:
    assert [token.id for token in run(mixtral, start("", tokens=0)).tokens] == [BOS]


def test_a_prompt_of_nothing_is_an_error(mixtral_folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = shutil.copytree(mixtral_folder, tmp_path / "plain")
    tokenizer = json.loads((folder / "tokenizer.json").read_text()) | {"post_processor": None}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    [state] = run(load_folder(folder), start("")).events
    assert (state.state, state.message) == ("error", "the prompt is empty: give at least one token to begin with")


def test_a_tokenizer_that_makes_nothing_of_a_prompt_is_named(
    mixtral_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_folder(mixtral_folder)
    monkeypatch.setattr(engine, "encode", lambda *_, **__: [])
    [state] = run(engine, start("def")).events
    assert isinstance(state, State)
    assert state.message == (
        f"the tokenizer of {engine.model.name} returns no tokens for the prompt: "
        "give another prompt, or a model file that contains its tokenizer"
    )


# -- memory


@pytest.mark.parametrize(("rate", "reports"), [(4.0, 3), (1000.0, 1)])
def test_memory_is_reported_at_most_every_second(mixtral: Engine, rate: float, reports: int) -> None:
    """Twelve tokens after the prompt at `rate` per second: 3 s, or 12 ms."""
    session = run(mixtral, start(tokens=12, rate=rate))
    found = [item.memory for item in session.items if isinstance(item, MemoryCounters)]
    assert len(found) == reports
    assert all(memory.peak >= memory.active > 0 for memory in found)
