"""Checks of properties that the MoE layers of one model must share, for any engine."""

from __future__ import annotations

from collections.abc import Sequence

from moe_watch.routing.errors import UserError

UNRELIABLE = "its routing cannot be observed reliably"
THOUGH_EXPERTS = f"though it has experts: {UNRELIABLE}"
"""End of the message for a model that is neither dense nor observable."""


def check_without_experts(name: str, layers: Sequence[int]) -> None:
    """Refuse routers in a model that is dense by its files: its experts would go unseen.

    Args:
        name: name of the model.
        layers: model layer index of each router that the engine evaluates.

    Raises:
        UserError: there is a router.
    """
    if layers:
        raise UserError(
            f"{name} is dense by its files, but layer {layers[0]} has a router: {UNRELIABLE}",
            advice="give another model",
        )


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
