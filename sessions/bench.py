"""Benchmark of the observation cost: the engine's own loop, moe-watch's, and moe-watch's with recording and dashboard.

All run in turn, in one worker process.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType, TracebackType
from typing import get_args

import msgspec

from moe_watch.backends.protocol import Measure, MeasuredVariant, Ready
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Cost, Phase, Progress, State, Token
from moe_watch.routing.stats.ratios import Ratio, interleave, ratio
from moe_watch.routing.stats.timing_noise import Noise, doubt
from moe_watch.sessions.live.environment import Surroundings
from moe_watch.sessions.live.headless import run_headless
from moe_watch.sessions.live.settings import RunSettings
from moe_watch.sessions.live.shared_worker import KeptWorker
from moe_watch.sessions.live.source import LiveSource
from moe_watch.sessions.reading.reader import read_session
from moe_watch.sessions.recording.options import RecordingOptions
from moe_watch.vitals.noise import NoiseMeter

FEWEST_TOKENS = 20
"""Fewest tokens of a measurement: recorded times are whole milliseconds, too coarse for the rate of fewer."""
PREFILL_TOKENS = 256
WARM_UP_ROUNDS = 1
MEASURED: tuple[MeasuredVariant, ...] = get_args(MeasuredVariant)
"""Variants that the worker measures by itself."""

Follow = Callable[[LiveSource], object]
"""Function that starts a source, follows it to its end, and closes it."""
Variant = tuple[Phase, str]
"""A phase and the name of a variant; the first variant of each phase is the baseline of the others."""
Variants = Mapping[Variant, Callable[[], float]]
"""Measurement of each variant, in tokens per second."""


@dataclass(frozen=True, slots=True)
class VariantRates:
    """One variant's rates over all rounds."""

    phase: Phase
    name: str
    rates: Sequence[float]
    """Tokens per second [rounds]."""
    ratio: Ratio
    """Ratio to `bare` in the same phase."""

    @property
    def tokens_per_second(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.rates)

    @property
    def doubt(self) -> str | None:
        """Reason to doubt the ratio, from the rates alone; None if there is none."""
        return None if self.name == "bare" else doubt(self.ratio.value, self.ratio.interval)


@dataclass(frozen=True, slots=True)
class BenchResult:
    """All rows of a benchmark, and the noise of the machine while they were measured."""

    rows: list[VariantRates]
    noise: Noise

    @property
    def doubt(self) -> str | None:
        """Reason that the observation cost is unknown; None if it is known."""
        against = self._row("tap on").ratio
        return doubt(against.value, against.interval, self.noise)

    @property
    def cost(self) -> Cost | None:
        """Observation cost, as a header stores it; None if the measurement is too noisy."""
        if self.doubt is not None:
            return None
        tap = self._row("tap on")
        return Cost(
            tap_off=self._row("bare").tokens_per_second,
            tap_on=tap.tokens_per_second,
            ratio=tap.ratio.value,
            interval=tap.ratio.interval,
        )

    def _row(self, name: str) -> VariantRates:
        return next(row for row in self.rows if (row.phase, row.name) == ("decode", name))


