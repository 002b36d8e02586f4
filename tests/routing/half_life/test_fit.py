from __future__ import annotations

from math import inf, isfinite, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_watch.routing.errors import UserError
from moe_watch.routing.half_life.fit import Fit, fit_half_life, in_words
from moe_watch.routing.pressure.formulas import MODES
from tests.routing.planted import GRID, OTHER_NOISE, cliff, constant, exponential, linear, noise, plant, rising
from tests.routing.planted_fits import judge, judge_otherwise

FALLING = [each for each in GRID if each.shape not in ("stable", "rising")]
WITH_HALF_LIFE = [each for each in FALLING if isfinite(each.half_life) and each.half_life <= 50]


def noisy(planted, seed=0, phi=0.0, chunks=50):
    (series,) = plant(planted, phi, range(seed, seed + 1), chunks=chunks)
    return series.mid


class TestCleanCurves:
    @pytest.mark.parametrize("planted", WITH_HALF_LIFE, ids=lambda each: each.name)
    def test_half_life_is_what_was_planted(self, planted):
        at = 20 if planted.shape == "cliff" else None
        fit = fit_half_life(planted.curve(at))
        assert fit.verdict == planted.shape
        assert fit.half_life == pytest.approx(at or planted.half_life, rel=1e-6)
        assert fit.interval == pytest.approx((fit.half_life, fit.half_life), rel=1e-3)
        assert not fit.censored
        assert fit.never is None

    def test_a_line_that_does_not_get_to_half_is_censored(self):
        fit = fit_half_life(linear(0.6, -0.003).curve())
        assert (fit.verdict, fit.half_life, fit.censored) == ("linear", None, True)
        assert fit.interval == pytest.approx((100, 100))
        assert in_words(fit) == "linear, half-life > 50 chunks: not reached in what was observed"

    def test_a_floor_above_half_is_never_reached(self):
        fit = fit_half_life(exponential(0.44, 0.31, 5).curve())
        assert (fit.verdict, fit.half_life, fit.censored, fit.interval) == ("exponential", None, False, None)
        assert fit.never == pytest.approx((0.31, 0.22))
        assert in_words(fit) == "exponential, never half: levels off at 0.310, above half of its start (0.220)"

    def test_a_cliff_to_above_half_is_never_at_half(self):
        fit = fit_half_life(cliff(0.5, 0.4, 12).curve(12))
        assert fit.verdict == "cliff"
        assert fit.never == pytest.approx((0.4, 0.25))
        assert fit.chosen.parameters == pytest.approx({"start": 0.5, "after": 0.4, "at": 12})

    def test_an_upward_curve_is_rising_and_has_no_half_life(self):
        fit = fit_half_life(rising(0.3, 0.003).curve())
        assert (fit.verdict, fit.half_life, fit.interval, fit.never) == ("rising", None, None, None)
        assert in_words(fit) == "rising: linear, from 0.300 to 0.447 (p = 0.0075 over 11 looks)"

    @pytest.mark.parametrize("level", [0.3, 0.0, -0.2, 1e-300])
    def test_a_flat_series_is_stable(self, level):
        fit = fit_half_life([level] * 30)
        assert (fit.verdict, fit.half_life, fit.p, fit.phi) == ("stable", None, 1.0, 0.0)
        assert fit.start == pytest.approx(level, rel=1e-12, abs=0)
        assert in_words(fit) == "stable: no trend beyond noise (p = 1 over 9 looks; limit 0.1)"

    def test_half_of_a_negative_start_means_nothing(self):
        fit = fit_half_life(np.linspace(-0.1, -0.6, 50))
        assert (fit.verdict, fit.half_life, fit.interval, fit.censored) == ("linear", None, None, False)
        assert in_words(fit) == "linear, no half-life: its start is -0.100, and a half-life needs a start above 0"

    def test_a_trend_of_less_than_five_percent_is_stable(self):
        fit = fit_half_life(linear(0.5, -0.0004).curve())
        assert fit.verdict == "stable"
        assert (fit.p, fit.p_sequential) == (0.0005, 0.0075)
        assert in_words(fit) == "stable: its trend changes by less than 5 % of its start"


