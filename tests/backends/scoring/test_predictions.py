"""Surprisal and divergence, against plain float64 arithmetic and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr, softmax

from moe_watch.backends.scoring import predictions
from moe_watch.backends.scoring.predictions import Predictions
from moe_watch.backends.scoring.window_predictions import WindowPredictions

T, V = 37, 501


def drawn(seed: int, scale: float = 4.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((T, V)) * scale).astype(np.float32)


@pytest.fixture(params=[1, 3 * V, 1 << 17], ids=["row by row", "three rows", "at once"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "VALUES", request.param)


@pytest.mark.usefixtures("blocks")
def test_surprisal_is_minus_the_log_of_the_softmax() -> None:
    logits, following = drawn(0), np.random.default_rng(1).integers(0, V, T)
    expected = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(T), following]
    np.testing.assert_allclose(Predictions(logits).surprisal(following), expected, rtol=1e-12)


@pytest.mark.usefixtures("blocks")
def test_divergence_is_the_relative_entropy() -> None:
    ours, theirs = drawn(0), drawn(2)
    p, q = (softmax(logits.astype(np.float64), axis=1) for logits in (ours, theirs))
    found = Predictions(ours).divergence(Predictions(theirs))
    np.testing.assert_allclose(found, rel_entr(p, q).sum(1), rtol=1e-10)
    assert np.abs(found - Predictions(theirs).divergence(Predictions(ours))).min() > 1e-6  # it has a direction


def test_divergence_of_a_tiny_change_keeps_its_digits() -> None:
    """Half the variance of the change, for a small one: float32 sums would leave no correct digit."""
    ours = drawn(0, scale=1.0)
    change = np.random.default_rng(3).standard_normal((T, V)) * 1e-4
    theirs = (ours + change).astype(np.float32)
    p, moved = softmax(ours.astype(np.float64), axis=1), theirs.astype(np.float64) - ours
    variance = (p * moved**2).sum(1) - (p * moved).sum(1) ** 2
    np.testing.assert_allclose(Predictions(ours).divergence(Predictions(theirs)), variance / 2, rtol=1e-3)


def test_equal_predictions_diverge_by_exactly_nothing() -> None:
    assert (Predictions(drawn(0)).divergence(Predictions(drawn(0).copy())) == 0.0).all()


def test_a_shift_of_all_logits_changes_nothing() -> None:
    logits, following = drawn(0), np.zeros(T, np.int64)
    high = logits + np.float32(1024.0)  # exp overflows without the shift
    exact = Predictions(high.astype(np.float64) - 1024.0).surprisal(following)
    np.testing.assert_allclose(Predictions(high).surprisal(following), exact, rtol=1e-12)


def test_a_token_that_cannot_follow_has_no_share() -> None:
    ours, theirs = drawn(0), drawn(2)
    ours[:, :7] = theirs[:, :7] = -np.inf
    p, q = (softmax(logits.astype(np.float64), axis=1) for logits in (ours, theirs))
    np.testing.assert_allclose(Predictions(ours).divergence(Predictions(theirs)), rel_entr(p, q).sum(1), rtol=1e-10)
    assert (Predictions(ours).surprisal(np.full(T, 3)) == np.inf).all()
    theirs[:, 9] = -np.inf
    assert (Predictions(ours).divergence(Predictions(theirs)) == np.inf).all()


@pytest.mark.parametrize("sizes", [[T], [1] * T, [16, 16, 5], [36, 1], [T - 1, 1]])
def test_a_window_is_the_same_in_any_batches(sizes: list[int]) -> None:
    """The engine overwrites its logits with each batch; the last token's prediction belongs to no token."""
    ids = np.random.default_rng(1).integers(0, V, T)
    ours, theirs = drawn(0), drawn(2)
    whole = WindowPredictions(ids, keeps=True)
    feed(whole, ours, sizes)
    assert whole.kept is not None
    np.testing.assert_array_equal(whole.kept.logits, ours[:-1])
    other = WindowPredictions(ids, reference=whole.kept)
    feed(other, theirs, sizes)
    for found, logits in ((whole, ours), (other, theirs)):
        expected = -log_softmax(logits[:-1].astype(np.float64), axis=1)[np.arange(T - 1), ids[1:]]
        np.testing.assert_allclose(found.surprisal, expected, rtol=1e-12)
    np.testing.assert_array_equal(other.divergence, Predictions(ours[:-1]).divergence(Predictions(theirs[:-1])))
    assert other.kept is None


def feed(predicted: WindowPredictions, logits: np.ndarray, sizes: list[int]) -> None:
    memory = np.empty((max(sizes), V), np.float32)
    at = 0
    for size in sizes:
        memory[:size] = logits[at : at + size]
        predicted.add(memory[:size])
        at += size


def test_a_window_of_one_token_predicts_none() -> None:
    predicted = WindowPredictions(np.array([5]), keeps=True)
    predicted.add(drawn(0)[:1])
    assert predicted.surprisal.shape == (0,)
    other = WindowPredictions(np.array([5]), reference=predicted.kept)
    other.add(drawn(2)[:1])
    assert other.divergence.shape == (0,)
