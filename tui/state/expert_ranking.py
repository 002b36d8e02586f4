"""Rankings of a run's experts, and what keeping some of them in each layer would lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from moe_watch.routing.arrays import Flags, Floats, Ints
from moe_watch.routing.experts.plan import dropped_experts, kept_experts, lost, lost_overall, possible_keeps
from moe_watch.routing.experts.sums import ranked
from moe_watch.routing.header import Header
from moe_watch.routing.router.masks import ExpertMask
from moe_watch.tui.state.frame import Frame

RankingName = Literal["count", "weight mass", "saliency", "damage"]
RARE = 0.1
"""Share of the even share below which a selected expert is rarely selected."""
USUAL_KEEP = 0.75
"""Share of the experts that is kept before the user chooses a number: 6 of 8."""


@dataclass(frozen=True)
class ExpertFacts:
    """Facts of each expert of a run `[L, E]`."""

    header: Header
    counts: Ints
    tokens: int
    mass: Floats | None
    """None if no router weights were recorded."""
    mass_from: int
    """First token of the weight mass."""
    mask: ExpertMask
    saliency: Floats | None = None
    damage: Floats | None = None
    sources: tuple[str, str] = ("", "")
    """Names of the files of saliency and damage."""

    @classmethod
    def of(cls, frame: Frame) -> ExpertFacts | None:
        """Return the facts of the run on the screen; None before the first observed token."""
        view, importance = frame.view, frame.importance
        counts = view.usage.usage.counts
        if view.header is None or not counts.any():
            return None
        return cls(
            header=view.header,
            counts=counts,
            tokens=view.usage.tokens,
            mass=view.usage.mass,
            mass_from=view.usage.weighted_from,
            mask=view.mask,
            saliency=None if importance is None else importance.saliency,
            damage=None if importance is None else importance.damage,
            sources=("", "") if importance is None else (importance.source("saliency"), importance.source("damage")),
        )

    @property
    def layers(self) -> Sequence[int]:
        """Index of each layer in the model; positions for counts without a header's layers."""
        known = self.header.model.layers
        return known if len(known) == len(self.counts) else range(len(self.counts))

    @property
    def experts(self) -> int:
        """Number of experts per layer."""
        return int(self.counts.shape[1])

    @property
    def rankings(self) -> list[RankingName]:
        """Rankings that are known. A damage that is measured for some experts only gives none."""
        known: list[tuple[RankingName, bool]] = [
            ("count", True),
            ("weight mass", self.mass is not None),
            ("saliency", self.saliency is not None),
            ("damage", self.damage is not None and not np.isnan(self.damage).any()),
        ]
        return [name for name, is_known in known if is_known]

    def ranking(self, name: RankingName) -> Floats:
        """Return the values `[L, E]` that experts are ranked by, higher is kept."""
        tables = {"weight mass": self.mass, "saliency": self.saliency, "damage": self.damage}
        table = tables.get(name)
        return self.counts.astype(np.float64) if table is None else table

    @property
    def keeps(self) -> range:
        """Numbers of experts that a layer can keep."""
        return possible_keeps(self.experts, max(self.header.model.k_by_layer, default=1))

    @property
    def usual_keep(self) -> int:
        """Number of experts to keep before the user chooses one."""
        return min(max(round(USUAL_KEEP * self.experts), self.keeps.start), self.experts)

    @cached_property
    def off(self) -> Flags:
        """Experts that are switched off."""
        found = np.zeros(self.counts.shape, np.bool_)
        for at, layer in enumerate(self.layers):
            found[at, [expert for expert in self.mask.masked(layer) if expert < self.experts]] = True
        return found

    @cached_property
    def never(self) -> Flags:
        """Experts without a selection that are not off, in layers that were observed."""
        found: Flags = (self.counts == 0) & (self.counts.sum(1, keepdims=True) > 0) & ~self.off
        return found

    @cached_property
    def rarely(self) -> Flags:
        """Experts that are not off, with selections, but fewer than `RARE` of the even share."""
        few = self.counts < RARE * self.counts.mean(1, keepdims=True)
        found: Flags = (self.counts > 0) & few & ~self.off
        return found


@dataclass(frozen=True)
class KeepPlan:
    """Experts that a ranking keeps in each layer, and what goes with the others."""

    facts: ExpertFacts
    name: RankingName
    keep: int

    @cached_property
    def order(self) -> Ints:
        """Experts of each layer from the most to the least important `[L, E]`; the lower index first of equal ones."""
        return ranked(self.facts.ranking(self.name))

    @cached_property
    def kept(self) -> Ints:
        """Experts that stay `[L, keep]`."""
        return kept_experts(self.facts.ranking(self.name), self.keep)

    @cached_property
    def dropped(self) -> Ints:
        """Experts that go `[L, E − keep]`."""
        return dropped_experts(self.kept, self.facts.experts)

    @cached_property
    def counts_lost(self) -> list[float]:
        """Share of each layer's selections that goes."""
        return [float(share) for share in lost(self.facts.counts, self.kept)]

    @cached_property
    def mass_lost(self) -> list[float]:
        """Share of each layer's weight mass that goes; NaN if it is unknown."""
        if self.facts.mass is None:
            return [float("nan")] * len(self.kept)
        return [float(share) for share in lost(self.facts.mass, self.kept)]

    @property
    def overall(self) -> tuple[float, float]:
        """Shares of the selections and of the weight mass of all layers that go; NaN if unknown."""
        mass = float("nan") if self.facts.mass is None else lost_overall(self.facts.mass, self.kept)
        return lost_overall(self.facts.counts, self.kept), mass

    @property
    def worst_damage(self) -> float | None:
        """Highest damage of an expert that goes, measured with it alone off; None if not all are measured."""
        damage = self.facts.damage
        if damage is None or not self.dropped.size:
            return None
        worst = float(np.take_along_axis(damage, self.dropped, 1).max())
        return None if np.isnan(worst) else worst
