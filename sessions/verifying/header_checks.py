"""Whether a header's facts can be true of one model and one run. What is impossible for a reader is refused before."""

from __future__ import annotations

from datetime import datetime

from moe_watch.routing.events import Header, ModelInfo
from moe_watch.routing.router.gates import UNKNOWN_GATE, parse
from moe_watch.sessions.verifying.issues import IssueCollector

SIZE_TOLERANCE = 0.01
"""Of a model's bytes, by which its experts and the rest together may differ from all."""
QUANTITIES = ("parameters", "bytes", "non_expert_bytes", "context_length", "trained_length")


def check_facts(header: Header, findings: IssueCollector) -> None:
    """Note what in a header cannot be true."""
    for text in (*_sizes(header.model), *_time(header), *_cost(header)):
        findings.add("header", text, 1)


def remarks(header: Header) -> list[str]:
    """What a reader should know, and what is not wrong."""
    found = []
    if parse(header.model.gate) is None and header.model.layers:
        known = header.model.gate == UNKNOWN_GATE
        gate = "the gate is not known" if known else f"gate {header.model.gate!r} is not known to this version"
        found.append(f"{gate}: weights, entropy and margin are not judged")
    if header.continues is not None:
        found.append(f"goes on at token {header.continues.i} with what {header.continues.file} began")
    return found


def _sizes(model: ModelInfo) -> list[str]:
    quantities = [(name, getattr(model, name)) for name in QUANTITIES]
    found = [f"{name} is {value}" for name, value in quantities if value is not None and value < 0]
    of_experts = model.expert_bytes
    if of_experts is None:
        return found
    if len(of_experts) != len(model.layers) or min(of_experts, default=0) < 0:
        return [*found, f"expert_bytes of {len(of_experts)} layers, where there are {len(model.layers)}"]
    experts = model.experts * sum(of_experts)
    if model.bytes is not None and not _fits(experts + (model.non_expert_bytes or 0), model):
        found.append(f"experts of {experts} bytes and a rest of {model.non_expert_bytes} are not {model.bytes} in all")
    return found


def _fits(parts: int, model: ModelInfo) -> bool:
    """Whether the parts whose sizes are known can be all of the model, or a part of it if one is not known."""
    assert model.bytes is not None
    slack = SIZE_TOLERANCE * model.bytes
    return parts <= model.bytes + slack and (model.non_expert_bytes is None or parts >= model.bytes - slack)


def _time(header: Header) -> list[str]:
    try:
        datetime.fromisoformat(header.created)
    except ValueError:
        return [f"created is {header.created[:40]!r}, which is no time"]
    return []


def _cost(header: Header) -> list[str]:
    cost = header.cost
    if cost is None or cost.interval is None or cost.interval[0] <= cost.ratio <= cost.interval[1]:
        return []
    return [f"a cost ratio of {cost.ratio:g} outside of its interval {cost.interval[0]:g} to {cost.interval[1]:g}"]