class TestUnreachable:
    @pytest.mark.parametrize(
        ("level", "said"),
        [
            (0.64030, "unreachable: ChronoMoE's rule cannot fall below 0.336, half is 0.320"),
            (0.25519, "unreachable: ChronoMoE's rule cannot fall below 0.179, half is 0.128"),
        ],
    )
    def test_the_published_series_of_the_reference(self, level, said):
        """Constant P_mid of the reference's toy model and of its external adapter."""
        fit = fit_half_life([level] * 50, mode="chronomoe-v1")
        assert (fit.verdict, fit.half_life, fit.interval) == ("unreachable", None, None)
        assert in_words(fit) == said

    def test_is_not_judged_without_a_mode(self):
        fit = fit_half_life([0.64030] * 50)
        assert (fit.verdict, fit.reach, fit.mode) == ("stable", None, None)

    def test_measured_pressure_can_reach_half(self):
        fit = fit_half_life(exponential(0.6, 0.0, 12).curve(), mode="measured-v2")
        assert fit.verdict == "exponential"
        assert fit.reach is not None
        assert fit.reach.reachable

    def test_values_below_the_floor_disprove_it(self):
        fit = fit_half_life(exponential(0.6, 0.1, 12).curve(), mode="chronomoe-v1")
        assert fit.verdict == "exponential"


class TestNoise:
    @pytest.mark.parametrize("phi", [0.0, 0.3])
    @pytest.mark.parametrize("planted", GRID, ids=lambda each: each.name)
    def test_known_answers(self, planted, phi):
        """The known-answer grid with few seeds, and a margin for their sampling error."""
        found = judge(planted, phi, range(1000, 1040))
        assert found.right >= 0.8
        assert found.covered is None or found.covered >= 0.85
        assert found.located is None or found.located >= 0.9
        assert found.error is None or found.error < 0.05

    @pytest.mark.parametrize("phi", [0.0, 0.5])
    def test_a_constant_is_stable(self, phi):
        assert judge(constant(0.5), phi, range(2000, 2040)).right >= 0.9

    @pytest.mark.parametrize("noise", OTHER_NOISE, ids=lambda each: each.name)
    def test_a_constant_that_wanders_is_stable(self, noise):
        """Mid-pressure has such noise; a trend test with AR(1) noise alone calls 16 to 24 % of these not stable."""
        assert judge_otherwise(constant(0.46), noise, range(60)).called_stable >= 0.9

    @pytest.mark.parametrize("planted", [linear(0.46, -0.003), exponential(0.46, 0.2, 12), cliff(0.46, 0.34)])
    def test_trends_are_found_in_noise_that_wanders(self, planted):
        assert judge_otherwise(planted, OTHER_NOISE[0], range(40)).called_stable <= 0.15

    @pytest.mark.parametrize("noise", OTHER_NOISE, ids=lambda each: each.name)
    def test_intervals_hold_the_half_life_in_noise_that_wanders(self, noise):
        """Few seeds, with a margin for sampling error; refits to the residuals of a curve have 74 to 89 % coverage."""
        assert judge_otherwise(exponential(0.46, 0.2, 12), noise, range(60)).covered >= 0.85

    def test_the_same_series_gives_the_same_fit(self):
        mid = noisy(exponential(0.6, 0.1, 12))
        first, second = fit_half_life(mid), fit_half_life(mid)
        assert (first.p, first.interval, first.block_interval) == (second.p, second.interval, second.block_interval)
        assert fit_half_life(mid, seed=1).interval != first.interval

    def test_interval_holds_the_half_life_and_narrows_with_less_noise(self):
        curve = exponential(0.6, 0.1, 12).curve()
        noise_values = noise(np.random.default_rng(0), 0.0, sd=1.0)
        widths = []
        for sd in (0.03, 0.01, 0.003):
            fit = fit_half_life(curve + sd * noise_values)
            low, high = fit.interval
            assert low < fit.half_life < high
            widths.append(high - low)
        assert widths == sorted(widths, reverse=True)

    def test_band_is_around_the_curve_and_widens_beyond_the_series(self):
        fit = fit_half_life(noisy(linear(0.6, -0.004)))
        t = np.arange(80)
        low, high = fit.band(t)
        assert low.shape == high.shape == (80,)
        assert ((low < fit.chosen.values(t)) & (fit.chosen.values(t) < high)).all()
        assert high[79] - low[79] > 2 * (high[25] - low[25])

    def test_forecast_is_the_curve(self):
        fit = fit_half_life(linear(0.6, -0.004).curve())
        assert fit.forecast(60) == pytest.approx(0.6 - 0.004 * 60)

    def test_an_interval_may_be_open_to_above(self):
        fit = next(
            fit
            for fit in map(fit_half_life, (each.mid for each in plant(exponential(0.5, 0.22, 12), 0.3, range(40))))
            if fit.half_life is not None and fit.interval and fit.interval[1] == inf
        )
        assert in_words(fit).endswith("or more)")


