from __future__ import annotations

import numpy as np
import pytest

from moe_watch.routing.half_life.draws import Fitted
from moe_watch.routing.half_life.interval import DRAWS, noise_models, posterior_draws, trial_posteriors
from moe_watch.routing.half_life.shapes import TRENDS, curve_values, time_axis
from moe_watch.routing.half_life.trend_detection import ar1_noise
from tests.routing.planted import cliff, exponential, linear, plant, plant_with, wander

NOISES = noise_models(50)


def times(n=50):
    return time_axis(tuple(float(t) for t in range(n)))


def fitted(series, *shapes):
    at = times(len(series))
    curves = [at.fit(shape, series[:, None], rounds=8) for shape in shapes]
    return [Fitted(curve, series - curve.values(at.t)[:, 0], 1 / len(curves)) for curve in curves]


def drawn(series, *shapes, seed=0):
    return posterior_draws(times(len(series)), series, fitted(series, *shapes), np.random.default_rng(seed))


def series_of(planted, phi=0.3, seed=0, **more):
    (series,) = plant(planted, phi, range(seed, seed + 1), **more)
    return np.array(series.mid)


def correlations(kind, n=50):
    phi, share = NOISES[:, kind]
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    return np.where(apart == 0, 1.0, share * phi**apart)


@pytest.mark.parametrize("kind", [0, 4, len(NOISES.T) - 1])
@pytest.mark.parametrize("shape", ["constant", *TRENDS])
def test_evidence_and_estimates_against_matrices(shape, kind):
    """Compute generalised least squares and the restricted likelihood directly."""
    series = series_of(exponential(0.6, 0.1, 12))
    (found,) = trial_posteriors(times(), series, fitted(series, shape))
    trial = len(found.trials.times) // 2
    column = found.trials.curves(np.array([trial]), np.zeros(1), np.ones(1)).values(times().t)
    x = np.ones((50, 1)) if shape == "constant" else np.hstack([np.ones((50, 1)), column])
    inverse = np.linalg.inv(correlations(kind))
    information = x.T @ inverse @ x
    level_and_height = np.linalg.solve(information, x.T @ inverse @ series)
    left = series - x @ level_and_height
    freedom = 50 - x.shape[1]
    expected = (np.linalg.slogdet(correlations(kind))[1] + np.linalg.slogdet(information)[1]) / -2
    expected += np.log(found.trials.prior[trial]) - freedom / 2 * np.log(left @ inverse @ left)
    assert found.evidence[kind, trial] == pytest.approx(expected)
    assert found.freedom == freedom
    if shape != "constant":
        assert found.height[kind, trial] == pytest.approx(level_and_height[1])
        assert found.height_variance[kind, trial] == pytest.approx(np.linalg.inv(information)[1, 1])
        level = found.level[kind, 0] - found.tilt[kind, trial] * level_and_height[1]
        assert level == pytest.approx(level_and_height[0])


def test_lines_scatter_as_theory_says_where_the_noise_is_known_to_be_white():
    """Standard error of a slope: s / √Σ(t − t̄)²."""
    series = series_of(linear(0.6, -0.0005), phi=0.0, chunks=1000)
    (curves,) = drawn(series, "linear").curves
    t = np.arange(1000)
    slope, start = np.polyfit(t, series, 1)
    expected = (series - start - slope * t).std(ddof=2) / np.sqrt(((t - t.mean()) ** 2).sum())
    assert curves.parameters[1].mean() == pytest.approx(slope, abs=expected / 4)
    assert curves.parameters[1].std() == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize("kinds", [range(1), range(1, 10), range(10, 19)], ids=["white", "quick", "slow"])
def test_intervals_of_a_slope_hold_it(kinds):
    """Over all noise models a 95 % interval has 95 % coverage: more with white noise, less with the slowest noise."""
    holds = []
    for seed in range(150):
        random = np.random.default_rng(seed)
        root = np.linalg.cholesky(correlations(random.choice(kinds)))
        (curves,) = drawn(0.6 - 0.003 * np.arange(50) + 0.02 * root @ random.standard_normal(50), "linear").curves
        low, high = np.quantile(curves.parameters[1], [0.025, 0.975])
        holds.append(low <= -0.003 <= high)
    assert np.mean(holds) >= 0.9


def test_shapes_are_drawn_as_often_as_they_are_likely():
    series = series_of(linear(0.6, -0.003), phi=0.0)
    explained = trial_posteriors(times(), series, fitted(series, *TRENDS))
    total = np.logaddexp.reduce([np.logaddexp.reduce(each.evidence, axis=None) for each in explained])
    number = {each.shape: each.parameters.shape[1] for each in drawn(series, *TRENDS).curves}
    assert sum(number.values()) == DRAWS
    for each in explained:
        likely = np.exp(np.logaddexp.reduce(each.evidence, axis=None) - total)
        assert number.get(each.trials.shape, 0) == pytest.approx(DRAWS * likely, abs=2)
    assert set(number) == {"linear", "exponential"}


