"""State of a run's instruments: settings, counters, and what signals depend on beyond their own chunk."""

from __future__ import annotations

from dataclasses import dataclass, field

from moe_watch.routing.arrays import Ints
from moe_watch.routing.events import Header, Token, Units
from moe_watch.routing.pressure.chunk_sums import ChunkSums
from moe_watch.routing.row_layout import RowLayout
from moe_watch.routing.usage.running_averages import Coherence, UsageAverages

TOGETHER = 64
"""Most tokens in one computation: NumPy takes as long for one token as for ten."""


@dataclass(frozen=True, slots=True)
class InstrumentSettings:
    """Constants of a run, from its header and the caller."""

    mode: str
    """Pressure mode."""
    keyframes: bool
    """Derive keyframes."""
    units: Units
    layout: RowLayout
    experts: int
    """E."""
    seed: int
    """Seed of the phases."""

    @classmethod
    def of(cls, header: Header, mode: str | None, *, keyframes: bool) -> InstrumentSettings:
        """Read the settings from a header; without `mode` the header's own is computed."""
        return cls(
            mode=mode or header.pressure,
            keyframes=keyframes,
            units=header.units,
            layout=RowLayout.of(header.model),
            experts=header.model.experts,
            seed=header.sampling.seed,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(L, E)."""
        return self.layout.layers, self.experts

    @property
    def is_measured(self) -> bool:
        """True if averages and sums are needed; the reference has constants in their place."""
        return self.keyframes or self.mode != "chronomoe-v1"


@dataclass(slots=True)
class RunCounters:
    """Numbers of tokens and chunks so far."""

    context: int | None
    """Number of the present context; None in modes that do not restart with a context."""
    tokens: int = 0
    chunks: int = 0
    complete: int = 0
    """Chunks that were not cut short."""
    context_chunks: int = 0
    """Complete chunks since the averages began."""

    def count_chunk(self, *, partial: bool) -> None:
        """Count one chunk."""
        self.chunks += 1
        self.complete += not partial
        self.context_chunks += not partial


@dataclass(slots=True)
class PressureMemory:
    """State that signals depend on beyond their own chunk."""

    averages: UsageAverages
    phases: Coherence
    coherence: float | None = None
    """R at the end of the last chunk; None before the first chunk."""
    residual: float = 0.0
    """Residual intent, 0..1."""

    @classmethod
    def of(cls, settings: InstrumentSettings) -> PressureMemory:
        """Return the memory at the beginning of a run."""
        return cls(UsageAverages(*settings.shape), Coherence(*settings.shape, settings.seed))


@dataclass(slots=True)
class TokenBatch:
    """Tokens of one phase that wait to be computed together."""

    chunk: ChunkSums | None
    """The chunk that the tokens belong to; None in prefill."""
    tokens: list[Token] = field(default_factory=list)
    experts: list[Ints] = field(default_factory=list)
    """Expert ids `[L, k]` of each token."""

    def accepts(self, token: Token) -> bool:
        """Return True if there is room for the token, and the phase is the same."""
        return len(self.tokens) < TOGETHER and (self.chunk is not None) == (token.phase == "decode")
