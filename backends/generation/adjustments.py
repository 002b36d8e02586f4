"""Settings of a run that change while it runs, and the `Change` events that report them."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from moe_watch.backends.engine import Engine
from moe_watch.backends.generation.chunk_counter import ChunkCounter
from moe_watch.backends.generation.emitter import Emitter
from moe_watch.backends.generation.rate_limit import RateLimit
from moe_watch.backends.protocol import SetMask, SetSampling, SetTap, Start
from moe_watch.backends.sampling import check_sampling
from moe_watch.routing.events import Sampling
from moe_watch.routing.router.masks import ExpertMask

Adjusting = SetSampling | SetTap | SetMask
"""Commands that wait until the engine has no evaluation in progress."""


class Adjustments:
    """Sampler, tap, mask, generation rate and multistep of one run.

    A change of sampler, tap or mask is queued until the engine has no token in progress that was evaluated without it.

    Args:
        engine: the engine to adjust.
        start: settings of the beginning.
        emitter: receives the `Change` events.
        chunks: a change of the mask ends the present chunk.
        limit: the generation rate.
    """

    def __init__(
        self, engine: Engine, start: Start, emitter: Emitter, *, chunks: ChunkCounter, limit: RateLimit
    ) -> None:
        self.sampling = start.sampling
        """Present sampler."""
        self.multistep = start.spec.multistep
        """The run pauses after every chunk."""
        self._first_mask = ExpertMask.from_rows(start.spec.mask)
        self._mask = ExpertMask()
        self._observes = True
        self._engine = engine
        self._emitter = emitter
        self._chunks = chunks
        self._limit = limit
        self._asked: list[Adjusting] = []

    def begin(self) -> None:
        """Apply the settings of the beginning to an engine with an empty context.

        Raises:
            UserError: the mask is refused.
        """
        self._engine.configure(self.sampling, reseed=True)
        model = self._engine.model
        k = UNSET if model.own_experts_per_token is UNSET else max(model.k_by_layer, default=0)
        if self._first_mask:
            self._engine.mask(self._first_mask)
            self._mask = self._first_mask
        if self._mask or k is not UNSET:
            self._emitter.change(mask=self._mask.rows if self._mask else UNSET, experts_per_token=k)

    def restore(self) -> None:
        """Switch the tap and all experts on after the run."""
        self._engine.observe(True)
        if self._mask:
            self._engine.reset()  # no evaluation is in progress after it
            self._engine.mask(ExpertMask())

    @property
    def wait(self) -> bool:
        """A change is pending."""
        return bool(self._asked)

    def ask(self, change: Adjusting) -> None:
        """Queue a change.

        Raises:
            UserError: it is refused; nothing will be changed.
        """
        if isinstance(change, SetSampling):
            check_sampling(self._with(change))
        elif isinstance(change, SetMask):
            self._engine.check_mask(ExpertMask.from_rows(change.mask))
        self._asked.append(change)

    def apply(self) -> None:
        """Apply the pending changes, unless the engine has a token in progress."""
        if not self._asked or not self._engine.settled:
            return
        asked, self._asked = self._asked, []
        for change in asked:
            match change:
                case SetSampling():
                    self._set_sampling(self._with(change))
                case SetTap():
                    self._set_tap(on=change.on)
                case SetMask():
                    self._set_mask(ExpertMask.from_rows(change.mask))

    def set_rate(self, rate: float) -> None:
        """Limit the rate from the next token on."""
        if rate != self._limit.rate:
            self._limit.rate = rate
            self._emitter.change(rate=rate)

    def set_multistep(self, *, on: bool) -> None:
        """Pause after every chunk, or not."""
        if on != self.multistep:
            self.multistep = on
            self._emitter.change(multistep=on)

    def _set_sampling(self, sampling: Sampling) -> None:
        if sampling != self.sampling:
            self._engine.configure(sampling, reseed=False)
            self.sampling = sampling
            self._emitter.change(sampling=sampling)

    def _set_tap(self, *, on: bool) -> None:
        if on != self._observes:
            self._engine.observe(on)
            self._observes = on
            self._emitter.change(tap=on)

    def _set_mask(self, mask: ExpertMask) -> None:
        if mask != self._mask:
            self._engine.mask(mask)
            self._mask = mask
            self._chunks.cut()
            self._emitter.change(mask=mask.rows)

    def _with(self, change: SetSampling) -> Sampling:
        named = {field: value for field, value in msgspec.structs.asdict(change).items() if value is not None}
        return msgspec.structs.replace(self.sampling, **named)
