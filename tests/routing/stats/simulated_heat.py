"""Simulated runs with and without throttling.

A run of 6 minutes at 10 tokens/s and less: seconds per token double within 4,000 tokens of context, and have noise of
10 % per token, of 4 % per second with correlation 0.8, and stalls of 2 s in 1 % of the seconds. The clock has noise
of 3 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from moe_watch.routing.events import Change, Clock, Phase, State, Token, Vitals
from moe_watch.routing.stats.slowdown import SlowdownEstimator

SECONDS = 360
BEGIN = 150
"""Second at which the disturbance begins."""
MHZ = 3000.0

StepEvent = Token | Vitals | State | Change


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Disturbance of a run as factors of speed and clock by time, and events at some seconds."""

    speed: Callable[[float], float] = lambda _t: 1.0
    clock: Callable[[float], float] = lambda _t: 1.0
    clock_noise: float = 0.03
    rate: Callable[[float], float] = lambda _t: 0.0
    """Limit in tokens per second; 0 is none."""
    pause_every: int = 0
    """Seconds between pauses of 20 s."""
    restart_every: int = 0
    """Seconds between fresh contexts with a prompt of 200 tokens."""


def _after(value: float, ramp: float = 1.0) -> Callable[[float], float]:
    """Return a factor that falls from 1 to `value` from `BEGIN` on, within `ramp` seconds."""
    return lambda t: 1 - (1 - value) * min(1.0, max(0.0, (t - BEGIN) / ramp))


def throttled(clock: float, dependence: float = 1.0) -> Disturbance:
    """Return heat: clock and speed fall within a minute, the speed by a share of the clock's fall."""
    return Disturbance(speed=_after(1 - dependence * (1 - clock), 60), clock=_after(clock, 60))


HARMLESS = {
    "nothing but the growing context": Disturbance(),
    "load of another program, clock unchanged": Disturbance(speed=_after(0.6), clock=_after(0.98)),
    "load of another program, turbo clock 10 % lower": Disturbance(speed=_after(0.6), clock=_after(0.9)),
    "clock 30 % lower, speed unchanged": Disturbance(clock=_after(0.7)),
    "`--rate 4`, noisy clock": Disturbance(rate=lambda _t: 4.0, clock_noise=0.15),
    "rate lowered by key to 3, clock 40 % lower": Disturbance(
        rate=lambda t: 3.0 if t > BEGIN else 6.0, clock=_after(0.6)
    ),
    "a pause of 20 s every minute": Disturbance(pause_every=60),
    "a fresh context every 90 s": Disturbance(restart_every=90),
}
THROTTLED = {
    f"clock {100 * (1 - clock):.0f} % lower, speed {100 * dependence * (1 - clock):.0f} %": throttled(clock, dependence)
    for dependence in (1.0, 0.7)
    for clock in (0.85, 0.8, 0.75, 0.7, 0.6)
}


def simulate(disturbance: Disturbance, seed: int) -> Iterator[StepEvent]:
    """Yield the events of one run; equal seeds give equal runs."""
    rng = np.random.default_rng(seed)
    noise, t, i, context, second = 0.0, 0.0, 0, 50, 0
    rate = disturbance.rate(0.0)
    while t < SECONDS:
        while second < t:
            second += 1
            noise = 0.8 * noise + rng.normal(0, 0.04 * 0.6)
            mhz = MHZ * disturbance.clock(second) * (1 + rng.normal(0, disturbance.clock_noise))
            yield Vitals(t=float(second), clocks=[Clock(device="CPU", kind="cpu", mhz=max(1.0, mhz))])
            if disturbance.rate(second) != rate:
                rate = disturbance.rate(second)
                yield Change(i=i, t=t, rate=rate)
            if disturbance.pause_every and second % disturbance.pause_every == 0:
                yield State(state="paused", i=i, t=t, why="user")
                yield Vitals(t=t + 10, clocks=[Clock(device="CPU", kind="cpu", mhz=0.4 * MHZ)])
                t += 20
                second += 20
                yield State(state="resumed", i=i, t=t, why="user")
            if disturbance.restart_every and second % disturbance.restart_every == 0:
                yield State(state="fresh_context", i=i, t=t, why="context")
                for _ in range(200):
                    yield _token(i, t, "prefill")
                    i += 1
                t, context = t + 2, 200
            if rng.random() < 0.01:
                t += 2
        seconds = 0.1 * (1 + context / 4000) / disturbance.speed(t) * np.exp(noise + rng.normal(0, 0.1))
        t += max(seconds, 1 / rate) if rate else seconds
        yield _token(i, round(t, 3), "decode")
        i, context = i + 1, context + 1


def _token(i: int, t: float, phase: Phase) -> Token:
    return Token(i=i, t=t, phase=phase, source="generated" if phase == "decode" else "prompt", id=1, text="")


def alarm(disturbance: Disturbance, seed: int) -> float | None:
    """Return the time of the first judgement as throttled; None without one."""
    estimator = SlowdownEstimator("cpu")
    for event in simulate(disturbance, seed):
        estimator.feed(event)
        if estimator.last.throttled:
            return event.t
    return None
