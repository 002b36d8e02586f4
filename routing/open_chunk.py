"""A chunk in the making: what its decode tokens add up to."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from routing.arrays import ABSENT, Floats, Ints, integers, packed, token_layer_values, unpacked
from routing.averages import UsageAverages
from routing.events import OpenChunk, Token, Units
from routing.usage import add_selections, overlap, shares

SUMMED = ("router_entropy", "router_margin", "top_margin", "overlap")


@dataclass(slots=True)
class ChunkSums:
    """Sums over the decode tokens of one chunk; means come out at its end."""

    counts: Ints
    """[L, E] selections."""
    start: UsageAverages
    """The averages as they were before the chunk."""
    first: int = -1
    last: int = -1
    tokens: int = 0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMMED, 0.0))
    observed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SUMMED, 0))

    def add(self, token: Token, experts: Ints, before: Ints | None) -> None:
        """Take in one decode token; `before` is the expert ids of the token before it in this context."""
        if not self.tokens:
            self.first = token.i
        self.last = token.i
        self.tokens += 1
        add_selections(self.counts, experts)
        self._add_row("router_entropy", token.entropy)
        self._add_row("router_margin", token.margin)
        if token.top_margin is not None:
            self._sum("top_margin", token.top_margin, 1)
        if before is not None:
            shared = overlap(experts, before)
            known = shared[~np.isnan(shared)]
            self._sum("overlap", float(known.sum()), len(known))

    def mean(self, name: str, unit: float = 1.0) -> float:
        """Mean of one summed signal; NaN if nothing was observed."""
        seen = self.observed[name]
        return self.sums[name] * unit / seen if seen else np.nan

    def is_whole(self, experts_per_token: int) -> bool:
        """Routing was observed at every token: a mean over some of them would pass for one over the chunk."""
        return int(self.counts.sum(-1).max(initial=0)) == self.tokens * experts_per_token

    def usage(self) -> Floats:
        """Share of selections per layer [L, E] in this chunk."""
        return shares(self.counts)

    def means(self, units: Units) -> dict[str, float]:
        """The chunk means that pressure needs, by signal name."""
        return {
            "router_entropy": self.mean("router_entropy", units.entropy),
            "router_margin": self.mean("router_margin", units.margin),
            "top_margin": self.mean("top_margin"),
            "transition_prob": self.mean("overlap"),
        }

    def _add_row(self, name: str, values: list[int | None] | None) -> None:
        if values:
            row = integers(values)
            known = row[row != ABSENT]
            self._sum(name, float(known.sum()), len(known))

    def _sum(self, name: str, value: float, count: int) -> None:
        self.sums[name] += value
        self.observed[name] += count

    def freeze(self) -> OpenChunk:
        """As a part of a keyframe."""
        return OpenChunk(
            first=self.first,
            last=self.last,
            tokens=self.tokens,
            sums=dict(self.sums),
            observed=dict(self.observed),
            counts=self.counts.tolist(),
            start_rows=self.start.rows.tolist(),
            start_meso=packed(self.start.meso),
            start_macro=packed(self.start.macro),
        )

    @classmethod
    def thaw(cls, frozen: OpenChunk) -> ChunkSums:
        """Back from a keyframe."""
        counts = np.array(frozen.counts, np.int64)
        start = UsageAverages(*counts.shape)
        start.rows = np.array(frozen.start_rows, np.int64)
        start.meso = unpacked(frozen.start_meso).reshape(counts.shape)
        start.macro = unpacked(frozen.start_macro).reshape(counts.shape)
        return cls(counts, start, frozen.first, frozen.last, frozen.tokens, dict(frozen.sums), dict(frozen.observed))


@dataclass(frozen=True, slots=True)
class LastToken:
    """What the reference reads at a chunk's last token, in its last MoE layer. NaN where not recorded."""

    router_entropy: float
    """Over ln E."""
    router_margin: float
    choice_gap: float

    @classmethod
    def of(cls, token: Token, layers: int, units: Units) -> LastToken:
        """Read one token."""
        entropy = token_layer_values(token.entropy, layers)[-1] * units.entropy
        margin = token_layer_values(token.margin, layers)[-1] * units.margin
        return cls(float(entropy), float(margin), np.nan if token.choice_gap is None else token.choice_gap)
