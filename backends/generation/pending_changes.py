"""Changes of sampler and tap during a run."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from moe_watch.backends.engine import Engine
from moe_watch.backends.protocol import SetSampling, SetTap
from moe_watch.backends.sampling import check_sampling
from moe_watch.routing.events import Sampling


class PendingChanges:
    """Queue of changes, until the engine has no token in progress that was sampled without them.

    Args:
        engine: the engine to change.
        sampling: its present sampler.
    """

    def __init__(self, engine: Engine, sampling: Sampling) -> None:
        self.sampling = sampling
        """Present sampler."""
        self._engine = engine
        self._observes = True
        self._asked: list[SetSampling | SetTap] = []

    @property
    def wait(self) -> bool:
        """A change is pending."""
        return bool(self._asked)

    def ask(self, change: SetSampling | SetTap) -> None:
        """Queue a change.

        Raises:
            UserError: a value is out of range; nothing will be changed.
        """
        if isinstance(change, SetSampling):
            check_sampling(self._with(change))
        self._asked.append(change)

    def make(self) -> Iterator[tuple[bool | None, Sampling | None]]:
        """Apply all changes; yields the new tap and sampler, None for the one that is unchanged."""
        asked, self._asked = self._asked, []
        for change in asked:
            if isinstance(change, SetSampling):
                sampling = self._with(change)
                if sampling != self.sampling:
                    self._engine.configure(sampling, reseed=False)
                    self.sampling = sampling
                    yield None, sampling
            elif change.on != self._observes:
                self._engine.observe(change.on)
                self._observes = change.on
                yield change.on, None

    def _with(self, change: SetSampling) -> Sampling:
        named = {field: value for field, value in msgspec.structs.asdict(change).items() if value is not None}
        return msgspec.structs.replace(self.sampling, **named)
