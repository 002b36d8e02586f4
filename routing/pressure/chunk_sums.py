"""A chunk in the making: what its decode tokens add up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite

import numpy as np

from moe_watch.routing.arrays import Floats, Ints, Selections, packed, token_layer_values, unpacked
from moe_watch.routing.events import OpenChunk, Token, Units
from moe_watch.routing.usage.counts import overlaps, shares
from moe_watch.routing.usage.running_averages import UsageAverages

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

    def extend(self, tokens: Sequence[Token], counts: Ints) -> None:
        """Take in decode tokens in a row, at least one, and how often they selected each expert `[L, E]`."""
        if not self.tokens:
            self.first = tokens[0].i
        self.last = tokens[-1].i
        self.tokens += len(tokens)
        self.counts += counts

    def measure(self, tokens: Sequence[Token], chosen: Selections, before: Ints | None) -> None:
        """Add the signals of decode tokens in a row.

        Args:
            tokens: those given to `extend`.
            chosen: what they selected.
            before: expert ids `[L, k]` of the token before them in this context, None if there was none.
        """
        self._add_integers("router_entropy", [token.entropy for token in tokens])
        self._add_integers("router_margin", [token.margin for token in tokens])
        # JSON writes null for what is no number: a replay would not have it.
        margins = [margin for token in tokens if (margin := token.top_margin) is not None and isfinite(margin)]
        self._add("top_margin", margins, len(margins))
        self._add_rows("overlap", overlaps(chosen, before))

    def mean(self, name: str, unit: float = 1.0) -> float:
        """Mean of one summed signal; NaN if nothing was observed."""
        seen = self.observed[name]
        return self.sums[name] * unit / seen if seen else np.nan

    def is_whole(self, k: Ints) -> bool:
        """Routing was observed at every token: a mean over some of them would pass for one over the chunk.

        Args:
            k: experts per token of each layer `[L]`.
        """
        return bool((self.counts.sum(-1) == self.tokens * k).any())

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

    def _add_integers(self, name: str, rows: list[list[int | None] | None]) -> None:
        values = [value for row in rows if row for value in row if value is not None]
        self._add(name, [float(sum(values))], len(values))

    def _add_rows(self, name: str, rows: Floats) -> None:
        """Add values `[N, L]`, NaN left out."""
        known = ~np.isnan(rows)
        sums = rows.sum(-1)
        for n in np.flatnonzero(~known.all(-1)):
            sums[n] = rows[n][known[n]].sum()
        self._add(name, sums.tolist(), int(known.sum()))

    def _add(self, name: str, parts: list[float], count: int) -> None:
        """Add the parts of a sum one after the other: rounding depends on it, `sum` does not do it in every Python."""
        total = self.sums[name]
        for part in parts:
            total += part
        self.sums[name] = total
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

    @classmethod
    def of(cls, token: Token, layers: int, units: Units) -> LastToken:
        """Read one token."""
        entropy = token_layer_values(token.entropy, layers)[-1] * units.entropy
        margin = token_layer_values(token.margin, layers)[-1] * units.margin
        return cls(float(entropy), float(margin))
