"""Throttling inferred from speed and clocks that fall together, where no counter reports it.

A token takes longer the longer its context is, so the speed alone proves nothing. Seconds per token are therefore
predicted from the run's earlier tokens, by a robust line over the context length (Theil and Sen), and compared with the
newest ones. Load of another program slows a run down without a fall of the clock; a clock falls without heat if the run
waits. Only both together, for a time, are taken as throttling.

References: sen-1968.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np

from moe_watch.routing.arrays import Floats
from moe_watch.routing.events import Change, Clock, Perturbation, State, Token, Vitals

LEAST_TOKENS = 4
"""Fewest intervals between tokens in one sample."""
LEAST_SECONDS = 0.9
"""Shortest sample."""
SETTLING = 2
"""Samples at the beginning that are left out: a mapped model is still read from the disk."""
REFERENCE = 20
"""Samples whose median clock is the reference."""
NEAR_REFERENCE = 0.95
"""Share of the reference clock from which on a sample is used for the prediction."""
MOST_SAMPLES = 200
"""Bound of the samples for the prediction; then every second one is dropped."""
WINDOW_SECONDS = 20.0
"""Seconds of decoding that are judged together."""
LEAST_JUDGED = 5
"""Fewest samples in the window."""
SLOWER = 0.15
"""Fall of the speed below the prediction, and of the clock below the reference, from which a run is throttled."""
CLEARED = 0.075
"""Fall of either below which it no longer is."""
AGREEING = 0.8
"""Share of the samples in the window of which both values have fallen by `CLEARED`."""
STANDARD_ERRORS = 2.0
"""Standard errors of the prediction by which a token must be slower, beyond `SLOWER`."""
NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""

Device = Literal["cpu", "gpu"]


@dataclass(frozen=True, slots=True)
class Slowdown:
    """Judgement of the newest window."""

    throttled: bool | None
    """None if it cannot be judged."""
    speed_fall: float = 0.0
    """Fall of tokens per second below the prediction, 0..1; negative above it."""
    clock_fall: float = 0.0
    """Fall of the clock below the reference, 0..1."""
    why: str = ""
    """Reason why it cannot be judged."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """Mean over some successive decode tokens."""

    context: float
    """Tokens in the context."""
    seconds: float
    """Per token."""
    mhz: float
    duration: float


class SlowdownEstimator:
    """Estimator of throttling from the events of one run in order; bounded memory.

    Args:
        device: kind of the processor that runs the model; only its clocks count.
    """

    def __init__(self, device: Device = "cpu") -> None:
        self._device = device
        self.last = Slowdown(None, why="no clock yet")
        """Newest judgement."""
        self._context = 0
        self._restart()

    def feed(self, event: Token | Vitals | State | Change | Perturbation) -> None:
        """Process the next event."""
        match event:
            case Token():
                self._feed_token(event)
            case Vitals():
                self._feed_vitals(event)
            case State(state="fresh_context"):
                self._context = 0
                self._break()
            case State(state="paused" | "resumed" | "finished"):
                self._break()
                self._window.clear()
            case State() | Perturbation():
                self._break()
            case Change(multistep=None):  # the tap, the rate limit or the sampler: another speed
                self._restart()

    def _restart(self) -> None:
        """Forget the reference."""
        self._seen = 0
        self._clocks: list[float] = []
        self._reference: float | None = None
        self._samples: list[_Sample] = []
        self._waiting: list[_Sample] = []
        """Samples before there is a reference."""
        self._window: deque[_Sample] = deque(maxlen=256)
        self._break()

    def _break(self) -> None:
        """Discard the open sample: the next token does not follow the last one at once."""
        self._first: float | None = None
        self._newest = 0.0
        self._intervals = 0

    def _feed_token(self, token: Token) -> None:
        self._context += 1
        if token.phase != "decode":
            self._break()
        elif self._first is None:
            self._first = self._newest = token.t
        else:
            self._newest = token.t
            self._intervals += 1

    def _feed_vitals(self, vitals: Vitals) -> None:
        clock = _slowest(vitals.clocks, self._device)
        if clock is None:
            name = self._device.upper()
            why = vitals.unavailable.get("clocks", "not recorded")
            self.last = Slowdown(None, why=f"clocks of the {name} unavailable, heat and load look alike: {why}")
            self._break()
            return
        if self._first is None or self._intervals < LEAST_TOKENS or self._newest - self._first < LEAST_SECONDS:
            return
        duration = self._newest - self._first
        sample = _Sample(self._context - self._intervals / 2, duration / self._intervals, clock.mhz, duration)
        self._first, self._intervals = self._newest, 0
        self._seen += 1
        if self._seen > SETTLING:
            self._take(sample)

    def _take(self, sample: _Sample) -> None:
        if self._reference is None:
            self._waiting.append(sample)
            if len(self._waiting) < REFERENCE:
                self.last = Slowdown(None, why=f"reference: {len(self._waiting)} of {REFERENCE} samples")
                return
            self._reference = median(each.mhz for each in self._waiting)
            for each in self._waiting:
                self._learn(each, self._reference)
            self._waiting = []
        self._window.append(sample)
        while sum(each.duration for each in self._window) - self._window[0].duration >= WINDOW_SECONDS:
            self._window.popleft()
        # The window is judged before it can teach: a sample must not predict itself.
        self.last = self._judge(self._reference)
        if not self.last.throttled:
            self._learn(sample, self._reference)

    def _learn(self, sample: _Sample, reference: float) -> None:
        if sample.mhz >= NEAR_REFERENCE * reference:
            self._samples.append(sample)
            if len(self._samples) > MOST_SAMPLES:
                self._samples = self._samples[::2]

    def _judge(self, reference: float) -> Slowdown:
        window = list(self._window)
        if len(window) < LEAST_JUDGED or sum(each.duration for each in window) < WINDOW_SECONDS:
            return Slowdown(None, why=f"fewer than {WINDOW_SECONDS:.0f} s of decoding")
        contexts = np.array([each.context for each in window])
        seconds = np.array([each.seconds for each in window])
        clock_falls = 1 - np.array([each.mhz for each in window]) / reference
        expected, error = _predict(self._samples, contexts)
        if np.median(error / expected) > SLOWER:
            return Slowdown(None, why="too few tokens so far to predict the speed at this context length")
        speed_falls = 1 - expected / seconds
        certain = 1 - (expected + STANDARD_ERRORS * error) / seconds
        speed_fall, clock_fall = float(np.median(speed_falls)), float(np.median(clock_falls))
        both = float(np.mean((certain >= CLEARED) & (clock_falls >= CLEARED)))
        if self.last.throttled:
            throttled = speed_fall >= CLEARED and clock_fall >= CLEARED
        else:
            certain_fall = float(np.median(certain))
            throttled = certain_fall >= SLOWER and clock_fall >= SLOWER and both >= AGREEING
        return Slowdown(throttled, speed_fall, clock_fall)


def _predict(samples: list[_Sample], contexts: Floats) -> tuple[Floats, Floats]:
    """Return expected seconds per token at some context lengths, and their standard errors."""
    x = np.array([each.context for each in samples])
    y = np.array([each.seconds for each in samples])
    pairs = np.triu_indices(len(x), 1)
    steps, rises = x[pairs[1]] - x[pairs[0]], y[pairs[1]] - y[pairs[0]]
    apart = steps != 0
    slope = max(0.0, float(np.median(rises[apart] / steps[apart]))) if apart.any() else 0.0
    base = float(np.median(y - slope * x))
    residuals = y - base - slope * x
    spread = NORMAL_MAD * float(np.median(np.abs(residuals - np.median(residuals))))
    centred = x - x.mean()
    total = float(centred @ centred) or 1.0
    error = spread * np.sqrt(1 / len(x) + (contexts - x.mean()) ** 2 / total)
    return np.maximum(base + slope * contexts, 1e-9), error


def _slowest(clocks: list[Clock], device: Device) -> Clock | None:
    """Return the lowest clock of the devices of a kind: the slowest device determines the speed of a run on several."""
    return min((each for each in clocks if each.kind == device), key=lambda each: each.mhz, default=None)


def device_of(name: str) -> Device:
    """Return the kind of a device by its name in a session's header: `CPU (…)`, `GPU (…)`, or an older name."""
    return "gpu" if name.lower().startswith(("gpu", "cuda", "metal", "vulkan", "rocm")) else "cpu"
