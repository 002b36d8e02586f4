"""Means over clusters: intervals have their nominal coverage, and there is none for too few clusters."""

from __future__ import annotations

import numpy as np
import pytest

from moe_watch.routing.stats.bootstrap import FEWEST_CLUSTERS, Estimate, cluster_mean

TRIALS = 300


@pytest.mark.parametrize("clusters", [8, 40])
@pytest.mark.parametrize("draw", ["normal", "skewed"])
def test_coverage(clusters, draw):
    rng = np.random.default_rng(clusters)
    samples = rng.normal(0, 1, (TRIALS, clusters)) if draw == "normal" else rng.exponential(1, (TRIALS, clusters)) - 1
    held = [low <= 0 <= high for low, high in (cluster_mean(each).interval for each in samples)]
    assert np.mean(held) >= 0.9


def test_width_is_that_of_students_t():
    values = np.random.default_rng(3).normal(5, 2, 12)
    low, high = cluster_mean(values).interval
    exact = 2 * 2.201 * values.std(ddof=1) / 12**0.5  # 97.5 % of Student's t with 11 degrees of freedom
    assert high - low == pytest.approx(exact, rel=0.25)


def test_same_values_same_estimate():
    values = np.random.default_rng(1).normal(size=20)
    assert cluster_mean(values) == cluster_mean(values.tolist())


def test_five_clusters_have_an_interval():
    low, high = cluster_mean([1.0, 2.0, 3.0, 4.0, 5.0]).interval
    assert low < 3.0 < high


@pytest.mark.parametrize("number", range(1, FEWEST_CLUSTERS))
def test_too_few_clusters_have_no_interval(number):
    assert cluster_mean([2.0] * number) == Estimate(2.0, None, number)
    assert not cluster_mean([2.0] * number).is_other_than_zero


def test_clusters_that_agree():
    assert cluster_mean([0.5] * 6) == Estimate(0.5, (0.5, 0.5), 6)


def test_no_cluster():
    with pytest.raises(ValueError, match="no clusters"):
        cluster_mean([])


@pytest.mark.parametrize(("interval", "answer"), [((0.1, 0.2), True), ((-0.2, -0.1), True), ((-0.1, 0.1), False)])
def test_other_than_zero(interval, answer):
    assert Estimate(0.0, interval, 9).is_other_than_zero is answer
