"""Probabilities of a token: equal in C and NumPy, and close to float64."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.llama import logit_facts
from moe_watch.backends.llama.logit_facts import facts, facts_of

SIZES = [1, 2, 15, 16, 17, 255, 256, 257, 2048, 40_001]


def exactly(logits: np.ndarray, token: int) -> tuple[float, float, float]:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    shares = np.sort(powers / powers.sum())
    second = shares[-2] if len(shares) > 1 else 0.0
    own = powers[token] / powers.sum()
    with np.errstate(divide="ignore"):
        return float(np.log(own)), float(shares[-1] - second), float(shares[-1] - own)


@pytest.fixture
def in_c(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Takes logits in place of a context."""
    monkeypatch.setattr(logit_facts, "logits_address", lambda logits, _: logits.ctypes.data)

    def found(logits: np.ndarray, token: int) -> tuple[float, float, float]:
        how = facts(len(logits))
        assert how.__name__ == "facts_in_c"
        return how(logits, token)

    return found


@pytest.fixture
def in_numpy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same without a compiler."""
    monkeypatch.setattr(logit_facts, "logits_address", lambda logits, _: logits.ctypes.data)
    monkeypatch.setenv("CC", "no-such-compiler")

    def found(logits: np.ndarray, token: int) -> tuple[float, float, float]:
        how = facts(len(logits))
        assert how.__name__ == "facts_in_numpy"
        return how(logits, token)

    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spread", [0.1, 4.0, 40.0])
def test_c_and_numpy_say_what_float64_says(size: int, spread: float, in_c: Any) -> None:
    random = np.random.default_rng(size)
    logits = random.normal(0, spread, size).astype(np.float32)
    for token in {0, size - 1, int(logits.argmax()), int(random.integers(size))}:
        expected = exactly(logits, token)
        np.testing.assert_allclose(in_c(logits, token), expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(facts_of(logits, token), expected, rtol=1e-6, atol=1e-6)


def test_without_a_compiler_it_is_numpy(in_numpy: Any) -> None:
    logits = np.random.default_rng(0).normal(0, 3, 300).astype(np.float32)
    assert in_numpy(logits, 7) == facts_of(logits, 7)


def test_the_likeliest_token_is_not_behind_itself(in_c: Any) -> None:
    logits = np.array([0.0, 3.0, 3.0, -1.0], np.float32)
    logprob, top_margin, choice_gap = in_c(logits, 2)
    assert (top_margin, choice_gap) == (0.0, 0.0)
    assert logprob == pytest.approx(exactly(logits, 2)[0])


def test_what_cannot_be_drawn_counts_for_nothing(in_c: Any) -> None:
    logits = np.full(100, -np.inf, np.float32)
    logits[[3, 90]] = 1.0, 2.0
    np.testing.assert_allclose(in_c(logits, 3), exactly(logits, 3), atol=1e-6)
    assert ctypes.c_double(in_c(logits, 4)[0]).value == -np.inf
