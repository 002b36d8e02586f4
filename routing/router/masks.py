"""Experts that are switched off: their mask, its notation, and the check that the router still has a choice.

References: deepseek-v3-2024.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from moe_watch.routing.arrays import Flags
from moe_watch.routing.errors import UserError
from moe_watch.routing.header import MaskRows, ModelInfo
from moe_watch.routing.router.gates import Scores, Weighting, parse

FEWEST_IN_GROUP = 2
"""Experts that every group keeps: engines score a group by the sum of its two best experts."""

PAIR = re.compile(r"([0-9]{1,9}):([0-9]{1,9})")
NOTATION = "give LAYER:EXPERT pairs separated by commas, for example 0:3,5:1"


@dataclass(frozen=True, slots=True)
class ExpertGroups:
    """Groups of successive experts; a router selects groups first, then experts in them.

    References: deepseek-v3-2024.
    """

    count: int
    used: int
    """Number of groups that a token's experts come from."""


@dataclass(frozen=True, slots=True)
class ExpertMask:
    """Experts that are switched off, by model layer index. A masked expert is never selected."""

    experts: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """Every layer has at least one."""

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int]]) -> ExpertMask:
        """Return the mask of these pairs of a model layer index and an expert."""
        found: dict[int, set[int]] = {}
        for layer, expert in pairs:
            found.setdefault(layer, set()).add(expert)
        return cls({layer: frozenset(found[layer]) for layer in sorted(found)})

    @classmethod
    def from_rows(cls, rows: MaskRows) -> ExpertMask:
        """Return the mask of a `Change` event."""
        return cls.of((layer, expert) for layer, experts in rows for expert in experts)

    def __bool__(self) -> bool:
        return bool(self.experts)

    def __len__(self) -> int:
        """Return the number of masked experts."""
        return sum(len(experts) for experts in self.experts.values())

    def __str__(self) -> str:
        """Return the notation of `--ablate`."""
        return ",".join(f"{layer}:{expert}" for layer, expert in self.pairs)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Model layer index and number of each masked expert, ascending."""
        return [(layer, expert) for layer in sorted(self.experts) for expert in sorted(self.experts[layer])]

    @property
    def rows(self) -> MaskRows:
        """Form of the mask in a `Change` event: layers ascending, experts ascending."""
        return [(layer, sorted(self.experts[layer])) for layer in sorted(self.experts)]

    def masked(self, layer: int) -> frozenset[int]:
        """Return the masked experts of a layer, by its model layer index."""
        return self.experts.get(layer, frozenset())

    def table(self, layers: Sequence[int], experts: int) -> Flags:
        """Return `[L, E]` True for masked experts; layers and experts that the model does not have are left out.

        Args:
            layers: model layer index of each MoE layer.
            experts: E.
        """
        found = np.zeros((len(layers), experts), np.bool_)
        for at, layer in enumerate(layers):
            found[at, [expert for expert in self.masked(layer) if expert < experts]] = True
        return found

    def toggled(self, pairs: Sequence[tuple[int, int]]) -> ExpertMask:
        """Return the mask with these experts switched off; switched on again if all of them are off."""
        present, these = set(self.pairs), set(pairs)
        return ExpertMask.of(present - these if these <= present else present | these)


def parse_mask(text: str) -> ExpertMask:
    """Read the notation of `--ablate`: `LAYER:EXPERT,…`.

    Raises:
        UserError: the text is not of this form.
    """
    matches = [PAIR.fullmatch(part.strip()) for part in text.split(",")]
    if not all(matches):
        raise UserError(f"--ablate is {text!r}", advice=NOTATION)
    return ExpertMask.of((int(match[1]), int(match[2])) for match in matches if match)


def check_mask(mask: ExpertMask, model: ModelInfo, groups: ExpertGroups | None) -> None:
    """Refuse a mask of absent layers or experts, or one that leaves a router no choice.

    Every layer keeps k experts. With groups, the groups that a token may select, if they are those with the fewest
    experts left, hold k together, and every group keeps two: engines select a masked expert otherwise.

    Raises:
        UserError: the mask is refused.
    """
    k_by_layer = dict(zip(model.layers, model.k_by_layer, strict=True))
    for layer, expert in mask.pairs:
        if layer not in k_by_layer:
            listed = f"{model.layers[0]} to {model.layers[-1]}" if model.layers else "none: it is a dense model"
            raise UserError(f"{model.name} has no MoE layer {layer}", advice=f"MoE layers: {listed}")
        if expert >= model.experts:
            raise UserError(
                f"layer {layer} of {model.name} has no expert {expert}", advice=f"experts are 0 to {model.experts - 1}"
            )
    for layer, masked in mask.experts.items():
        left, k = model.experts - len(masked), k_by_layer[layer]
        if left < k:
            raise UserError(
                f"layer {layer} would keep {left} of {model.experts} experts, and selects {k} per token",
                advice=f"switch off {model.experts - k} of them at most",
            )
        if groups is not None and groups.count > 1:
            _check_groups(layer, masked, model.experts, k, groups)


def _check_groups(layer: int, masked: frozenset[int], experts: int, k: int, groups: ExpertGroups) -> None:
    size = experts // groups.count
    left = [size - sum(expert // size == group for expert in masked) for group in range(groups.count)]
    if min(left) < FEWEST_IN_GROUP:
        raise UserError(
            f"a group of layer {layer} would keep {min(left)} of {size} experts",
            advice=f"keep at least {FEWEST_IN_GROUP} experts in each of its {groups.count} groups",
        )
    if sum(sorted(left)[: groups.used]) < k:
        raise UserError(
            f"{groups.used} of {groups.count} groups of layer {layer} could hold fewer than {k} experts",
            advice="switch off fewer experts, or experts of several groups",
        )


def unused_has_no_effect(gate: str, groups: ExpertGroups | None) -> bool:
    """Return whether masking an expert that no token selects leaves the model's output as it is.

    With weights of a softmax over all experts that are not renormalised, every other weight grows, and so do small sums
    that are replaced by a bound or added to; a sparsemixer's weights depend on experts that it does not select; with
    groups, another group can be selected.
    """
    known = parse(gate)
    if known is None or known.weighting is Weighting.SPARSEMIXER or (groups is not None and groups.count > 1):
        return False
    if known.scores is not Scores.SOFTMAX:
        return True
    return known.weighting is not Weighting.AS_THEY_ARE and not known.may_sum_to_less
