"""Checks of the captured routing of a few tokens: all layers present, and every number possible for the gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from moe_watch.routing.arrays import ABSENT
from moe_watch.routing.events import Header, ModelInfo, Token
from moe_watch.routing.router.gates import UNKNOWN_GATE
from moe_watch.sessions.checking.results import CheckResult, failure, fine, warning
from moe_watch.sessions.reading.token_arrays import TokenArrays, token_arrays
from moe_watch.sessions.reading.validation import EventChecker, ShapeError
from moe_watch.sessions.text import plural, top_k_text
from moe_watch.sessions.verifying.row_checks import EVERY_ROW

LAYERS, ROUTING = "MoE layers", "routing"
REPORT = "the numbers of this model cannot be trusted: update the engine, or report it with the model's name"


def layer_check(model: ModelInfo) -> CheckResult:
    """Check the MoE layers that the engine found."""
    if not model.layers:
        return warning(
            LAYERS, "no MoE layers: a dense model, without routing", "its text, surprisal and vitals are watched"
        )
    layers, k = plural(len(model.layers), "MoE layer"), top_k_text(model.experts_per_token)
    return fine(LAYERS, f"{layers} of {model.experts} experts, {k}; gate {model.gate}")


def routing_check(tokens: Sequence[Token], header: Header) -> CheckResult:
    """Check the routing of successive tokens of one context.

    Every layer must have `k` different experts of the model; weights must sum to what the gate allows, and entropy
    must be possible with the margin. These are the checks of `moe-watch verify`.

    Args:
        tokens: tokens of the run's beginning.
        header: header of the run.
    """
    model = header.model
    if not model.layers:
        return fine(ROUTING, "nothing to capture")
    if not tokens:
        return failure(ROUTING, "no token was evaluated", REPORT)
    try:
        checker = EventChecker(header)
        for token in tokens:
            checker.check(token)
    except ShapeError as error:
        return failure(ROUTING, str(error), REPORT)
    found = token_arrays(tokens, header)
    if problem := next(_problems(found, header), None):
        return failure(ROUTING, problem, REPORT)
    return _fine(found, header)


def _problems(found: TokenArrays, header: Header) -> Iterator[str]:
    # Engines skip the last layer for prompt tokens whose output is not needed.
    whole = [at for at, source in enumerate(found.source) if source == "generated"] or [len(found) - 1]
    for token, layer in np.argwhere(found.experts[whole, :, 0] == ABSENT).tolist():
        yield f"token {whole[token]} has no routing in layer {header.model.layers[layer]}"
    for name, check in EVERY_ROW.items():
        faults = check(found, header)
        if faults is not None and faults.rows.any():
            token, layer = np.argwhere(faults.rows)[0].tolist()
            yield f"{name}, token {token}, layer {header.model.layers[layer]}: {faults.words(token, layer)}"


def _fine(found: TokenArrays, header: Header) -> CheckResult:
    captured = f"{plural(len(found), 'token')} × {plural(len(header.model.layers), 'layer')}, all experts different"
    if header.model.gate == UNKNOWN_GATE or np.isnan(found.weights).all():
        return warning(
            ROUTING,
            f"{captured}; the gate of this family is not known",
            "expert ids are recorded, weights and entropy are not",
        )
    sums = np.nansum(found.weights, axis=-1)[~np.isnan(found.weights[..., 0])]
    entropy = found.entropy[~np.isnan(found.entropy)]
    words = f"; weights sum to {_range(sums.min(), sums.max())}"
    if entropy.size:
        words += f", entropy {_range(entropy.min(), entropy.max())}"
    return fine(ROUTING, captured + words)


def _range(low: float, high: float) -> str:
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
