from __future__ import annotations

import numpy as np
import pytest

from moe_watch.routing.half_life.kalman import Whitening

N = 50
KINDS = np.array([(0.0, 0.0), (0.4, 1.0), (0.8, 0.5), (0.95, 0.25), (0.98, 1.0)]).T
COLUMNS = np.random.default_rng(0).standard_normal((N, 3))
WHITENING = Whitening(KINDS, N)
STEPS = np.triu(np.ones((N, N)))
"""Return one step per row: 0 before the breakpoint, 1 from there on."""


def correlations(kind):
    phi, share = KINDS[:, kind]
    apart = np.abs(np.subtract.outer(np.arange(N), np.arange(N)))
    return np.where(apart == 0, 1.0, share * phi**apart)


@pytest.mark.parametrize("kind", range(len(KINDS.T)))
class TestAgainstMatrices:
    def test_products_of_columns(self, kind):
        left = WHITENING(COLUMNS)[:, kind]
        assert left.T @ left == pytest.approx(COLUMNS.T @ np.linalg.inv(correlations(kind)) @ COLUMNS)

    def test_determinant(self, kind):
        assert WHITENING.log_det[kind] == pytest.approx(np.linalg.slogdet(correlations(kind))[1], abs=1e-12)

    def test_products_of_steps_with_columns(self, kind):
        found = WHITENING.steps(WHITENING(COLUMNS))[:, kind]
        assert found == pytest.approx(STEPS @ np.linalg.inv(correlations(kind)) @ COLUMNS)

    def test_squares_of_steps(self, kind):
        expected = np.diag(STEPS @ np.linalg.inv(correlations(kind)) @ STEPS.T)
        assert WHITENING.step_squares[:, kind] == pytest.approx(expected)


def test_noise_of_a_kind_becomes_white():
    noise = np.linalg.cholesky(correlations(2)) @ np.random.default_rng(1).standard_normal((N, 4000))
    left = WHITENING(noise)[:, 2]
    assert np.corrcoef(left) == pytest.approx(np.eye(N), abs=0.08)
    assert left.std(axis=1) == pytest.approx(1, abs=0.06)
