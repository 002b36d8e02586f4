"""Speed and vitals of recorded runs, which a dense run and one of an MoE model both have."""

from __future__ import annotations

from dataclasses import dataclass

from moe_watch.routing.events import Change, Fork, Perturbation, State, StreamItem, Token, Vitals

INTERRUPTIONS = (Change, Fork, Perturbation, State)
"""Events after which the time to the next token is not that of generating it."""


@dataclass(frozen=True, slots=True)
class RunMachine:
    """Speed and vitals of one run; None where nothing was recorded."""

    tokens_per_second: float | None
    """Decode tokens over the time between them, without pauses and forks; a `--rate` limits it."""
    worker_memory: int | None
    """Largest resident memory of the model's process, in bytes."""
    celsius: float | None
    """Highest temperature of any sensor."""


class MachineMeter:
    """Collector of one run's speed and vitals, event by event."""

    def __init__(self) -> None:
        self._before: Token | None = None
        self._tokens = 0
        self._seconds = 0.0
        self._memory: list[int] = []
        self._celsius: list[float] = []

    def feed(self, item: StreamItem) -> None:
        """Take the next event."""
        if isinstance(item, Token):
            self._token(item)
        elif isinstance(item, Vitals):
            self._memory += [] if item.worker_memory is None else [item.worker_memory]
            self._celsius += [each.celsius for each in item.temperatures]
        elif isinstance(item, INTERRUPTIONS):
            self._before = None

    def _token(self, token: Token) -> None:
        before, self._before = self._before, token if token.phase == "decode" else None
        if before is not None and self._before is not None and token.i == before.i + 1 and token.t >= before.t:
            self._tokens += 1
            self._seconds += token.t - before.t

    def result(self) -> RunMachine:
        """Return the speed and the peaks so far."""
        return RunMachine(
            tokens_per_second=self._tokens / self._seconds if self._seconds > 0 else None,
            worker_memory=max(self._memory, default=None),
            celsius=max(self._celsius, default=None),
        )
