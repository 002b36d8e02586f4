"""Sums over the decode tokens of an open chunk.

References: chronomoe-2024.
"""

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
    """Sums over the decode tokens of one chunk, from which its means are computed."""

    counts: Ints
    """[L, E] selections."""
    start: UsageAverages
    """The averages as they were before the chunk."""
    first: int = -1
    last: int = -1
    tokens: int = 0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMMED, 0.0))
    observed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SUMMED, 0))

    def feed(self, tokens: Sequence[Token], counts: Ints) -> None:
        """Add successive decode tokens, at least one, and their selections per expert `[L, E]`."""
        if not self.tokens:
            self.first = tokens[0].i
        self.last = tokens[-1].i
        self.tokens += len(tokens)
        self.counts += counts

    def feed_signals(self, tokens: Sequence[Token], chosen: Selections, before: Ints | None) -> None:
        """Add the signals of successive decode tokens.

        Args:
            tokens: the tokens given to `feed`.
            chosen: their selections.
            before: expert ids `[L, k]` of the token before them in this context, None if there was none.
        """
        self._add_integers("router_entropy", [token.entropy for token in tokens])
        self._add_integers("router_margin", [token.margin for token in tokens])
        # JSON writes null for NaN and infinity: a replay would not have them.
        margins = [margin for token in tokens if (margin := token.top_margin) is not None and isfinite(margin)]
        self._add("top_margin", margins, len(margins))
        self._add_rows("overlap", overlaps(chosen, before))

    def mean(self, name: str, unit: float = 1.0) -> float:
        """Return the mean of one summed signal; NaN if nothing was observed."""
        observed = self.observed[name]
        return self.sums[name] * unit / observed if observed else np.nan

    def is_complete(self, k: Ints) -> bool:
        """Return True if routing was observed at every token; a mean over some tokens is not the mean of the chunk.

        Args:
            k: experts per token of each layer `[L]`.
        """
        return bool((self.counts.sum(-1) == self.tokens * k).any())

    def usage(self) -> Floats:
        """Return the share of selections per layer `[L, E]` in this chunk."""
        return shares(self.counts)

    def means(self, units: Units) -> dict[str, float]:
        """Return the chunk means that pressure needs, by signal name."""
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
        """Add partial sums in order: rounding depends on the order, and `sum` compensates in some Python versions."""
        total = self.sums[name]
        for part in parts:
            total += part
        self.sums[name] = total
        self.observed[name] += count

    def to_keyframe(self) -> OpenChunk:
        """Return the sums as a keyframe stores them."""
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
    def from_keyframe(cls, stored: OpenChunk) -> ChunkSums:
        """Return the sums that a keyframe stores."""
        counts = np.array(stored.counts, np.int64) if stored.counts else np.zeros((0, 0), np.int64)  # of a dense model
        start = UsageAverages(*counts.shape)
        start.rows = np.array(stored.start_rows, np.int64)
        start.meso = unpacked(stored.start_meso).reshape(counts.shape)
        start.macro = unpacked(stored.start_macro).reshape(counts.shape)
        return cls(counts, start, stored.first, stored.last, stored.tokens, dict(stored.sums), dict(stored.observed))


@dataclass(frozen=True, slots=True)
class LastToken:
    """Signals that the reference reads at a chunk's last token, in its last MoE layer. NaN where not recorded."""

    router_entropy: float
    """Over ln E."""
    router_margin: float

    @classmethod
    def of(cls, token: Token, layers: int, units: Units) -> LastToken:
        """Read one token of a model with `layers` MoE layers."""
        entropy = token_layer_values(token.entropy, layers)[-1] * units.entropy
        margin = token_layer_values(token.margin, layers)[-1] * units.margin
        return cls(float(entropy), float(margin))
