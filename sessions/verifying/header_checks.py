"""Checks that a header's values are consistent. The reader refuses invalid values before."""

from __future__ import annotations

from datetime import datetime

from moe_watch.routing.events import Header, ModelInfo
from moe_watch.routing.header import NO_GATE
from moe_watch.routing.router.gates import UNKNOWN_GATE, parse
from moe_watch.sessions.verifying.issues import IssueCollector

SIZE_TOLERANCE = 0.01
"""Share of the model size by which the sum of its parts may differ."""
OF_ROUTERS = ("experts", "weights", "entropy", "margin", "probs")
"""Quantities per token that a dense model does not have, by their names in `capture`."""
QUANTITIES = ("parameters", "bytes", "non_expert_bytes", "context_length", "trained_length")


def check_facts(header: Header, findings: IssueCollector) -> None:
    """Report inconsistent values of a header."""
    for text in (*_sizes(header.model), *_dense(header), *_time(header), *_cost(header)):
        findings.add("header", text, 1)


def remarks(header: Header) -> list[str]:
    """Return notes for the user that are no faults."""
    found = []
    if parse(header.model.gate) is None and header.model.layers:
        unnamed = header.model.gate == UNKNOWN_GATE
        gate = "the gate is unknown" if unnamed else f"gate {header.model.gate!r} is unknown in this version"
        found.append(f"{gate}: weights, entropy and margin are not checked")
    if header.continues is not None:
        found.append(f"continuation file of {header.continues.file} from token {header.continues.i}")
    return found


def _sizes(model: ModelInfo) -> list[str]:
    quantities = [(name, getattr(model, name)) for name in QUANTITIES]
    found = [f"{name} is {value}" for name, value in quantities if value is not None and value < 0]
    of_experts = model.expert_bytes
    if of_experts is None:
        return found
    if len(of_experts) != len(model.layers) or min(of_experts, default=0) < 0:
        return [*found, f"expert_bytes has {len(of_experts)} layers, but the model has {len(model.layers)}"]
    experts = model.experts * sum(of_experts)
    if model.bytes is not None and not _fits(experts, model.non_expert_bytes, model.bytes):
        found.append(f"experts of {experts} bytes and {model.non_expert_bytes} other bytes do not sum to {model.bytes}")
    return found


def _dense(header: Header) -> list[str]:
    """Return contradictions between MoE layers, gate and capture. Imported counts may have no layer."""
    model = header.model
    if model.layers and model.gate == NO_GATE:
        return [f"the gate is {NO_GATE!r}, but the model has {len(model.layers)} MoE layers"]
    routing = [] if model.layers else [name for name in header.capture if name in OF_ROUTERS]
    return [f"capture has {', '.join(routing)}, but the model has no MoE layers"] if routing else []


def _fits(experts: int, rest: int | None, whole: int) -> bool:
    """Return whether experts and the rest sum to the model size; an unknown rest may have any size."""
    slack = SIZE_TOLERANCE * whole
    return experts <= whole + slack if rest is None else abs(experts + rest - whole) <= slack


def _time(header: Header) -> list[str]:
    try:
        datetime.fromisoformat(header.created)
    except ValueError:
        return [f"created is {header.created[:40]!r}, which is not an ISO 8601 time"]
    return []


def _cost(header: Header) -> list[str]:
    cost = header.cost
    if cost is None or cost.interval is None or cost.interval[0] <= cost.ratio <= cost.interval[1]:
        return []
    return [f"a cost ratio of {cost.ratio:g}, outside its interval {cost.interval[0]:g} to {cost.interval[1]:g}"]
