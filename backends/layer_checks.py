"""Checks of properties that the MoE layers of one model must share, for any engine."""

from __future__ import annotations

from collections.abc import Sequence

from moe_watch.routing.errors import UserError


def check_same_experts(experts: Sequence[tuple[int, int]]) -> None:
    """Refuse layers with different numbers of experts. The number of selected experts may differ.

    Args:
        experts: model layer index and number of experts of each layer.

    Raises:
        UserError: the numbers differ.
    """
    if not experts:
        return
    first_layer, first = experts[0]
    for layer, number in experts:
        if number != first:
            raise UserError(
                f"layer {first_layer} has {first} experts and layer {layer} has {number}: a session has one number",
                advice="give a model with the same number of experts in all layers",
            )
