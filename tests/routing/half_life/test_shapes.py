from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from moe_watch.routing.half_life.shapes import TRENDS, Curves, time_axis
from tests.routing.planted import cliff, exponential, linear, plant

TIMES = time_axis(tuple(float(t) for t in range(50)))


def column(values):
    return np.asarray(values, float)[:, None]


def exponential_curve(t, start, floor, halving):
    return floor + (start - floor) * 2 ** (-t / halving)


@pytest.mark.parametrize(("floor", "halving"), [(0.0, 3.0), (0.0, 12.0), (0.15, 30.0), (0.3, 8.0)])
def test_exponential_against_scipy_on_clean_curves(floor, halving):
    y = exponential(0.6, floor, halving).curve()
    theirs, _ = curve_fit(exponential_curve, TIMES.t, y, p0=(0.5, 0.1, 10), maxfev=20_000)
    ours = TIMES.fit("exponential", column(y), rounds=8).parameters[:, 0]
    assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    assert ours == pytest.approx((0.6, floor, halving), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_exponential_against_scipy_on_noisy_curves(seed):
    (series,) = plant(exponential(0.6, 0.1, 12), 0.3, range(seed, seed + 1))
    theirs, _ = curve_fit(exponential_curve, TIMES.t, series.mid, p0=(0.6, 0.1, 12))
    assert TIMES.fit("exponential", column(series.mid), rounds=8).parameters[:, 0] == pytest.approx(theirs, rel=1e-4)


def test_one_round_is_enough_for_draws():
    y = column(exponential(0.6, 0.1, 12).curve())
    assert TIMES.fit("exponential", y, rounds=1).parameters[2, 0] == pytest.approx(12, rel=1e-3)


def test_line_against_numpy():
    (series,) = plant(linear(0.6, -0.01), 0.3, range(1))
    slope, start = np.polyfit(TIMES.t, series.mid, 1)
    assert TIMES.fit("linear", column(series.mid)).parameters[:, 0] == pytest.approx((start, slope))


def test_cliff_against_trying_every_place():
    for series in plant(cliff(0.5, 0.47), 0.3, range(20)):
        y = np.array(series.mid)
        at = min(range(1, 50), key=lambda c: ((y[:c] - y[:c].mean()) ** 2).sum() + ((y[c:] - y[c:].mean()) ** 2).sum())
        expected = (y[:at].mean(), y[at:].mean(), at)
        assert TIMES.fit("cliff", column(y)).parameters[:, 0] == pytest.approx(expected)


@pytest.mark.parametrize("shape", TRENDS)
def test_many_series_at_once_are_fitted_like_each_alone(shape):
    together = np.stack([each.mid for each in plant(exponential(0.6, 0.1, 12), 0.3, range(20))], axis=1)
    fitted = TIMES.fit(shape, together, rounds=1)
    alone = [TIMES.fit(shape, together[:, [at]], rounds=1).parameters[:, 0] for at in range(20)]
    assert fitted.parameters == pytest.approx(np.stack(alone, axis=1))
    assert fitted.values(TIMES.t).shape == (50, 20)


@pytest.mark.parametrize("shape", TRENDS)
def test_explained_share_is_that_of_the_fit(shape):
    """The grid's explained share agrees with the squared residuals of the fit."""
    (series,) = plant(exponential(0.6, 0.1, 12), 0.3, range(1))
    y = column(series.mid)
    left = ((y - TIMES.fit(shape, y).values(TIMES.t)) ** 2).sum()
    total = ((y - y.mean()) ** 2).sum()
    assert TIMES.explained(shape, y - y.mean()).max() == pytest.approx(total - left, rel=1e-3)


def test_a_flat_series_has_nothing_to_explain():
    flat = np.full((50, 2), 0.1) + np.array([0, 1e-17])
    assert TIMES.best_share(flat).tolist() == [0, 0]


def test_half_times_by_hand():
    lines = Curves("linear", np.array([[0.6, 0.6, -0.1], [-0.01, 0.01, -0.01]]))
    assert lines.half_times().tolist() == [30, np.inf, np.inf]
    falls = Curves("exponential", np.array([[0.8, 0.5, 0.0], [0.0, 0.3, -1.0], [12.0, 12.0, 12.0]]))
    assert falls.half_times().tolist() == [12, np.inf, np.inf]
    cliffs = Curves("cliff", np.array([[0.5, 0.5], [0.25, 0.3], [7.0, 7.0]]))
    assert cliffs.half_times().tolist() == [7, np.inf]
    assert Curves("constant", np.array([[0.5]])).half_times().tolist() == [np.inf]