@pytest.mark.parametrize("planted", [exponential(0.6, 0.1, 12), linear(0.6, -0.01), cliff(0.6, 0.25)])
def test_a_clear_shape_is_nearly_always_drawn(planted):
    series = series_of(planted, phi=0.0, sd=0.002)
    number = {each.shape: each.parameters.shape[1] for each in drawn(series, *TRENDS).curves}
    assert number[planted.shape] > 0.8 * DRAWS


def test_draws_lie_around_the_curve():
    series = series_of(exponential(0.6, 0.1, 12), sd=0.003)
    middle = np.median(np.hstack([each.values(times().t) for each in drawn(series, *TRENDS).curves]), axis=1)
    assert middle == pytest.approx(exponential(0.6, 0.1, 12).curve(), abs=0.006)


def test_persistent_noise_makes_wider_intervals():
    noise = np.random.default_rng(0)
    widths = []
    for phi in (0.0, 0.5, 0.9):
        lines = 0.6 - 0.01 * np.arange(50) + 0.015 * ar1_noise(noise, 50, 20, phi).T
        ends = np.array([drawn(each, "linear").half_time() for each in lines])
        widths.append(np.median(ends[:, 1] - ends[:, 0]))
    assert widths[0] < widths[1] < widths[2]


def test_noise_as_the_embedded_model_has_it_does_not_narrow_the_interval():
    """Curves refitted to the residuals of the closest curve have a coverage of 78 % here."""
    planted, holds = linear(0.46, -0.003), []
    for each in plant_with(planted, wander(0.75, 0.55), range(5000, 5060)):
        low, high = drawn(np.array(each.mid), *TRENDS).half_time()
        holds.append(low <= planted.half_life <= high)
    assert np.mean(holds) >= 0.9


@pytest.mark.parametrize("planted", [exponential(0.6, 0.1, 12), linear(0.6, -0.01), cliff(0.6, 0.25, 20)])
def test_nothing_but_the_curve_leaves_nothing_open(planted):
    assert drawn(planted.curve(), *TRENDS).half_time() == pytest.approx([planted.half_life] * 2, rel=1e-4)


@pytest.mark.parametrize("series", [np.full(30, 0.3), np.zeros(30), np.array([0.0, 1.0] * 15), 1e-300 * np.ones(30)])
def test_a_constant_is_drawn_for_any_series(series):
    (curves,) = drawn(series, "constant").curves
    assert curves.shape == "constant"
    assert np.isfinite(curves.parameters).all()
    assert curves.parameters.shape == (1, DRAWS)
    assert curves.parameters.mean() == pytest.approx(series.mean(), abs=0.1 * np.ptp(series) + 1e-12)


def test_a_wandering_constant_may_be_further_off():
    noise, scatter = np.random.default_rng(0), []
    for phi in (0.0, 0.9):
        series = 0.5 + 0.02 * ar1_noise(noise, 50, 10, phi).T
        scatter.append(np.median([drawn(each, "constant").curves[0].parameters.std() for each in series]))
    assert scatter[1] > 2 * scatter[0]


@pytest.mark.parametrize(("n", "slowest"), [(5, 8), (8, 8), (20, 32), (33, 64), (50, 64), (5000, 64)])
def test_what_wanders_more_slowly_than_twice_the_series_is_a_level(n, slowest):
    found = noise_models(n)
    assert -1 / np.log(found[0].max()) == pytest.approx(slowest)
    assert found[:, 0].tolist() == [0, 0]
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("noise", [wander(0.75, 0.55), wander(0.9, 0.5)], ids=lambda each: each.name)
def test_short_series_are_covered_too(noise):
    planted, holds = exponential(0.6, 0.0, 12), []
    for each in plant_with(planted, noise, range(60), sd=0.02, chunks=12):
        low, high = drawn(np.array(each.mid), *TRENDS).half_time()
        holds.append(low <= planted.half_life <= high)
    assert np.mean(holds) >= 0.9


def test_the_same_seed_draws_the_same():
    series = series_of(linear(0.6, -0.01))
    assert drawn(series, *TRENDS, seed=1).half_time() == drawn(series, *TRENDS, seed=1).half_time()
    assert drawn(series, *TRENDS, seed=1).half_time() != drawn(series, *TRENDS, seed=2).half_time()


def test_gaps_are_times_that_a_cliff_can_be_at():
    kept = [at for at in range(50) if at not in (20, 21)]
    at = time_axis(tuple(float(t) for t in kept))
    series = curve_values("cliff", np.array([0.6, 0.25, 22.0]), at.t)
    curve = at.fit("cliff", series[:, None])
    found = posterior_draws(at, series, [Fitted(curve, series - series, 1.0)], np.random.default_rng(0))
    assert found.half_time() == (22, 22)