class TestPositions:
    def test_a_gap_counts_as_time(self):
        curve = linear(0.6, -0.01).curve()
        kept = [at for at in range(50) if at not in (7, 8, 21)]
        fit = fit_half_life(curve[kept], positions=[10 + at for at in kept])
        assert fit.half_life == pytest.approx(30)
        assert fit.crossing == 10 + 30
        assert (fit.chunks, fit.span, fit.first) == (47, 50, 10)
        assert fit.forecast(70) == pytest.approx(0.0, abs=1e-9)

    def test_where_a_series_begins_changes_nothing_else(self):
        mid = noisy(exponential(0.6, 0.1, 12))
        here, there = fit_half_life(mid), fit_half_life(mid, positions=range(10, 60))
        assert (here.half_life, here.interval, here.p) == (there.half_life, there.interval, there.p)
        assert np.array_equal(here.band([0, 20])[0], there.band([10, 30])[0])

    @pytest.mark.parametrize("positions", [[0, 1, 2], [0, 1, 2, 3, 3], [4, 3, 2, 1, 0]])
    def test_positions_that_cannot_be(self, positions):
        with pytest.raises(UserError, match="the positions do not match the values: give one per value, ascending"):
            fit_half_life([0.5] * 5, positions=positions)


class TestBadInput:
    @pytest.mark.parametrize(
        ("mid", "said"),
        [
            ([], "no measured chunk, and a fit needs at least 5: 5 more"),
            ([0.5], "1 measured chunk, and a fit needs at least 5: 4 more"),
            ([0.5] * 4, "4 measured chunks, and a fit needs at least 5: 1 more"),
            ([0.5] * 10_001, "10,001 measured chunks, and at most 10,000 can be fitted"),
            ([0.5, 0.5, float("nan"), 0.5, 0.5], "value 3 of 5 is nan"),
            ([0.5, 0.5, 0.5, 0.5, -inf], "value 5 of 5 is -inf"),
        ],
    )
    def test_is_refused_in_one_line(self, mid, said):
        with pytest.raises(UserError) as caught:
            fit_half_life(mid)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_an_unknown_mode(self):
        said = "no pressure mode called 'v2': use measured-v2, measured-v1 or chronomoe-v1"
        with pytest.raises(UserError, match=said):
            fit_half_life([0.5] * 5, mode="v2")


@pytest.mark.parametrize("chunks", [5, 6, 7, 8, 12])
def test_short_series_are_fitted_by_the_shapes_they_have_enough_chunks_for(chunks):
    fit = fit_half_life(linear(0.6, -0.05).curve(chunks=chunks))
    assert [isfinite(each.aicc) for each in fit.candidates] == [True, True, chunks > 5, chunks > 5]
    assert sum(each.weight for each in fit.candidates) == pytest.approx(1)
    assert fit.chosen.shape == "linear"


def test_five_noisy_chunks_are_not_enough_for_a_trend():
    fits = [fit_half_life(noisy(constant(0.5), seed, chunks=5)) for seed in range(40)]
    assert sum(fit.verdict == "stable" for fit in fits) >= 36


def test_half_life_of_an_exponential_with_a_floor_by_hand():
    """From 0.6 towards 0.1, half of the way every 12 chunks: 0.3 is reached after 12 · log₂(0.5 / 0.2)."""
    assert fit_half_life(exponential(0.6, 0.1, 12).curve()).half_life == pytest.approx(12 * log2(2.5), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=5, max_size=40), st.sampled_from([None, *MODES]))
def test_any_series_gets_an_honest_verdict(mid, mode):
    fit = fit_half_life(mid, mode=mode)
    assert isinstance(fit, Fit)
    assert in_words(fit)
    assert 0 < fit.p <= 1
    assert 0 < fit.p_sequential <= 1
    if fit.half_life is not None:
        assert fit.verdict in ("linear", "exponential", "cliff")
        assert 0 <= fit.half_life <= len(mid)
        assert fit.chosen.values(fit.half_life) <= fit.start / 2 + 1e-6 * abs(fit.start) + 1e-9
    assert [fit.half_life is not None, fit.censored, fit.never is not None].count(True) <= 1
