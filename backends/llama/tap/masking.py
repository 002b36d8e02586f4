"""Masks in llama.cpp's graph: nodes where experts are switched off, found in the graph of one evaluation.

Experts are selected by the highest values of a ranking. The ranking is computed from the router's logits: it is the
scores, the logits themselves (Llama 4), or the scores plus a selection bias, in some models with groups of experts cut
out. A logit of −∞ has a score of 0, and so the lowest place in a ranking without a bias. With a bias, 0 plus the bias
can still be among the highest, so the sum is set to −∞, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moe_watch.backends.llama.bindings import GgmlTensor, operation
from moe_watch.routing.errors import UserError
from moe_watch.routing.router.masks import ExpertGroups

NODE = re.compile(r"(\w+)-([0-9]+)")
"""Name of a node: a prefix and the layer. Names of unnamed views have more."""

SCORE_OPERATIONS = frozenset({"SOFT_MAX", "SIGMOID", "SQRT", "SOFTPLUS"})
"""Operations from logits to scores; a square root of softplus is two of them."""

FROM_A_TABLE = "layer {layer} selects experts by token, from a table"
UNKNOWN_SELECTION = "the selection of layer {layer} is not known"
DIFFERENT = "its layers compute their scores in different ways"

LONGEST_CHAIN = 8
"""Largest number of nodes from the ranking back to the scores; groups take four."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Selection of one layer's experts, read from the graph."""

    logits: str = ""
    """Name of the node of the logits, without its layer."""
    biased: str | None = None
    """Name of the node of scores plus selection bias; None without a bias."""
    groups: ExpertGroups | None = None
    problem: str = ""
    """Reason why experts cannot be switched off; empty if they can."""


@dataclass(frozen=True, slots=True)
class MaskNodes:
    """Nodes where a model's experts are switched off."""

    names: tuple[str, ...] = ()
    """Names without their layer; a layer without one of them does not need it."""
    groups: ExpertGroups | None = None
    problem: str = ""
    """Reason why experts cannot be switched off; empty if they can."""


def read_selection(layer: int, node: GgmlTensor) -> Selection:
    """Return the selection of a layer, given the node that picks the scores of the selected experts."""
    try:
        return _selection(layer, node)
    except LookupError:
        return Selection(problem=UNKNOWN_SELECTION.format(layer=layer))


def _selection(layer: int, node: GgmlTensor) -> Selection:
    """As `read_selection`.

    Raises:
        LookupError: the graph is not as expected.
    """
    scores = _source(_tensor(node.src[0]))
    ids = _tensor(node.src[1])
    if operation(node.src[1]) == "GET_ROWS":
        return Selection(problem=FROM_A_TABLE.format(layer=layer))
    if operation(node.src[1]) != "VIEW" or operation(ids.src[0]) != "ARGSORT":
        raise LookupError
    ranking = _source(_tensor(ids.src[0]))
    logits = scores
    while operation(logits) in SCORE_OPERATIONS:
        logits = _source(_tensor(logits))
    biased, groups = _ranking(ranking, scores, logits)
    return Selection(
        logits=_name(logits, layer), biased=None if biased is None else _name(biased, layer), groups=groups
    )


def _ranking(ranking: int, scores: int, logits: int) -> tuple[int | None, ExpertGroups | None]:
    """Return the node of scores plus bias, None without a bias, and the groups.

    Args:
        ranking: values that experts are ranked by.
        scores: scores of all experts.
        logits: logits of all experts.

    Raises:
        LookupError: the values do not follow from the scores in a known way.
    """
    groups, at = None, ranking
    for _ in range(LONGEST_CHAIN):
        if at in (scores, logits):
            return None, groups
        tensor = _tensor(at)
        match operation(at):
            case "ADD" if tensor.src[0] == scores:
                return at, groups
            case "SET_ROWS":  # scores of the winning groups are put back, the others are −∞
                used = _tensor(tensor.src[1]).ne[0]
                at = _source(_tensor(_source(tensor)))
                groups = ExpertGroups(count=int(_tensor(at).ne[1]), used=int(used))
            case "RESHAPE":
                at = _source(tensor)
            case _:
                raise LookupError
    raise LookupError


def _tensor(address: int | None) -> GgmlTensor:
    if not address:
        raise LookupError
    return GgmlTensor.from_address(address)


def _source(tensor: GgmlTensor) -> int:
    address = tensor.src[0]
    if not address:
        raise LookupError
    return int(address)


def _name(address: int, layer: int) -> str:
    """Return the name of a node without its layer.

    Raises:
        LookupError: it has no name with this layer.
    """
    found = NODE.fullmatch(_tensor(address).name.decode(errors="replace"))
    if found is None or int(found[2]) != layer:
        raise LookupError
    return found[1]


def mask_nodes(selections: Mapping[int, Selection]) -> MaskNodes:
    """Return the nodes where the experts of all layers are switched off.

    Args:
        selections: by model layer index.
    """
    found = list(selections.values())
    if problem := next((each.problem for each in found if each.problem), ""):
        return MaskNodes(problem=problem)
    biased = {each.biased for each in found if each.biased is not None}
    if len({(each.logits, each.groups) for each in found}) > 1 or len(biased) > 1:
        return MaskNodes(problem=DIFFERENT)
    return MaskNodes((*{each.logits for each in found}, *biased), next((each.groups for each in found), None))


@dataclass(frozen=True, slots=True)
class MaskedColumns:
    """Masked experts of the layers in one array, as callback.c reads them."""

    starts: list[int]
    """Index of the first masked expert of each model layer, and of the end of the last one."""
    experts: list[int]

    @classmethod
    def of(cls, columns: Mapping[int, Sequence[int]]) -> MaskedColumns:
        """Return the masked experts by model layer index in one array."""
        starts, experts = [0], list[int]()
        for layer in range(max(columns, default=-1) + 1):
            experts += columns.get(layer, ())
            starts.append(len(experts))
        return cls(starts, experts)


def masked_selected(layer: int, expert: int) -> UserError:
    """Return the error for a masked expert that was selected nevertheless."""
    return UserError(
        f"layer {layer} selected expert {expert}, which is switched off",
        advice="switch off fewer experts of this layer",
    )
