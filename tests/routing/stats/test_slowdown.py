"""Throttling inferred from speed and clock, on simulated runs."""

from __future__ import annotations

import pytest

from moe_watch.routing.events import Change, Clock, Token, Vitals
from moe_watch.routing.stats.slowdown import SlowdownEstimator, device_of
from tests.routing.stats.simulated_heat import BEGIN, HARMLESS, THROTTLED, alarm, simulate, throttled

RUNS = 6


@pytest.mark.parametrize("name", HARMLESS)
def test_no_alarm_without_throttling(name):
    assert [alarm(HARMLESS[name], seed) for seed in range(RUNS)] == [None] * RUNS


@pytest.mark.parametrize("clock", [0.7, 0.6])
def test_throttling_is_found(clock):
    times = [alarm(throttled(clock), seed) for seed in range(RUNS)]
    assert all(time is not None and BEGIN + 15 < time < BEGIN + 120 for time in times)
    assert len(THROTTLED) == 10


def fed(events, device="cpu"):
    estimator = SlowdownEstimator(device)
    for event in events:
        estimator.feed(event)
    return estimator.last


def run(speeds, mhz, first=0, t=0.0, **clocks):
    """Yield ten tokens a second times the speed of each second, and a reading after each second."""
    i = first
    for second, speed in enumerate(speeds):
        count = round(10 * speed)
        for each in range(count):
            i += 1
            yield Token(i=i, t=t + second + each / count, phase="decode", source="generated", id=1, text="")
        yield Vitals(t=t + second + 1, clocks=[Clock(device="CPU", kind="cpu", mhz=mhz(second))], **clocks)


def test_both_numbers_of_an_exact_run():
    """Speed 10 per second at 3,000 MHz, then 6 at 2,100: falls of 40 % and 30 %."""
    found = fed(run([1.0] * 40 + [0.6] * 40, lambda second: 3000 if second < 40 else 2100))
    assert found.throttled
    assert found.speed_fall == pytest.approx(0.4, abs=1e-9)
    assert found.clock_fall == pytest.approx(0.3, abs=1e-9)


def test_it_ends_when_the_speed_is_back():
    clock = lambda second: 3000 if second < 40 or second >= 80 else 2100  # noqa: E731
    assert fed(run([1.0] * 40 + [0.6] * 40 + [1.0] * 40, clock)).throttled is False


def test_without_clocks_nothing_is_said():
    events = [event for event in run([1.0] * 40 + [0.5] * 40, lambda _: 3000) if isinstance(event, Token)]
    found = fed([*events, Vitals(t=80.0, unavailable={"clocks": "no cpufreq"})])
    assert found.throttled is None
    assert found.why == "clocks of the CPU unavailable, heat and load look alike: no cpufreq"


def test_the_clock_of_another_processor_does_not_count():
    events = list(run([1.0] * 40 + [0.6] * 40, lambda second: 3000 if second < 40 else 2100))
    assert fed(events, "gpu").throttled is None


def test_a_changed_setting_begins_a_new_reference():
    clock = lambda second: 3000 if second < 40 else 2100  # noqa: E731
    events = list(run([1.0] * 40 + [0.6] * 40, clock))
    at = next(place for place, event in enumerate(events) if isinstance(event, Token) and event.t >= 40)
    for change in (Change(i=0, t=40.0, rate=6.0), Change(i=0, t=40.0, tap=True)):
        assert not fed([*events[:at], change, *events[at:]]).throttled
    assert fed([*events[:at], Change(i=0, t=40.0, multistep=True), *events[at:]]).throttled


def test_memory_is_bounded():
    estimator = SlowdownEstimator()
    for event in run([1.0] * 1500, lambda _: 3000):
        estimator.feed(event)
    assert len(estimator._samples) <= 200
    assert len(estimator._window) <= 256


def test_equal_seeds_give_equal_runs():
    disturbance = HARMLESS["nothing but the growing context"]
    assert list(simulate(disturbance, 1)) == list(simulate(disturbance, 1)) != list(simulate(disturbance, 2))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("CPU (AMD Ryzen AI with Radeon GPU)", "cpu"), ("GPU (Apple M3)", "gpu"), ("CPU", "cpu"), ("CUDA0", "gpu")],
)
def test_device_of_a_header(name, kind):
    assert device_of(name) == kind
