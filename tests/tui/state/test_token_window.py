"""Values of a window do not depend on the number of tokens that wait before it is read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_watch.routing.usage.counts import overlap
from moe_watch.tui.state.tokens.token_window import TokenRouting, TokenWindow

LAYERS, EXPERTS, K, SIZE, UNIT = 3, 5, 2, 6, 0.01


def routings(tokens: int, seed: int) -> list[TokenRouting]:
    """Return tokens with some layers not computed, and with new contexts between them."""
    rng, made, before = np.random.default_rng(seed), [], None
    for _ in range(tokens):
        ids = np.argsort(rng.random((LAYERS, EXPERTS)), 1)[:, :K].tolist()
        entropy = rng.integers(0, 100, LAYERS).tolist()
        for layer in np.flatnonzero(rng.random(LAYERS) < 0.2):
            ids[layer], entropy[layer] = [None] * K, None
        experts = [expert for row in ids for expert in row]
        made.append(TokenRouting(experts, entropy if rng.random() < 0.9 else None, before))
        before = None if rng.random() < 0.2 else experts
    return made


def filled(tokens: list[TokenRouting], *, looking: bool) -> TokenWindow:
    window = TokenWindow(LAYERS, EXPERTS, SIZE, entropy_unit=UNIT)
    for token in tokens:
        window.add(token)
        assert not looking or window.tokens
    return window


def ids_of(experts) -> np.ndarray:
    return np.array([-1 if expert is None else expert for expert in experts]).reshape(LAYERS, K)


def mean(values) -> float:
    known = [value for value in np.ravel(values) if not np.isnan(value)]
    return float(np.mean(known)) if known else np.nan


@pytest.mark.parametrize("looking", [True, False], ids=["one by one", "all at once"])
@given(number=st.integers(1, 4 * SIZE), seed=st.integers(0, 99))
def test_usage_entropy_and_churn_are_those_of_the_last_tokens(looking, number, seed):
    tokens = routings(number, seed)
    window, kept = filled(tokens, looking=looking), tokens[-SIZE:]
    counts = np.zeros((LAYERS, EXPERTS), int)
    for token in kept:
        for layer, row in enumerate(ids_of(token.experts)):
            counts[layer, row[row >= 0]] += 1
    assert window.tokens == len(kept)
    assert window.usage.counts.tolist() == counts.tolist()
    absent = [None] * LAYERS
    entropy = UNIT * np.array([token.entropy or absent for token in kept], float)
    churn = [1 - overlap(ids_of(token.experts), ids_of(token.before)) for token in kept if token.before is not None]
    expected = (mean(entropy), mean(EXPERTS**entropy), mean(churn))
    assert (window.mean_entropy(), window.effective(), window.churn()) == pytest.approx(expected, nan_ok=True)
    assert window.layer_entropy() == pytest.approx([mean(column) for column in entropy.T], nan_ok=True)
    assert window.token_entropy() == pytest.approx([mean(row) for row in entropy], nan_ok=True)
