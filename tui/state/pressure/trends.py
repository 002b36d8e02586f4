"""Fits and forecasts of the pressure trajectory, computed outside the screen's thread as chunks arrive."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Fork
from moe_watch.routing.half_life.fit import Fit, fit_half_life, too_long, too_short
from moe_watch.routing.pressure.external_energy import ExternalEnergy, boundaries_of, external_energy
from moe_watch.tui.state.run import RunView

Extent = tuple[int, int | None, int, int | None, int | None, int]
"""Length of a trajectory: context, last change of the mask, measured chunks, last injection, the chunk after it, and
number of forks."""
REST = 9
"""Pause after a refit, as a multiple of its duration: refits take at most a tenth of a core."""


@dataclass(frozen=True, slots=True)
class FitInput:
    """Input of a fit: the trajectory of one context at one moment."""

    run: int
    mode: str
    positions: tuple[int, ...]
    """Index of each measured chunk, ascending."""
    mid: tuple[float, ...]
    context: int = 0
    """Number of the context: the newest that is long enough for a fit."""
    since_mask: int | None = None
    """Index of the first token since the mask changed in the context; None without a change."""
    problem: str = ""
    """Reason why nothing can be fitted to it yet."""
    injected: int | None = None
    """Index of the chunk after the last injection."""
    after: int | None = None
    """Index of the first complete chunk after the last injection."""
    forks: tuple[Fork, ...] = ()

    @classmethod
    def of(cls, view: RunView, mode: str) -> FitInput:
        """Return the current trajectory of a mode."""
        track = view.tracks[mode]
        judged = track.series.judged
        return cls(
            run=view.runs,
            mode=mode,
            positions=tuple(judged.positions),
            mid=tuple(judged.mid),
            context=judged.number,
            since_mask=judged.masked_at,
            problem=track.unavailable,
            injected=_injected(view, mode),
            after=_after(view, mode),
            forks=tuple(_forks(view, mode)),
        )

    @property
    def extent(self) -> Extent:
        """Length of the trajectory; it changes when the trajectory grows."""
        return self.context, self.since_mask, len(self.mid), self.injected, self.after, len(self.forks)


@dataclass(frozen=True, slots=True, eq=False)
class Trend:
    """Results for a `FitInput`."""

    series: FitInput
    fit: Fit | None
    problem: str = ""
    """Reason why there is no fit."""
    forecast: float | None = None
    """P_mid of the chunk after the last injection, by a fit to the chunks before it."""
    forecast_problem: str = ""
    """Reason why there is no forecast."""
    energy: ExternalEnergy | None = None
    """Effect of the injected text in this run's forks."""


def compute_trend(series: FitInput) -> Trend:
    """Compute fit, forecast and external energy. Equal inputs give equal trends."""
    fit, problem = (None, series.problem) if series.problem else _fit(series, len(series.mid))
    forecast, forecast_problem = None, ""
    if series.problem:
        forecast_problem = series.problem
    elif series.injected is not None and series.after is not None:
        earlier, forecast_problem = _fit(series, bisect_left(series.positions, series.injected))
        forecast = None if earlier is None else earlier.forecast(series.after)
    energy = external_energy(boundaries_of(series.forks, series.run))
    return Trend(series, fit, problem, forecast, forecast_problem, energy)


def _fit(series: FitInput, chunks: int) -> tuple[Fit | None, str]:
    """Fit the first `chunks` measured chunks, or return the reason why that is not possible."""
    if why := too_short(chunks) or too_long(chunks):
        return None, why
    try:
        return fit_half_life(series.mid[:chunks], mode=series.mode, positions=series.positions[:chunks]), ""
    except UserError as error:
        return None, str(error)


class Trends:
    """Trends of the trajectories on the screen, kept up to date by one refit at a time.

    Args:
        executor: runs the refits.
        clock: monotonic seconds.
    """

    def __init__(self, executor: Executor, clock: Callable[[], float]) -> None:
        self._executor = executor
        self._clock = clock
        self._done: dict[str, Trend] = {}
        self._running: Future[tuple[Trend, float]] | None = None
        self._series: FitInput | None = None
        self._rest_until = 0.0

    def follow(self, view: RunView, mode: str) -> None:
        """Collect a finished refit, and begin another if the trajectory has grown. Does not block."""
        self._collect()
        if self._running is None and self._clock() >= self._rest_until and self._is_new(view, mode):
            self._series = FitInput.of(view, mode)
            if self._keep(self._series):
                return
            self._running = self._executor.submit(self._compute, self._series)
            self._collect()

    def of(self, view: RunView, mode: str) -> Trend | None:
        """Return the newest trend of this run in this mode, if there is one; it may lag behind the trajectory."""
        trend = self._done.get(mode)
        return trend if trend is not None and trend.series.run == view.runs else None

    def close(self) -> None:
        """Begin no further refits."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _keep(self, series: FitInput) -> bool:
        """Keep the trend of an equal trajectory, as after a seek; return whether it was kept."""
        known = self._done.get(series.mode)
        if known is None or series.forks or replace(known.series, run=series.run) != series:
            return False
        self._done[series.mode] = replace(known, series=series)
        return True

    def _collect(self) -> None:
        running, series = self._running, self._series
        if running is None or series is None or not running.done():
            return
        error, took = running.exception(), 0.0
        if error is None:
            self._done[series.mode], took = running.result()
        else:
            problem = f"the fit itself failed: {type(error).__name__}: {error}"
            self._done[series.mode] = Trend(series, None, problem)
        self._running = None
        self._rest_until = self._clock() + REST * took

    def _compute(self, series: FitInput) -> tuple[Trend, float]:
        """Compute a trend in the executor's thread; return it with the seconds that it took."""
        begun = self._clock()
        return compute_trend(series), self._clock() - begun

    def _is_new(self, view: RunView, mode: str) -> bool:
        if mode not in view.tracks:
            return False
        known = self.of(view, mode)
        return known is None or known.series.extent != _extent(view, mode)


def _extent(view: RunView, mode: str) -> Extent:
    """Return the `FitInput.extent` of the current trajectory."""
    judged = view.tracks[mode].series.judged
    injected, after, forks = _injected(view, mode), _after(view, mode), len(_forks(view, mode))
    return judged.number, judged.masked_at, len(judged.mid), injected, after, forks


def _injected(view: RunView, mode: str) -> int | None:
    last = view.tracks[mode].last_injection
    return None if last is None else last.chunk


def _after(view: RunView, mode: str) -> int | None:
    track = view.tracks[mode]
    after = track.injections.after if track.last_injection is not None else None
    return None if after is None or after.pressures is None else after.index


def _forks(view: RunView, mode: str) -> Collection[Fork]:
    """Return the run's forks, which have pressures of the recorded mode only."""
    recorded = view.header is not None and view.header.pressure == mode
    return view.pressure.forks if recorded else ()
