"""Raw routing to token events, and when they are sent."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from moe_watch.backends.engine import RouterOutputs, SampledToken, Unobserved
from moe_watch.backends.generation import observation
from moe_watch.backends.generation.observation import Evaluated, Observer, TokenFacts, captured
from moe_watch.backends.generation.outbox import Outbox
from moe_watch.backends.generation.rate_limit import RateLimit
from moe_watch.backends.protocol import Batch
from moe_watch.backends.tap_rows import RecordedRouting, RowFormat, ScoredRouting, rows_of
from moe_watch.routing.events import LEAST_LOGPROB, ModelInfo, State, Token
from tests.backends.scripted import ManualClock

LAYERS, EXPERTS, CHOSEN = 2, 4, 2


def model(gate: str = "top_k_softmax") -> ModelInfo:
    return ModelInfo(name="m", architecture="m", layers=[0, 1], experts=EXPERTS, experts_per_token=CHOSEN, gate=gate)


def routing(tokens: int, missing: int | None = None) -> RouterOutputs:
    """Logits 0, 1, 2, 3, so that experts 3 and 2 are selected; one layer may not be computed."""
    logits = [
        None if layer == missing else np.tile(np.arange(4.0, dtype=np.float32), (tokens, 1)) for layer in range(2)
    ]
    experts = [None if layer == missing else np.tile(np.array([2, 3], np.uint32), (tokens, 1)) for layer in range(2)]
    return RouterOutputs(tokens=tokens, experts=experts, logits=logits)


def step(first: int, tokens: int = 1, missing: int | None = None) -> Evaluated:
    return Evaluated([TokenFacts(first + n, 0.0, "prompt", 7, "x") for n in range(tokens)], routing(tokens, missing))


def test_layers_that_were_not_computed_are_null() -> None:
    whole, partial, after = Observer(model()).tokens([step(0), step(1, missing=1), step(2)])
    assert whole.experts == after.experts == [3, 2, 3, 2]
    assert partial.experts == [3, 2, None, None]
    assert partial.weights == [7311, 2689, None, None]
    assert (partial.entropy, partial.margin) == ([whole.entropy[0], None], [whole.margin[0], None])


def words(form: RowFormat, token: int, order: Sequence[int] = (0, 1)) -> np.ndarray:
    """Return a tap's rows of one token: each layer selects experts 3 and 1, with different probabilities."""
    rows = []
    for layer in order:
        scores = np.array([0.1, 0.2 + 0.01 * token, 0.1 + 0.1 * layer, 0.6 - 0.01 * token - 0.1 * layer], np.float32)
        picked = scores[[1, 3]]
        rows.append(
            np.concatenate(
                [np.array([layer, 1, EXPERTS, CHOSEN], np.int32), scores.view(np.int32), picked.view(np.int32), [1, 3]]
            )
        )
    assert sum(map(len, rows)) == form.size
    return np.concatenate(rows).astype(np.int32)


@pytest.mark.parametrize("scored", [True, False], ids=["probabilities", "logits"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "out of order"])
def test_rows_of_many_tokens_give_what_their_lists_give(scored: bool, order: Sequence[int]) -> None:
    to_logits = np.log if scored else np.array
    form = RowFormat(model().layers, EXPERTS, CHOSEN, to_logits, is_scored=scored)
    flat = [RecordedRouting(words(form, token, order), form) for token in range(5)]
    lists = [RouterOutputs(each.tokens, each.experts, each.logits, each.weights) for each in flat]
    observer = Observer(model("softmax_top_k" if scored else "top_k_softmax"))

    def events(routings: Sequence[RouterOutputs]) -> list[Token]:
        return observer.tokens(
            [Evaluated([TokenFacts(i, 0.0, "generated", 7, "x")], each) for i, each in enumerate(routings)]
        )

    assert events(flat) == events(lists) == events([flat[0], lists[1], *flat[2:]])
    rows, _ = rows_of(flat) or pytest.fail("they were all recorded alike")
    assert form.is_in_order(rows) == (order == (0, 1)), "the quick way is taken where it can be"
    assert len({tuple(token.entropy or ()) for token in events(flat)}) == 5


