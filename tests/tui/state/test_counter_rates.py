"""Rates of counters and bytes per token: worked out by hand, and the same live and in a replay."""

from __future__ import annotations

import pytest

from moe_watch.routing.events import Keyframe, Token, Vitals
from moe_watch.tui.state.counter_rates import LEAST_TOKENS, CounterRates
from moe_watch.tui.state.run import RunView
from tests.tui.events import main_run


def rates_of(*steps):
    """Feed `(t, bytes read, decode tokens since the last reading)`."""
    rates = CounterRates()
    for t, read, tokens in steps:
        for _ in range(tokens):
            rates.count(decode=True)
        rates.add(Vitals(t=t, worker_read=read))
    return rates


def test_bytes_per_second_and_per_token():
    rates = rates_of((0.0, 1_000, 0), (0.5, 601_000, 2), (1.0, 1_001_000, 3))
    assert rates.newest("worker_read") == pytest.approx(800_000)
    assert rates.rate("worker_read") == pytest.approx(1_000_000)
    assert rates.per_token("worker_read") == pytest.approx(200_000)


def test_a_resident_model_reads_nothing():
    rates = rates_of((0.0, 5_000, 0), (0.5, 5_000, 10))
    assert (rates.rate("worker_read"), rates.per_token("worker_read")) == (0.0, 0.0)


def test_one_reading_has_no_rate():
    rates = rates_of((0.0, 5_000, 4))
    assert (rates.rate("worker_read"), rates.per_token("worker_read")) == (None, None)


def test_no_token_means_no_number_per_token_and_not_infinity():
    rates = rates_of((0.0, 0, 0), (0.5, 9_000, 0))
    assert rates.rate("worker_read") == pytest.approx(18_000)
    assert rates.per_token("worker_read") is None


def test_what_a_prompt_reads_is_not_counted_for_decode_tokens():
    rates = rates_of((0.0, 0, 0))
    rates.count(decode=False)
    rates.count(decode=True)
    rates.add(Vitals(t=0.5, worker_read=90_000))
    assert rates.per_token("worker_read") is None
    rates.count(decode=True)
    rates.add(Vitals(t=1.0, worker_read=90_300))
    assert rates.per_token("worker_read") == pytest.approx(300)


def test_seconds_per_token_are_averaged_over_enough_tokens():
    """A token every 2 s with two readings a second, 8,000 bytes each: the number does not swing with the readings."""
    steps, read = [(0.0, 0, 0)], 0
    for number in range(1, 121):
        read += 2_000
        steps.append((number / 2, read, int(number % 4 == 0)))
    assert rates_of(*steps).per_token("worker_read") == pytest.approx(8_000, rel=1 / LEAST_TOKENS)


def test_another_worker_begins_at_zero():
    rates = rates_of((0.0, 5_000_000, 0), (0.5, 100, 2), (1.0, 400, 3))
    assert rates.newest("worker_read") == pytest.approx(600)
    assert rates.rate("worker_read") == pytest.approx(600)
    assert rates.per_token("worker_read") == pytest.approx(100)


def test_a_counter_that_vanishes_has_no_rate():
    rates = rates_of((0.0, 0, 0), (0.5, 100, 1), (1.0, None, 1))
    assert (rates.rate("worker_read"), rates.per_token("worker_read")) == (None, None)


def test_times_that_go_back_are_no_interval():
    assert rates_of((5.0, 0, 0), (1.0, 100, 1)).rate("worker_read") is None


def test_a_run_view_counts_its_own_tokens():
    view, read, seen = RunView(), 0, []
    for item in main_run(60):
        if isinstance(item, Vitals):
            read += 1_000_000
            item = Vitals(t=item.t, worker_read=read)
        view.feed(item)
        if isinstance(item, Vitals):
            seen.append((view.decoded, view.vitals.rates.per_token("worker_read")))
    known = [each for _, each in seen if each is not None]
    assert known
    decoded = seen[-1][0] - seen[-2][0]
    assert decoded > 0
    assert all(each > 0 for each in known)


def test_a_prompt_of_many_intervals_is_not_counted_for_the_first_decode_tokens():
    """The tokens of a prompt come when a batch is evaluated, long after its weights are read."""
    rates = rates_of((0.0, 0, 0), (0.5, 4_000_000, 0), (1.0, 9_000_000, 0))
    for _ in range(5):
        rates.count(decode=False)
    rates.add(Vitals(t=1.5, worker_read=9_500_000))
    rates.add(Vitals(t=2.0, worker_read=9_500_200))
    assert rates.per_token("worker_read") is None
    rates.count(decode=True)
    rates.add(Vitals(t=2.5, worker_read=9_500_300))
    assert rates.per_token("worker_read") == pytest.approx(300)


def test_what_follows_the_newest_token_waits_for_the_next_one():
    """Between two tokens it is not known yet whether the model evaluates a token or the next prompt."""
    rates = rates_of((0.0, 0, 0), (0.5, 100, 1), (1.0, 5_000_100, 0))
    assert rates.per_token("worker_read") == pytest.approx(100)
    rates.count(decode=False)
    rates.add(Vitals(t=1.5, worker_read=5_000_200))
    assert rates.per_token("worker_read") == pytest.approx(100)
    rates.count(decode=True)
    rates.add(Vitals(t=2.0, worker_read=5_000_500))
    assert rates.per_token("worker_read") == pytest.approx(200)


def test_after_a_seek_the_readings_before_it_are_not_counted():
    """A replay that seeks gives the readings before the target without their tokens."""
    items = list(main_run(720))
    keyframe = next(at for at, each in enumerate(items) if isinstance(each, Keyframe) and each.i > 20)
    view = RunView()
    view.feed(items[0])
    for number in range(4):
        view.feed(Vitals(t=number / 2, worker_read=number * 10_000_000))
    view.feed(items[keyframe])
    view.feed(Vitals(t=2.0, worker_read=40_000_000))
    tokens = [each for each in items[keyframe:] if isinstance(each, Token)][:2]
    for token in tokens:
        view.feed(token)
    view.feed(Vitals(t=2.5, worker_read=40_000_500))
    assert view.vitals.rates.per_token("worker_read") == pytest.approx(250)
