"""Checks of a measured observation cost."""

from __future__ import annotations

import pytest

from moe_watch.routing.stats.timing_noise import Noise, doubt, in_words

QUIET = Noise(cores=2, load=1.0, others=0.03, steal=0.0)


@pytest.mark.parametrize(
    ("ratio", "interval"),
    [
        (0.994, (0.989, 0.999)),
        (0.9, (0.85, 0.95)),
        (1.003, (0.997, 1.024)),
        (1.01, (1.005, 1.015)),
        (1.05, (0.98, 1.1)),
    ],
    ids=["costs-little", "costs-a-tenth", "even", "graph-fetched-ahead", "faster-within-noise"],
)
def test_a_cost_is_believed(ratio, interval):
    assert doubt(ratio, interval, QUIET) is None


@pytest.mark.parametrize(
    ("ratio", "interval", "said"),
    [
        (1.59, (1.44, 1.77), "observing cannot make a model faster, and the ratio is 1.590 [1.440, 1.770]"),
        (1.05, (1.03, 1.07), "observing cannot make a model faster"),
        (0.921, (0.6, 1.2), "the 95 % interval is wide, [0.600, 1.200]"),
        (0.98, None, "no 95 % interval: that needs at least 6 rounds"),
    ],
    ids=["much-faster", "faster-beyond-noise", "wide", "few-rounds"],
)
def test_a_cost_is_doubted(ratio, interval, said):
    assert doubt(ratio, interval, QUIET).startswith(said)


@pytest.mark.parametrize(("others", "steal"), [(0.48, 0.0), (0.0, 0.3), (0.2, 0.2), (0.9, None)])
def test_a_busy_machine_measures_itself(others, steal):
    noise = Noise(cores=2, load=3.0, others=others, steal=steal)
    taken = round(100 * (others + (steal or 0)))
    assert doubt(0.99, (0.98, 1.0), noise) == f"other processes took {taken} % of the processors during the measurement"


def test_noise_in_words_has_no_number_that_was_not_read():
    assert in_words(QUIET) == "load 1.00 on 2 cores, other processes used 3 % of the processors, steal 0 %"
    unknown = Noise(cores=1, unavailable={"load": "x", "others": "y", "steal": "z"})
    assert in_words(unknown) == "load n/a on 1 core, other processes used n/a of the processors, steal n/a"