def scored(tokens: int, *, missing: int | None = None) -> ScoredRouting:
    """Of a prompt: one layer may not be computed at all, and the other one only for the last token."""
    random = np.random.default_rng(tokens)
    raw = random.random((LAYERS, tokens, EXPERTS), np.float32)
    scores: list[Any] = [each / each.sum(-1, keepdims=True) for each in raw]
    experts: list[Any] = [np.argsort(-each)[:, :CHOSEN].astype(np.int32) for each in scores]
    if missing is not None:
        scores[missing] = experts[missing] = None
        scores[1 - missing][:-1], experts[1 - missing][:-1] = np.nan, -1
    return ScoredRouting(tokens, experts, scores, np.log)


@pytest.mark.parametrize("missing", [None, 0, 1])
@pytest.mark.parametrize("at_once", [2**16, 3 * LAYERS * EXPERTS], ids=["whole", "in pieces"])
def test_scores_give_what_their_logits_give(missing: int | None, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation, "MOST_AT_ONCE", at_once)
    given = scored(20, missing=missing)
    as_logits = RouterOutputs(given.tokens, given.experts, given.logits)
    facts = [TokenFacts(i, 0.0, "prompt", 7, "x") for i in range(20)]
    events, expected = (
        Observer(model("softmax_top_k_renormalised")).tokens([Evaluated(facts, each)]) for each in (given, as_logits)
    )
    assert events == expected
    assert (None in events[0].experts, None in events[-1].experts) == (missing is not None, missing is not None)
    assert len({tuple(token.margin or ()) for token in events}) == (20 if missing is None else 2)


def test_rows_whose_meaning_is_not_known_give_experts_only() -> None:
    form = RowFormat(model().layers, EXPERTS, CHOSEN, None, is_scored=True)
    routing = RecordedRouting(words(form, 0), form)
    assert routing.logits == [None, None]
    [token] = Observer(model("unknown")).tokens([Evaluated([TokenFacts(0, 0.0, "prompt", 7, "x")], routing)])
    assert (token.experts, token.weights, token.entropy) == ([1, 3, 1, 3], None, None)


def test_pieces_that_fit_into_a_cache_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [step(i, missing=i % 3 if i % 3 < LAYERS else None) for i in range(12)] + [step(12, tokens=8)]
    whole = Observer(model()).tokens(steps)
    monkeypatch.setattr(observation, "MOST_AT_ONCE", 3 * LAYERS * EXPERTS)
    assert Observer(model()).tokens(steps) == whole
    assert [token.i for token in whole] == list(range(20))


def test_tokens_that_nobody_looked_at_are_null() -> None:
    unobserved = [Evaluated([TokenFacts(i, 0.0, "generated", 7, "x")], Unobserved.of(1, LAYERS)) for i in range(2)]
    alone, _ = Observer(model()).tokens(unobserved)
    _, beside = Observer(model()).tokens([step(0), unobserved[1]])
    for token in (alone, beside):
        assert token.experts == [None] * 4
        assert set(token.weights or ()) | set(token.entropy or ()) | set(token.margin or ()) <= {None}


def test_weights_that_the_engine_saw_are_recorded_as_they_are() -> None:
    def seen(number: int, missing: int | None = None) -> Evaluated:
        applied = [None if layer == missing else np.array([[0.25, 1.75]], np.float32) for layer in range(2)]
        raw = routing(1, missing)
        whole = RouterOutputs(raw.tokens, raw.experts, raw.logits, applied)
        return Evaluated([TokenFacts(number, 0.0, "prompt", 7, "x")], whole)

    whole, partial = Observer(model("top_k_softmax×per_expert")).tokens([seen(0), seen(1, missing=0)])
    assert (whole.experts, whole.weights) == ([3, 2, 3, 2], [17500, 2500, 17500, 2500])
    assert partial.weights == [None, None, 17500, 2500]
    assert captured("top_k_softmax×per_expert", sees_weights=True) == captured("top_k_softmax")
    applied, computed = Observer(model("top_k_softmax")).tokens([seen(0), step(1)])
    assert applied.weights == [17500, 2500] * 2
    assert computed.weights == [7311, 2689] * 2, "not seen in this step, they follow from the logits"


def test_weights_of_each_experts_own_scale_need_an_engine_that_sees_them() -> None:
    [token] = Observer(model("top_k_softmax×per_expert")).tokens([step(0)])
    assert (token.weights, token.margin) == (None, [4070, 4070])
    assert captured("top_k_softmax×per_expert") == ["experts", "entropy", "margin", "logprob"]