class Bench:
    """A worker with a loaded model, and the measurements on it. Use as a context manager.

    Args:
        settings: model, engine, prompt, and number of tokens to generate in a measurement (default `FEWEST_TOKENS`).
        on_progress: called with the progress of loading, on any thread.
        dashboard: follows a source on a screen; None leaves this variant out.
        prefill_tokens: length of the prompt of prefill measurements.

    Raises:
        UserError: on entering, the model cannot be used; later, a measurement failed, or the worker died.
    """

    ready: Ready

    def __init__(
        self,
        settings: RunSettings,
        on_progress: Callable[[Progress], None],
        *,
        dashboard: Follow | None = None,
        prefill_tokens: int = PREFILL_TOKENS,
    ) -> None:
        self._settings = _recorded(settings)
        self._tokens = self._settings.spec.tokens or FEWEST_TOKENS
        self._dashboard = dashboard
        self._prefill_tokens = prefill_tokens
        self._worker = KeptWorker(self._settings.load(), on_progress)

    def __enter__(self) -> Bench:
        self.ready = self._worker.__enter__().ready
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.__exit__(kind, error, trace)

    def run(
        self,
        rounds: int,
        on_measured: Callable[[], None],
        extra: Variants = MappingProxyType({}),
    ) -> BenchResult:
        """Measure all variants in each round, after one warm-up round.

        Args:
            rounds: at least `moe_watch.routing.stats.ratios.FEWEST_ROUNDS`, or there is no interval.
            on_measured: called after every measurement: `measurements(rounds)` times, and for the variants of `extra`.
            extra: further variants, measured in the same rounds, in tokens per second.
        """

        def noted(measure: Callable[[], float]) -> Callable[[], float]:
            def measure_and_note() -> float:
                rate = measure()
                on_measured()
                return rate

            return measure_and_note

        with TemporaryDirectory(prefix="moe-watch-bench-") as name:
            everything = {**self._variants(Path(name)), **extra}
            variants = {variant: noted(measure) for variant, measure in everything.items()}
            meter = NoiseMeter()
            rates = interleave(variants, rounds, warm_up=WARM_UP_ROUNDS)
            noise = meter.noise()
        rows = [
            VariantRates(*variant, taken, ratio(taken, rates[variant[0], "bare"])) for variant, taken in rates.items()
        ]
        return BenchResult(rows, noise)

    def measurements(self, rounds: int) -> int:
        """Return the number of measurements of `run`."""
        return len(self._variants(Path())) * (rounds + WARM_UP_ROUNDS)

    def _variants(self, folder: Path) -> dict[Variant, Callable[[], float]]:
        """Return the variants; the worker's come first, because they fail at once if the tokens exceed the context."""
        path = folder / "bench.moe.jsonl"
        variants: dict[Variant, Callable[[], float]] = {}
        for name in MEASURED:
            variants["decode", name] = partial(self.measure, name, "decode")
        variants["decode", "tap + recording"] = partial(self._record, path, _without_screen)
        if self._dashboard is not None:
            variants["decode", "tap + recording + dashboard"] = partial(self._record, path, self._dashboard)
        for name in MEASURED:
            variants["prefill", name] = partial(self.measure, name, "prefill")
        return variants

    def measure(self, variant: MeasuredVariant, phase: Phase) -> float:
        """Measure tokens per second, once."""
        tokens = self._prefill_tokens if phase == "prefill" else self._tokens
        prompt = self._settings.spec.prompt
        return self._worker.measure(Measure(variant=variant, phase=phase, prompt=prompt, tokens=tokens))

    def _record(self, path: Path, follow: Follow) -> float:
        """Record a whole run on the loaded worker; return its rate by the recorded times."""
        settings = replace(self._settings, recording=replace(self._settings.recording, output=path))
        source = LiveSource(settings, Surroundings(worker=self._worker.lend))
        follow(source)
        if source.fatal_error is not None:
            raise source.fatal_error
        if source.recording.problem:
            raise UserError(source.recording.problem, advice="make room for temporary files")
        return recorded_rate(path)


def _recorded(settings: RunSettings) -> RunSettings:
    """Return settings of runs with a raw prompt that are recorded, and do not finish at the end of the text."""
    spec = msgspec.structs.replace(
        settings.spec, raw=True, sampler=msgspec.structs.replace(settings.spec.sampler, stop="never")
    )
    return replace(settings, spec=spec, recording=RecordingOptions(force=True, required=True))


def _without_screen(source: LiveSource) -> None:
    run_headless(source, lambda _: None)


def recorded_rate(path: Path) -> float:
    """Return the decode tokens per second of a recorded run, by its recorded times.

    Raises:
        UserError: the run failed.
        KeyboardInterrupt: the user ended it early.
    """
    with closing(read_session(path)) as session:
        events = list(session)
    times = [event.t for event in events if isinstance(event, Token) and event.phase == "decode"]
    last = next(event for event in reversed(events) if isinstance(event, State))
    if last.state == "error":
        raise UserError(last.message or "the run failed")
    if last.why == "user":
        raise KeyboardInterrupt
    return (len(times) - 1) / (times[-1] - times[0])
