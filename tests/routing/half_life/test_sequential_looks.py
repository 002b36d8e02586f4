from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from moe_watch.routing.half_life.fit import fit_half_life
from moe_watch.routing.half_life.sequential_looks import (
    EARLY_FACTOR,
    FACTOR,
    LIMIT,
    WITHDRAWN,
    Look,
    look_counts,
    run_looks,
    sequential_result,
)
from moe_watch.routing.half_life.wording import by_weight, doubt, in_words
from tests.routing.planted import REAL_NOISE, cliff, constant, exponential, linear, plant
from tests.routing.planted_looks import watch_planted

FINDS = Look(50, LIMIT / FACTOR, 0.2)
FINDS_LITTLE = Look(50, LIMIT / FACTOR, 0.04)
UNSURE = Look(50, 2 * LIMIT / FACTOR, 0.2)
NOTHING = Look(50, 1.5 * WITHDRAWN, 0.2)


def test_looks_are_at_fixed_numbers_of_chunks():
    assert list(look_counts(4)) == []
    assert list(look_counts(50)) == [5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50]
    assert list(look_counts(1000))[-11:] == [100, 120, 150, 200, 250, 300, 400, 500, 600, 800, 1000]
    assert {50, 100, 200, 500} <= set(look_counts(500))


def test_a_look_s_p_is_corrected_by_a_factor_and_more_so_early():
    assert Look(10, 0.002, 0.1).corrected == 0.002 * FACTOR
    assert Look(8, 0.001, 0.1).corrected == 0.001 * EARLY_FACTOR
    assert Look(10, 0.5, 0.1).corrected == 1.0


@pytest.mark.parametrize(
    ("looks", "found"),
    [
        ([], False),
        ([UNSURE], False),
        ([FINDS], True),
        ([FINDS_LITTLE], False),
        ([FINDS_LITTLE, FINDS], True),
        ([FINDS, UNSURE, UNSURE], True),
        ([FINDS, FINDS_LITTLE], True),
        ([FINDS, NOTHING], False),
        ([FINDS, NOTHING, UNSURE], False),
        ([FINDS, NOTHING, FINDS], True),
    ],
)
def test_a_finding_lasts_until_a_look_finds_nothing_by_a_wide_margin(looks, found):
    assert sequential_result(looks).found is found
    assert sequential_result(looks).looks == len(looks)


def test_the_sequential_p_is_the_lowest_since_nothing_was_found():
    assert sequential_result([FINDS, UNSURE]).p == FINDS.corrected
    assert sequential_result([FINDS, NOTHING]).p == 1.0
    assert sequential_result([FINDS, NOTHING, UNSURE]).p == UNSURE.corrected


class TestAnySeries:
    @pytest.fixture(scope="class")
    def mid(self):
        """A cliff that is not clear at first."""
        (made,) = plant(cliff(0.46, 0.36, 25), 0.3, range(3, 4), sd=REAL_NOISE, chunks=62)
        return made.mid

    def test_the_verdict_changes_at_looks_only(self, mid):
        fits = {count: fit_half_life(mid[:count]) for count in range(5, len(mid) + 1)}
        changed = [b for a, b in pairwise(fits) if (fits[a].verdict == "stable") != (fits[b].verdict == "stable")]
        assert changed
        assert set(changed) <= set(look_counts(len(mid)))
        assert all(a <= b for a, b in pairwise(fit.looks for fit in fits.values()))

    def test_looking_before_changes_nothing(self, mid):
        watched = [fit_half_life(mid[:count]) for count in range(5, len(mid) + 1)][-1]
        at_once = fit_half_life([*mid[:-1], mid[-1]])
        assert (watched.p_sequential, watched.looks, watched.verdict) == (
            at_once.p_sequential, at_once.looks, at_once.verdict,
        )  # fmt: skip
        assert in_words(watched) == in_words(at_once)

    def test_each_look_is_the_single_test_at_its_length(self, mid):
        values = np.array(mid)
        looks = run_looks(values, np.arange(len(values), dtype=float))
        assert [look.chunks for look in looks] == list(look_counts(len(mid)))
        assert [look.p for look in looks] == [fit_half_life(mid[: look.chunks]).p for look in looks]


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.5])
def test_flat_series_are_hardly_ever_called_anything_else(phi):
    """At most 10 %, with a margin for few seeds. Without correction 22 % at φ = 0.5."""
    found = watch_planted(constant(0.46), phi, range(30_000, 30_060), (50, 100, 200))
    assert found.ever[200] <= 0.15
    assert found.ever[50] <= found.ever[100] <= found.ever[200] <= found.ever_uncorrected[200]
    assert found.changes < 0.4


@pytest.mark.parametrize("planted", [exponential(0.46, 0.1, 20), cliff(0.46, 0.34)], ids=lambda each: each.name)
def test_trends_are_found_while_they_are_watched(planted):
    found = watch_planted(planted, 0.3, range(30_000, 30_040), (50,))
    assert found.at_end >= 0.85
    assert found.delay <= 50


class TestWords:
    def test_why_the_likeliest_curve_was_not_believed(self):
        """Autocorrelated noise that a cliff fits better than a constant."""
        (made,) = plant(constant(0.46), 0.5, range(1, 2), sd=REAL_NOISE)
        fit = fit_half_life(made.mid)
        best, said = by_weight(fit)[0], doubt(fit)
        assert (fit.verdict, best.shape == "constant") == ("stable", False)
        assert said.startswith(f"{best.shape} rejected: noise alone gives such curves (p = ")
        assert f"over {fit.looks} looks; limit {LIMIT:g})" in said

    def test_a_trend_too_small_to_matter(self):
        assert doubt(fit_half_life(linear(0.5, -0.0004).curve())) == (
            "linear rejected: it changes by less than 5 % of its start"
        )

    def test_nothing_is_said_of_a_likeliest_curve_that_was_chosen(self):
        assert doubt(fit_half_life(exponential(0.6, 0.1, 12).curve())) == ""

    def test_curves_are_sorted_by_weight(self):
        weights = [each.weight for each in by_weight(fit_half_life(linear(0.5, -0.0004).curve()))]
        assert weights == sorted(weights, reverse=True)

    def test_a_curve_that_levels_off_above_half_is_never_said_to_get_there(self):
        """If the interval allows that half is reached, the text does, too."""
        fits = (fit_half_life(each.mid) for each in plant(exponential(0.5, 0.27, 10), 0.3, range(40)))
        fit = next(fit for fit in fits if fit.never and fit.interval)
        words = in_words(fit)
        assert "never" not in words
        assert f"levels off at {fit.never.floor:.3f}, above half of its start ({fit.start / 2:.3f})" in words
        assert f"half after {fit.interval[0]:.1f} chunks or more, if ever (95 %)" in words


def test_a_long_run_that_is_fitted_at_every_chunk_keeps_little():
    """Each length has a separate axis, which takes a megabyte at 1,000 chunks."""
    series = 0.46 + 0.03 * np.random.default_rng(0).standard_normal(1000)
    fit_half_life(series[:980])
    tracemalloc.start()
    try:
        for chunks in range(981, 1001):
            fit_half_life(series[:chunks])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 6_000_000