def test_an_unknown_gate_gives_experts_only() -> None:
    [token] = Observer(model("sparsemixer")).tokens([step(0)])
    assert sorted(token.experts[:2]) == [2, 3]
    assert (token.weights, token.entropy, token.margin) == (None, None, None)
    assert captured("sparsemixer") == ["experts", "logprob"]


def test_a_log_probability_that_no_reader_would_believe_is_absent() -> None:
    """So a broken model's recording can be read, and `verify` names the token."""
    for logprob, recorded in ((float(LEAST_LOGPROB), float(LEAST_LOGPROB)), (-9e15, None), (float("-inf"), None)):
        drawn = SampledToken(7, logprob, 0.5, 0.25, would_stop=False, ends=False, routing=routing(1))
        [token] = Observer(model()).tokens([Evaluated([TokenFacts(0, 1.0, "generated", 7, "x", drawn)], routing(1))])
        assert token.logprob == recorded


def test_a_generated_token_says_what_was_predicted() -> None:
    drawn = SampledToken(7, -1.23456789, 0.5, 0.25, would_stop=True, ends=False, routing=routing(1))
    fact = TokenFacts(3, 1.5, "generated", 7, "x", drawn)
    [token] = Observer(model()).tokens([Evaluated([fact], drawn.routing)])
    assert (token.i, token.t, token.phase, token.source) == (3, 1.5, "decode", "generated")
    assert (token.logprob, token.top_margin, token.choice_gap, token.would_stop) == (-1.2346, 0.5, 0.25, True)


@pytest.mark.parametrize(
    ("interval", "sizes"),
    [(1 / 1024, [21, 21]), (8 / 1024, [3] * 10), (12 / 1024, [2] * 10), (50 / 1024, [1] * 10), (0.0, [64])],
    ids=["fast", "in threes", "in pairs", "slow", "all at once"],
)
def test_no_token_waits_longer_than_twenty_milliseconds(interval: float, sizes: list[int]) -> None:
    clock, batches = ManualClock(), list[Batch]()
    outbox = Outbox(batches.append, Observer(model()), clock)
    for i in range(sum(sizes)):
        clock.now += interval
        outbox.put_tokens(step(i))
    outbox.flush()  # waits for pending work
    assert [len(batch.items) for batch in batches] == sizes
    assert all((size - 1) * interval <= 0.020 for size in sizes)


def test_what_goes_wrong_while_tokens_are_sent_comes_out() -> None:
    def refuse(_: Batch) -> None:
        raise ConnectionError("nobody listens")

    outbox = Outbox(refuse, Observer(model()), ManualClock())
    for i in range(64):
        outbox.put_tokens(step(i))
    with pytest.raises(ConnectionError, match="nobody listens"):
        outbox.flush()


def test_tokens_are_sent_while_more_arrive() -> None:
    """Putting the next tokens does not wait for it."""
    may_send, batches = threading.Event(), list[Batch]()

    def send(batch: Batch) -> None:
        assert may_send.wait(10)
        batches.append(batch)

    outbox = Outbox(send, Observer(model()), ManualClock())
    for i in range(100):
        outbox.put_tokens(step(i))
    assert not batches
    may_send.set()
    outbox.flush()
    assert [token.i for batch in batches for token in batch.items] == list(range(100))


def test_order_is_kept_and_flushing_empties() -> None:
    batches: list[Batch] = []
    outbox = Outbox(batches.append, Observer(model()), ManualClock())
    outbox.put_tokens(step(0, tokens=2))
    outbox.put(State(state="paused", i=2, t=0.0))
    outbox.put_tokens(step(2))
    outbox.flush()
    outbox.flush()
    [batch] = batches
    assert [type(item) for item in batch.items] == [Token, Token, State, Token]


def test_a_late_token_does_not_delay_the_next() -> None:
    clock = ManualClock()
    pace = RateLimit(10.0, clock)
    pace.count()
    clock.now += 0.15
    assert pace.wait() == 0
    pace.count()
    assert pace.wait() == pytest.approx(0.05)
    clock.now += 5.0
    pace.count()
    assert pace.wait() == 0
    pace.rate = 0
    assert pace.wait() == 0
