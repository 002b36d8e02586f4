"""The real engine on tiny models, against a copy of the model without a tap."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from moe_watch.backends.engine import Engine, RouterOutputs, SampledToken
from moe_watch.backends.generation.observation import captured
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Sampling
from moe_watch.routing.router.observe import observe
from tests.backends import tiny
from tests.backends.conftest import load_folder
from tests.backends.reference import log_softmax, reference

GREEDY = Sampling(temperature=0.0, seed=0, stop="never")
PROMPT = list(range(2, 32))


def begin(engine: Engine, sampling: Sampling = GREEDY, prompt: list[int] = PROMPT) -> list[RouterOutputs]:
    engine.reset()
    engine.configure(sampling, reseed=True)
    return list(engine.prefill(prompt, lambda _: None))


def draw(engine: Engine, count: int) -> list[SampledToken]:
    return [engine.draw() for _ in range(count)]


def sets(routings: list[RouterOutputs]) -> np.ndarray:
    """Selected experts [T, L, k] of successive steps, ascending."""
    layers = range(len(routings[0].experts))
    stacked = np.stack([np.concatenate([routing.experts[layer] for routing in routings]) for layer in layers], axis=1)
    return np.sort(stacked, axis=-1)


def logits(routings: list[RouterOutputs]) -> np.ndarray:
    layers = range(len(routings[0].logits))
    return np.stack([np.concatenate([routing.logits[layer] for routing in routings]) for layer in layers], axis=1)


MODELS = {
    "mixtral": {"config": tiny.MIXTRAL},
    "qwen3_moe": {"config": tiny.QWEN3},
    "qwen3_moe, weights as they are": {"config": tiny.QWEN3 | {"norm_topk_prob": False}},
    "qwen2_moe": {"config": tiny.QWEN2},
    "mixtral, 4 bits": {"config": tiny.MIXTRAL, "bits": 4},
}


@pytest.mark.parametrize("name", MODELS)
def test_routing_is_that_of_the_unwatched_model(name: str, tmp_path: pathlib.Path) -> None:
    folder = tiny.write_model(tmp_path / "model", **MODELS[name])
    engine = load_folder(folder)
    prompt = begin(engine)
    drawn = draw(engine, 50)
    routings = prompt + [token.routing for token in drawn]
    ids = PROMPT + [token.id for token in drawn]
    expected = reference(folder, ids, engine.model.experts_per_token)
    assert [sum(routing.tokens for routing in prompt), len(sets(routings))] == [len(PROMPT), len(ids)]
    assert (sets(routings) == expected.sets).all()
    np.testing.assert_allclose(logits(routings), expected.logits, atol=2e-5)


def test_half_precision_logits_are_those_that_selected(tmp_path: pathlib.Path) -> None:
    engine = load_folder(tiny.write_model(tmp_path / "model", bits=4, dtype=mx.bfloat16))
    routings = begin(engine) + [token.routing for token in draw(engine, 50)]
    caught, experts = logits(routings), sets(routings)
    selected = np.take_along_axis(caught, experts, axis=-1)
    rest = caught.copy()
    np.put_along_axis(rest, experts, -np.inf, axis=-1)
    assert (selected.min(-1) >= rest.max(-1)).all()
    assert engine.backend.dtype == "bfloat16"
    assert engine.model.quantization == "4-bit affine, groups of 32"


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "qwen3_moe, weights as they are", "qwen2_moe"])
def test_recorded_weights_are_those_the_model_applies(name: str, tmp_path: pathlib.Path) -> None:
    """Each block's output is recomputed from its experts' outputs and the observed weights."""
    folder = tiny.write_model(tmp_path / "model", **MODELS[name])
    gate = load_folder(folder).model.gate
    expected = reference(folder, PROMPT, MODELS[name]["config"]["num_experts_per_tok"])
    assert "weights" in captured(gate)
    observation = observe(expected.logits, expected.sets, gate)
    for layer, (block, given) in enumerate(zip(expected.blocks, expected.inputs, strict=True)):
        every = mx.broadcast_to(mx.arange(expected.logits.shape[-1]), (1, len(PROMPT), expected.logits.shape[-1]))
        outputs = np.array(block.switch_mlp(given, every))[0]
        chosen = np.take_along_axis(outputs, observation.experts[:, layer, :, None], axis=1)
        combined = (chosen * observation.weights[:, layer, :, None] * 1e-4).sum(1)
        if "shared_expert" in block:
            combined += np.array(mx.sigmoid(block.shared_expert_gate(given)) * block.shared_expert(given))[0]
        np.testing.assert_allclose(combined, np.array(block(given))[0], atol=2e-4 * np.abs(outputs).max())


def test_predictions_are_those_of_the_unwatched_model(mixtral: Engine, mixtral_folder: pathlib.Path) -> None:
    begin(mixtral, Sampling(seed=3, stop="never"))
    drawn = draw(mixtral, 40)
    ids = PROMPT + [token.id for token in drawn]
    predicted = log_softmax(reference(mixtral_folder, ids, 2).output)[len(PROMPT) - 1 : -1]
    two_best = np.sort(np.exp(predicted), axis=-1)[:, -2:]
    chosen = np.take_along_axis(predicted, np.array(ids[len(PROMPT) :])[:, None], axis=-1)[:, 0]
    np.testing.assert_allclose([token.logprob for token in drawn], chosen, atol=1e-4)
    np.testing.assert_allclose([token.top_margin for token in drawn], two_best[:, 1] - two_best[:, 0], atol=1e-5)
    np.testing.assert_allclose([token.choice_gap for token in drawn], two_best[:, 1] - np.exp(chosen), atol=1e-5)


def test_greedy_takes_the_likeliest(mixtral: Engine, mixtral_folder: pathlib.Path) -> None:
    begin(mixtral, Sampling(temperature=0.0, seed=0))
    drawn = draw(mixtral, 40)
    ids = PROMPT + [token.id for token in drawn]
    likeliest = reference(mixtral_folder, ids, 2).output.argmax(-1)[len(PROMPT) - 1 : -1]
    assert [token.id for token in drawn] == likeliest.tolist()
    assert {token.choice_gap for token in drawn} == {0.0}


@pytest.mark.parametrize(
    "sampling",
    [Sampling(seed=5), Sampling(seed=5, top_p=0.5), Sampling(seed=5, top_k=5), Sampling(seed=5, stop="never")],
    ids=["all", "top-p", "top-k", "never stops"],
)
def test_the_seed_decides(mixtral: Engine, sampling: Sampling) -> None:
    def ids(seed: int) -> list[int]:
        begin(
            mixtral, Sampling(**{name: getattr(sampling, name) for name in sampling.__struct_fields__} | {"seed": seed})
        )
        return [token.id for token in draw(mixtral, 30)]

    assert ids(5) == ids(5)
    assert ids(5) != ids(6)


def test_top_k_keeps_to_the_likeliest(mixtral: Engine, mixtral_folder: pathlib.Path) -> None:
    begin(mixtral, Sampling(seed=1, top_k=2))
    drawn = draw(mixtral, 40)
    ids = PROMPT + [token.id for token in drawn]
    order = np.argsort(-reference(mixtral_folder, ids, 2).output, axis=-1)[len(PROMPT) - 1 : -1]
    ranks = [row.tolist().index(token.id) for row, token in zip(order, drawn, strict=True)]
    assert set(ranks) == {0, 1}


def test_a_pause_after_the_last_token_changes_nothing(mixtral: Engine) -> None:
    begin(mixtral, Sampling(seed=8))
    uninterrupted = [token.id for token in draw(mixtral, 30)]
    begin(mixtral, Sampling(seed=8))
    interrupted = [mixtral.draw(last=number % 3 == 0).id for number in range(30)]
    assert interrupted == uninterrupted


def test_given_tokens_need_an_empty_pipeline(mixtral: Engine) -> None:
    begin(mixtral)
    mixtral.draw()
    with pytest.raises(RuntimeError, match="last=True"):
        next(mixtral.prefill([2, 3], lambda _: None))
    mixtral.draw(last=True)
    assert sum(routing.tokens for routing in mixtral.prefill([2, 3], lambda _: None)) == 2
    assert mixtral.position == len(PROMPT) + 4


def test_injection_equals_a_run_over_the_whole_text(mixtral: Engine) -> None:
    begin(mixtral)
    before = [*draw(mixtral, 7), mixtral.draw(last=True)]
    injected = list(mixtral.prefill([9, 8, 7], lambda _: None))
    after = draw(mixtral, 20)
    text = PROMPT + [token.id for token in before] + [9, 8, 7]
    whole = begin(mixtral, prompt=text)
    again = draw(mixtral, 20)
    assert [token.id for token in after] == [token.id for token in again]
    pieces = [token.routing for token in before] + injected + [token.routing for token in after]
    fresh = whole + [token.routing for token in again]
    assert (sets(pieces) == sets(fresh)[len(PROMPT) :]).all()


def test_long_prompts_come_in_steps(mixtral: Engine, mixtral_folder: pathlib.Path) -> None:
    prompt = np.random.default_rng(0).integers(2, 258, 1200).tolist()
    done: list[int] = []
    mixtral.reset()
    routings = list(mixtral.prefill(prompt, done.append))
    assert done == [512, 1024, 1199, 1200]
    assert (sets(routings) == reference(mixtral_folder, prompt, 2).sets).all()


def test_end_of_text_ends_or_is_marked(mixtral_folder: pathlib.Path, changed: Callable[..., pathlib.Path]) -> None:
    engine = load_folder(mixtral_folder)
    begin(engine)
    greedy = [token.id for token in draw(engine, 12)]
    end = greedy[6]
    first = greedy.index(end)
    stopping = load_folder(changed(mixtral_folder, eos_token_id=end))
    begin(stopping, Sampling(temperature=0.0, seed=0))
    drawn = draw(stopping, first + 1)
    assert [token.id for token in drawn] == greedy[: first + 1]
    assert [token.ends for token in drawn] == [False] * first + [True]
    assert stopping.position == len(PROMPT) + first + 1
    begin(stopping, GREEDY)
    going_on = draw(stopping, 40)
    assert [token.would_stop for token in going_on[: first + 1]] == [False] * first + [True]
    assert going_on[first].id != end
    assert going_on[first].choice_gap > 0
    assert end not in {token.id for token in going_on}
    assert not any(token.ends for token in going_on)


def test_sampled_end_of_text_is_replaced(mixtral_folder: pathlib.Path, changed: Callable[..., pathlib.Path]) -> None:
    engine = load_folder(changed(mixtral_folder, eos_token_id=list(range(100))))
    begin(engine, Sampling(seed=2, stop="never"))
    drawn = draw(engine, 60)
    assert min(token.id for token in drawn) >= 100
    assert {token.would_stop for token in drawn} == {True, False}


@pytest.mark.parametrize(
    ("sampling", "what"),
    [
        (Sampling(temperature=-1, seed=0), "temperature"),
        (Sampling(top_p=0, seed=0), "top-p"),
        (Sampling(top_k=-1, seed=0), "top-k"),
    ],
)
def test_impossible_sampling_is_refused(mixtral: Engine, sampling: Sampling, what: str) -> None:
    with pytest.raises(UserError, match=what):
        mixtral.configure(sampling, reseed=False)


def test_a_turn_begins_and_continues_a_conversation(chat: Engine) -> None:
    codec = tiny.byte_tokenizer()
    first = chat.encode("hi", turn=True, first=True)
    assert codec.decode(first, skip_special_tokens=False) == "[user]hi</s>[assistant]"
    begin(chat, prompt=first)
    chat.draw(last=True)
    following = chat.encode("go on", turn=True, first=False)
    assert codec.decode(following, skip_special_tokens=False) == "</s>[user]go on</s>[assistant]"
    list(chat.prefill([tiny.EOS], lambda _: None))
    following = chat.encode("go on", turn=True, first=False)
    assert codec.decode(following, skip_special_tokens=False) == "[user]go on</s>[assistant]"


def test_a_failing_template_is_a_plain_error(tmp_path: pathlib.Path) -> None:
    engine = load_folder(tiny.write_model(tmp_path / "m", chat_template="{{ raise_exception('no users here') }}"))
    with pytest.raises(UserError, match=r"no users here.*--raw"):
        engine.encode("hi", turn=True, first=True)


def test_raw_text_begins_once(chat: Engine) -> None:
    assert chat.encode("a", turn=False, first=True)[0] == tiny.BOS
    assert tiny.BOS not in chat.encode("a", turn=False, first=False)


def test_characters_come_whole(mixtral: Engine) -> None:
    text = "é日本😀 a"
    ids = mixtral.encode(text, turn=False, first=False)
    detokenizer = mixtral.detokenizer()
    pieces = [detokenizer.add(token) for token in ids]
    assert pieces == ["", "é", "", "", "日", "", "", "本", "", "", "", "😀", " ", "a"]
    broken = mixtral.detokenizer()
    assert "".join(broken.add(token) for token in [ids[0], ids[-1], tiny.EOS]) == "\N{REPLACEMENT CHARACTER}a</s>"


def test_memory_counters_are_those_of_the_allocator(tmp_path: pathlib.Path) -> None:
    engine = load_folder(tiny.write_model(tmp_path / "model", tiny.MIXTRAL))
    begin(engine)
    before = engine.memory()
    assert before is not None
    kept = mx.zeros((1_000_000,), mx.float32)
    mx.eval(kept)
    after = engine.memory()
    assert after is not None
    assert after.active - before.active >= 4_000_000
    assert after.peak >= after.active >= kept.nbytes
