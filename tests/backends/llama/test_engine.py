"""llama.cpp on tiny models and on pocket, against MLX, `transformers`, and itself."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import gguf
import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")


from moe_watch.backends.engine import Engine, RouterOutputs, SampledToken
from moe_watch.backends.llama import loading as llama_loading
from moe_watch.backends.llama.engine import load
from moe_watch.backends.mlx.engine import load as load_mlx
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import State
from moe_watch.routing.router.gates import softmax
from tests.backends import llama_files, pocket_variants, tiny
from tests.backends.conftest import load_folder
from tests.backends.engines.test_pocket import GOLDEN
from tests.backends.llama_files import Open
from tests.backends.mlx.test_engine import PROMPT, begin, draw, logits, sets
from tests.backends.reference import reference
from tests.backends.scripted import Session, start

TIE = 1e-5
"""Two router probabilities closer than this may come out in either order on different engines."""


@pytest.fixture(scope="module")
def open_gguf() -> Iterator[Open]:
    with llama_files.opening() as load_path:
        yield load_path


@pytest.fixture(scope="module")
def mixtral_path(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return llama_files.write_gguf(tmp_path_factory.mktemp("gguf") / "mixtral.gguf")


@pytest.fixture(scope="module")
def mixtral_gguf(open_gguf: Open, mixtral_path: pathlib.Path) -> Engine:
    return open_gguf(mixtral_path)


@pytest.fixture(scope="module")
def pocket(open_gguf: Open) -> Engine:
    return open_gguf("pocket")


def assert_same_routing(routings: list[RouterOutputs], expected: list[RouterOutputs]) -> None:
    """The same sets and probabilities wherever llama.cpp computed them."""
    ours, theirs = sets(routings), sets(expected)
    computed = ours[..., 0] >= 0
    assert computed[:, :-1].all()
    assert (ours == theirs)[computed].all()
    probabilities = softmax(logits(expected))
    np.testing.assert_allclose(np.exp(logits(routings))[computed], probabilities[computed], atol=1e-4)


# -- the same routing as elsewhere


@pytest.mark.parametrize("config", [tiny.MIXTRAL, llama_files.QWEN2, llama_files.QWEN3], ids=lambda c: c["model_type"])
def test_routing_is_that_of_mlx(config: dict[str, Any], open_gguf: Open, tmp_path: pathlib.Path) -> None:
    ours = open_gguf(llama_files.write_gguf(tmp_path / "model.gguf", config))
    theirs = load_folder(tiny.write_model(tmp_path / "model", config))
    assert ours.model.layers == theirs.model.layers
    runs = []
    for engine in (ours, theirs):
        prompt = begin(engine)
        runs.append((prompt, draw(engine, 50)))
    [(our_prompt, our_tokens), (their_prompt, their_tokens)] = runs
    assert [token.id for token in our_tokens] == [token.id for token in their_tokens]
    assert_same_routing(
        our_prompt + [token.routing for token in our_tokens], their_prompt + [token.routing for token in their_tokens]
    )
    for name in ("logprob", "top_margin", "choice_gap"):
        values = [[getattr(token, name) for token in tokens] for tokens in (our_tokens, their_tokens)]
        np.testing.assert_allclose(*values, atol=1e-4)


def test_pocket_routes_as_in_transformers(pocket: Engine) -> None:
    golden = np.load(GOLDEN)
    ids, prompt_tokens = golden["ids"].tolist(), int(golden["prompt_tokens"])
    prompt = pocket.encode(str(golden["prompt"]), turn=False, first=True)
    assert prompt == ids[:prompt_tokens]
    routings = begin(pocket, prompt=prompt)
    drawn = draw(pocket, len(ids) - prompt_tokens)
    assert [token.id for token in drawn] == ids[prompt_tokens:]
    routings += [token.routing for token in drawn]
    experts = sets(routings)
    computed = experts[..., 0] >= 0
    assert computed.sum() == computed.size - (prompt_tokens - 1)
    assert not computed[: prompt_tokens - 1, -1].any()
    assert (experts == np.sort(golden["experts"], axis=-1))[computed].all()
    expected = softmax(golden["router_logits"])
    np.testing.assert_allclose(np.exp(logits(routings))[computed], expected[computed], atol=1e-3)


def test_pocket_is_the_same_on_both_engines(pocket: Engine) -> None:
    """Same tokens, same text, same experts of every token in every layer, over 200 tokens."""
    other = load_mlx(catalog.locate("pocket", "mlx"), options=EngineOptions(), progress=lambda _: None)
    prompt = pocket.encode("class Stack:\n    def push(self, item):\n", turn=False, first=True)
    assert prompt == other.encode("class Stack:\n    def push(self, item):\n", turn=False, first=True)
    runs = []
    for engine in (pocket, other):
        routings = begin(engine, prompt=prompt)
        tokens = draw(engine, 200)
        text = "".join(map(engine.detokenizer().add, [token.id for token in tokens]))
        runs.append((text, tokens, routings + [token.routing for token in tokens]))
    [(our_text, our_tokens, ours), (their_text, their_tokens, theirs)] = runs
    assert [token.id for token in our_tokens] == [token.id for token in their_tokens]
    assert our_text == their_text
    assert differing(ours, theirs) == [], f"the choice hangs by a thread at {ties(theirs)}"
    assert_same_routing(ours, theirs)


def differing(ours: list[RouterOutputs], theirs: list[RouterOutputs]) -> list[tuple[int, int]]:
    """Tokens and layers with other experts, among the rows that llama.cpp computed."""
    experts = sets(ours)
    others = (experts != sets(theirs)).any(-1) & (experts[..., 0] >= 0)
    return [(int(token), int(layer)) for token, layer in np.argwhere(others)]


def ties(routings: list[RouterOutputs]) -> list[tuple[int, int]]:
    """Tokens and layers where the last expert selected is as likely as the first one left out."""
    ranked = np.sort(softmax(logits(routings)), axis=-1)[..., ::-1]
    k = sets(routings).shape[-1]
    return [(int(token), int(layer)) for token, layer in np.argwhere(ranked[..., k - 1] - ranked[..., k] < TIE)]


def test_pocket_says_what_it_is(pocket: Engine) -> None:
    other = load_mlx(catalog.locate("pocket", "mlx"), options=EngineOptions(), progress=lambda _: None).model
    model = pocket.model
    for name in ("name", "layers", "experts", "experts_per_token", "gate", "parameters", "quantization"):
        assert getattr(model, name) == getattr(other, name), name
    assert (model.context_length, model.trained_length) == (other.context_length, other.trained_length)
    assert model.bytes == model.parameters * 4 == model.non_expert_bytes + 8 * sum(model.expert_bytes)
    assert pocket.backend.dtype == "F32 100 %; F32 cache, flash attention off"
    assert pocket.backend.threads == 1
    assert pocket.warnings == []


# -- what the tap sees


def test_many_tokens_at_once_are_read_by_their_strides(mixtral_gguf: Engine) -> None:
    """The selected ids are a view of a longer ranking: read flat, they look plausible and are nonsense."""
    prompt = np.random.default_rng(1).integers(2, 258, 300).tolist()
    at_once = begin(mixtral_gguf, prompt=prompt)
    mixtral_gguf.reset()
    one_by_one = [routing for token in prompt for routing in mixtral_gguf.prefill([token], lambda _: None)]
    assert [len(at_once), len(one_by_one)] == [1, 300]
    experts, expected = sets(at_once), sets(one_by_one)
    computed = experts[..., 0] >= 0
    assert computed.sum() == 300 + 1
    assert (experts == expected)[computed].all()
    np.testing.assert_allclose(logits(at_once)[computed], logits(one_by_one)[computed], atol=1e-4)


def test_a_long_prompt_comes_in_steps(mixtral_gguf: Engine, mixtral_folder: pathlib.Path) -> None:
    prompt = np.random.default_rng(0).integers(2, 258, 1200).tolist()
    done: list[int] = []
    mixtral_gguf.reset()
    routings = list(mixtral_gguf.prefill(prompt, done.append))
    assert done == [512, 1024, 1200]
    experts = sets(routings)
    computed = experts[..., 0] >= 0
    assert np.flatnonzero(computed[:, -1]).tolist() == [511, 1023, 1199]
    assert (experts == reference(mixtral_folder, prompt, 2).sets)[computed].all()


def test_a_quantised_model_selects_by_the_probabilities_that_are_seen(open_gguf: Open, tmp_path: pathlib.Path) -> None:
    path = llama_files.write_gguf(tmp_path / "q8.gguf", experts_as=gguf.GGMLQuantizationType.Q8_0)
    engine = open_gguf(path)
    routings = begin(engine) + [token.routing for token in draw(engine, 30)]
    experts, probabilities = sets(routings), logits(routings)
    computed = experts[..., 0] >= 0
    ranked = np.sort(np.argsort(-probabilities[computed], axis=-1, kind="stable")[..., :2], axis=-1)
    assert (experts[computed] == ranked).all()
    assert engine.model.quantization == "F32 69 %, Q8_0 31 %"
    assert engine.backend.dtype.endswith("; F16 cache, flash attention where it can")


# -- the context


def test_injection_equals_a_run_over_the_whole_text(mixtral_gguf: Engine) -> None:
    begin(mixtral_gguf)
    before = draw(mixtral_gguf, 8)
    list(mixtral_gguf.prefill([9, 8, 7], lambda _: None))
    after = draw(mixtral_gguf, 20)
    assert mixtral_gguf.position == len(PROMPT) + 8 + 3 + 20
    begin(mixtral_gguf, prompt=PROMPT + [token.id for token in before] + [9, 8, 7])
    again = draw(mixtral_gguf, 20)
    assert [token.id for token in after] == [token.id for token in again]
    assert same_sets(after, again)


def same_sets(first: list[SampledToken], second: list[SampledToken]) -> bool:
    return bool((sets([token.routing for token in first]) == sets([token.routing for token in second])).all())


@pytest.mark.parametrize("outside", [258, 5_000, 500_000_000, 2**31 - 1, -1])
def test_tokens_outside_the_vocabulary_are_refused_by_name(mixtral_gguf: Engine, outside: int) -> None:
    says = f"token {outside} is outside the vocabulary of mixtral, which ends at 257"
    with pytest.raises(UserError, match=says):
        begin(mixtral_gguf, prompt=[2, outside, 3])
    begin(mixtral_gguf, prompt=[2, 3])
    with pytest.raises(UserError, match=says):
        mixtral_gguf.force([4, outside])
    assert len(draw(mixtral_gguf, 2)) == 2, "the run goes on"


@pytest.mark.parametrize("change", ["more tokens than rows", "fewer rows than tokens"])
def test_a_tokenizer_of_another_size_is_refused(change: str, tmp_path: pathlib.Path) -> None:
    """Fine-tunes with tokens that were added and never trained."""
    added = {
        key: (kind, [*items, f"<{key}>" if key.endswith("tokens") else items[-1]], *of)
        for key, (kind, items, *of) in pocket_variants.metadata().items()
        if key in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type")
    }

    def shorter(tensors: pocket_variants.Tensors) -> pocket_variants.Tensors:
        return {name: data[:-1] if name == "token_embd.weight" else data for name, data in tensors.items()}

    variant: dict[str, Any] = {"changed": added} if change.startswith("more") else {"of": shorter}
    path = pocket_variants.write(tmp_path / "m.gguf", **variant)
    with pytest.raises(UserError, match=r"tensor 'token_embd\.weight' has wrong shape"):
        load(catalog.locate(str(path)), options=EngineOptions(threads=1), progress=lambda _: None)


def test_a_router_that_gives_no_number_ends_the_run(open_gguf: Open, tmp_path: pathlib.Path) -> None:
    """NaN in the row of one expert; the first token does not reach it."""

    def damage(tensors: pocket_variants.Tensors) -> pocket_variants.Tensors:
        router = tensors["blk.3.ffn_gate_inp.weight"].copy()
        router[5] = np.nan
        return tensors | {"blk.3.ffn_gate_inp.weight": router}

    session = Session(open_gguf(pocket_variants.write(tmp_path / "m.gguf", of=damage)))
    session.run(start(tokens=5))
    [error] = [event.message for event in session.events if isinstance(event, State) and event.state == "error"]
    assert error is not None
    assert "NaN" in error
    assert session.generated == []


def test_drawing_needs_a_prompt(mixtral_gguf: Engine) -> None:
    mixtral_gguf.reset()
    with pytest.raises(RuntimeError, match="evaluate a prompt first"):
        mixtral_gguf.draw()


def test_a_full_context_is_a_plain_error(open_gguf: Open, tmp_path: pathlib.Path) -> None:
    engine = open_gguf(llama_files.write_gguf(tmp_path / "short.gguf", tiny.MIXTRAL | {"max_position_embeddings": 256}))
    assert engine.context_length == 256
    begin(engine, prompt=[2] * 255)
    engine.draw(last=True)
    with pytest.raises(UserError, match="the context is full"):
        engine.draw()


def test_a_long_context_is_limited(open_gguf: Open, tmp_path: pathlib.Path) -> None:
    path = llama_files.write_gguf(tmp_path / "long.gguf", tiny.MIXTRAL | {"max_position_embeddings": 100_000})
    engine = open_gguf(path)
    assert engine.context_length == engine.model.context_length == 8192
    assert engine.model.trained_length == 100_000
    assert engine.warnings == ["the context is limited to 8,192 of 100,000 tokens, to save memory"]


def test_threads(mixtral_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--threads is 0"):
        load(catalog.locate(str(mixtral_path)), options=EngineOptions(threads=0), progress=lambda _: None)
    for usable, expected in ((8, 7), (1, 1)):
        monkeypatch.setattr(llama_loading.os, "sched_getaffinity", lambda _, n=usable: set(range(n)), raising=False)
        assert llama_loading.default_threads() == expected


# -- memory


def test_buffers_are_in_the_header_by_device_and_kind(mixtral_gguf: Engine) -> None:
    buffers = mixtral_gguf.backend.buffers
    assert isinstance(buffers, list)
    kinds = {buffer.kind for buffer in buffers}
    assert kinds == {"weights", "kv", "compute"}
    weights = sum(buffer.bytes for buffer in buffers if buffer.kind == "weights")
    stored = mixtral_gguf.model.bytes
    assert stored is not None
    assert stored <= weights < stored + 10_000_000  # a mapped file counts with its metadata
    assert mixtral_gguf.memory() is None
