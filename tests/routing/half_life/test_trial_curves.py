from __future__ import annotations

import numpy as np
import pytest

from moe_watch.routing.half_life.draws import Fitted
from moe_watch.routing.half_life.kalman import Whitening
from moe_watch.routing.half_life.shapes import SHAPES, time_axis
from moe_watch.routing.half_life.trial_curves import products, trials
from tests.routing.planted import exponential, linear, plant

TIMES = time_axis(tuple(float(t) for t in range(50)))
(NOISY,) = (np.array(each.mid) for each in plant(exponential(0.6, 0.1, 12), 0.3, range(1)))
PHI, SHARE = 0.8, 0.5


def fitted(shape, series=NOISY, times=TIMES):
    curve = times.fit(shape, series[:, None], rounds=8)
    return Fitted(curve, series - curve.values(times.t)[:, 0], 1.0)


def tried(shape, series=NOISY, times=TIMES):
    return trials(times, fitted(shape, series, times))


def columns(each):
    """Return the columns of trials; the columns of cliffs are computed here."""
    if each.columns is not None:
        return each.columns
    steps = (TIMES.t[:, None] >= each.times).astype(float)
    return (steps - steps.mean(axis=0)) / steps.std(axis=0)


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_columns_have_mean_0_and_mean_square_1(shape):
    found = columns(tried(shape))
    assert found.mean(axis=0) == pytest.approx(0, abs=1e-12)
    assert (found**2).mean(axis=0) == pytest.approx(1)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_curve_is_a_level_and_a_height_times_its_column(shape):
    each = tried(shape)
    at, level, height = np.arange(len(each.times)), np.full(len(each.times), 0.4), np.full(len(each.times), -0.07)
    assert each.curves(at, level, height).values(TIMES.t) == pytest.approx(0.4 - 0.07 * columns(each))


def test_products_against_matrices():
    apart = np.abs(np.subtract.outer(TIMES.t, TIMES.t))
    inverse = np.linalg.inv(np.where(apart == 0, 1.0, SHARE * PHI**apart))
    every = [tried(shape) for shape in SHAPES]
    plain, found = products(every, NOISY, Whitening(np.array([[PHI], [SHARE]]), 50))
    assert plain.square[0] == pytest.approx([inverse.sum(), NOISY @ inverse @ NOISY])
    for each, own in zip(every, found, strict=True):
        x = columns(each)
        assert own.square[0] == pytest.approx(np.diag(x.T @ inverse @ x))
        assert own.level[0] == pytest.approx(x.T @ inverse.sum(axis=1), abs=1e-9)
        assert own.series[0] == pytest.approx(x.T @ inverse @ NOISY, abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_time_is_possible_beforehand(shape):
    each = tried(shape)
    assert each.prior.sum() == pytest.approx(1)
    assert (each.prior > 0).all()


def test_halving_times_span_the_axis_and_are_closest_where_the_fit_is():
    each, fit = tried("exponential"), fitted("exponential").curve.parameters[2, 0]
    assert each.times[[0, -1]] == pytest.approx(TIMES.halvings[[0, -1]])
    steps = np.diff(np.log(each.times))
    assert (steps > 0).all()
    assert abs(np.log(each.times[steps.argmin()] / fit)) < 0.1
    assert each.prior == pytest.approx(
        np.gradient(np.log(each.times)) / np.log(each.times[-1] / each.times[0]), rel=0.1
    )


@pytest.mark.parametrize("sd", [1e-2, 1e-4, 1e-7])
def test_halving_times_are_as_close_as_the_series_tells_them_apart(sd):
    curve = exponential(0.6, 0.1, 12).curve()
    noise = np.random.default_rng(0).standard_normal((50, 200))
    scatter = np.log(TIMES.fit("exponential", curve[:, None] + sd * noise, rounds=8).parameters[2]).std()
    times = tried("exponential", curve + sd * noise[:, 0]).times
    near = np.abs(np.log(times / 12)) < 3 * scatter
    assert 5 <= near.sum() <= 60


def test_a_line_leaves_long_halving_times_open():
    (series,) = plant(linear(0.6, -0.01), 0.0, range(1))
    assert (tried("exponential", np.array(series.mid)).times > 100).sum() > 10
