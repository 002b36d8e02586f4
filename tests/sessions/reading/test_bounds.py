"""Every number of every event has a range, and a damaged one is refused with its line."""

from __future__ import annotations

import json
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import (
    LEAST_LOGPROB,
    Change,
    Cost,
    Event,
    Fork,
    Header,
    Host,
    MemoryPressure,
    ModelMemory,
    Perturbation,
    Refused,
    Sampling,
    State,
    Temperature,
    Vitals,
    to_json,
)
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.sessions.reading.bounds import BOUNDS, MAX_CELLS
from moe_watch.sessions.reading.reader import read_session
from tests.sessions.kit import HEADER, make_token


def parts(hint: Any) -> set[Any]:
    """The plain types in a type, however deep in lists and unions."""
    if get_origin(hint) in (Union, UnionType, list, tuple, dict):
        return {part for each in get_args(hint) for part in parts(each)}
    return {hint}


def structs(kind: type) -> set[type]:
    inside = {part for hint in get_type_hints(kind).values() for part in parts(hint)}
    found = {each for each in inside if isinstance(each, type) and issubclass(each, msgspec.Struct)}
    return {kind}.union(*(structs(each) for each in found))


ALL = set().union(*(structs(kind) for kind in get_args(Event)))


@pytest.mark.parametrize("kind", sorted(ALL, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_every_number_has_a_range(kind):
    hints = get_type_hints(kind)
    numbers = {name for name, hint in hints.items() if parts(hint) & {int, float} or bytes in parts(hint)}
    assert set(BOUNDS.get(kind, {})) == numbers


def refusal(tmp_path, *events, header=HEADER):
    path = tmp_path / "session.moe.jsonl"
    path.write_bytes(b"\n".join(to_json(event) for event in (header, make_token(0), *events)) + b"\n")
    try:
        list(read_session(path))
    except UserError as error:
        return str(error)
    return ""


CHUNK = {
    "router_entropy": 0.5, "router_margin": 0.5, "top_margin": 0.5, "transition_prob": 0.5, "proximity_meso": 0.5,
    "proximity_macro": 0.5, "slow_confidence": 0.5, "coherence": 0.5, "delta_coherence": 0.0,
}  # fmt: skip


def chunk(**signals):
    pressures = dict.fromkeys(("fast", "mid", "slow", "net", "w_fast", "w_mid", "w_slow"), 0.1)
    for name in pressures.keys() & signals.keys():
        pressures[name] = signals.pop(name)
    fields = {"index": 0, "first": 0, "last": 0, "tokens": 1, "residual": signals.pop("residual", 0.0)}
    line = {"event": "chunk", **fields, "signals": CHUNK | signals, "pressures": pressures}
    return msgspec.json.decode(json.dumps(line), type=Event)


def masked_keyframe(mask):
    instruments = Instruments(HEADER)
    instruments.feed(make_token(0))
    return msgspec.structs.replace(instruments.keyframe(), mask=mask)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (make_token(1), ""),
        (msgspec.structs.replace(make_token(1), logprob=-9e15), "a log-probability of -9000000000000000.0"),
        (msgspec.structs.replace(make_token(1), logprob=LEAST_LOGPROB - 1.0), "a log-probability of -262145.0 is imp"),
        (msgspec.structs.replace(make_token(1), logprob=float(LEAST_LOGPROB)), ""),
        (msgspec.structs.replace(make_token(1), id=1 << 31), "a token id of 2147483648 is impossible"),
        (msgspec.structs.replace(make_token(1), t=2e9), "a time of 2000000000.0 s is impossible"),
        (chunk(), ""),
        (chunk(router_entropy=12.0), ""),
        (chunk(router_entropy=15.0), "router_entropy is 15.0, outside 0 to 12.4766"),
        (chunk(coherence=1.5), "coherence is 1.5, outside 0 to 1"),
        (chunk(delta_coherence=-2.0), "delta_coherence is -2.0, outside -1 to 1"),
        (chunk(mid=-1.5), "mid is -1.5, outside -1 to 1"),
        (chunk(residual=1e9), "residual is 1000000000.0, outside 0 to 1"),
        (Vitals(t=1.0, memory_used=-1), "memory_used is -1, outside 0 to 9.0072e+15"),
        (Vitals(t=1.0, temperatures=[Temperature(sensor="nvme", celsius=40.0, high=65261.85)]), ""),
        (Vitals(t=1.0, temperatures=[Temperature(sensor="cpu", celsius=-300.0)]), "celsius is -300.0, outside -273.15"),
        (Vitals(t=1.0, pressure=MemoryPressure(level="ok", source="PSI", stalled=1.2)), "stalled is 1.2, outside 0 to"),
        (Vitals(t=1.0, pressure=MemoryPressure(level="ok", source="", stalled_full=-0.2)), "stalled_full is -0.2"),
        (Vitals(t=1.0, worker_read=-1), "worker_read is -1, outside 0 to"),
        (Vitals(t=1.0, swapped_in=1 << 60), "swapped_in is 1152921504606846976, outside 0 to"),
        (Vitals(t=1.0, group_events={"oom_kill": -1}), "group_events is -1, outside 0 to"),
        (Vitals(t=1.0, model_memory=ModelMemory(active=-1, peak=0, cache=0)), "active is -1, outside 0 to"),
        (Perturbation(i=1, t=0.0, text="x", ids=[-2], form="raw", source="key"), "ids is -2, outside -1 to 2.1"),
        (State(state="dropped", i=1, t=0.0, count=-5), "count is -5, outside 0 to 9.0072e+15"),
        (Refused(i=1, t=-1.0, command="inject", why=""), "t is -1.0, outside 0 to 1e+09"),
        (Change(i=1, t=0.0, mask=[(1, [0, 3]), (4, [2])], experts_per_token=2), ""),
        (Change(i=1, t=0.0, mask=[]), ""),
        (Change(i=1, t=0.0, mask=[(3, [0])]), "a mask of layer 3, which is no MoE layer"),
        (Change(i=1, t=0.0, mask=[(1, [5])]), "a mask of expert 5 of 5"),
        (Change(i=1, t=0.0, mask=[(1, [-1])]), "the masked experts of layer 1 do not ascend"),
        (Change(i=1, t=0.0, mask=[(1, [2, 2])]), "the masked experts of layer 1 do not ascend"),
        (Change(i=1, t=0.0, mask=[(1, [])]), "the masked experts of layer 1 do not ascend"),
        (Change(i=1, t=0.0, mask=[(2, [1]), (1, [1])]), "the layers of a mask do not ascend"),
        (Change(i=1, t=0.0, mask=[(1, [1 << 60])]), "the masked experts of layer 1 do not ascend"),
        (Change(i=1, t=0.0, experts_per_token=0), "0 of 5 experts per token is impossible"),
        (Change(i=1, t=0.0, experts_per_token=6), "6 of 5 experts per token is impossible"),
        (masked_keyframe([(1, [0])]), ""),
        (masked_keyframe([(1, [7])]), "a mask of expert 7 of 5"),
        (Cost(tap_off=1.0, tap_on=1.0, ratio=1e12), "ratio is 1000000000000.0, outside 1e-06 to 1e+09"),
        (
            Fork(i=1, t=0.0, arm="text", replicate=-1, seed=1, text="", injected=[], generated=[]),
            "replicate is -1, outside 0 to 9.0072e+15",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(tmp_path, event, reason):
    said = refusal(tmp_path, event)
    assert reason in said if reason else not said
    assert not reason or ", line 3: " in said


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sampling": Sampling(seed=1, temperature=-1.0)}, "temperature is -1.0, outside 0 to 9.0072e+15"),
        ({"sampling": Sampling(seed=1, top_p=7.0)}, "top_p is 7.0, outside 0 to 1"),
        ({"host": Host(system="x", machine="x", python="3", memory=-1)}, "memory is -1, outside 0 to 9.0072e+15"),
        ({"cost": Cost(tap_off=1.0, tap_on=0.0, ratio=1.0)}, "tap_on is 0.0, outside 1e-06 to 1e+09"),
    ],
)
def test_a_header_that_cannot_be_is_refused(tmp_path, fields, reason):
    said = refusal(tmp_path, header=msgspec.structs.replace(HEADER, **fields))
    assert f", line 1: no session header, {reason}" in said


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"expert_ids": [[0, 2, 3, 5, 7]] * 3}, ""),
        ({"expert_ids": [[0, 2, 3, 5, 7]] * 2}, "expert_ids holds 2 layers instead of 3"),
        ({"expert_ids": [[0, 2, 3, 5]] * 3}, "expert_ids holds 4 experts instead of 5"),
        ({"expert_ids": [[0, 2, 3, 5, 5]] * 3}, "expert_ids names an expert twice"),
        ({"expert_ids": [[0, 2, 3, 5, -7]] * 3}, "expert_ids is -7, outside 0 to 262144"),
        ({"own_experts_per_token": 3}, ""),
        ({"own_experts_per_token": [3, 4, 5]}, ""),
        ({"own_experts_per_token": [3, 4]}, "own experts per token of 2 layers"),
        ({"own_experts_per_token": 0}, "0 of 5 own experts per token is impossible"),
        ({"own_experts_per_token": [3, 4, 6]}, "6 of 5 own experts per token is impossible"),
    ],
)
def test_other_numbers_of_a_model(tmp_path, fields, reason):
    model = msgspec.structs.replace(HEADER.model, **fields)
    said = refusal(tmp_path, header=msgspec.structs.replace(HEADER, model=model))
    assert f", line 1: no session header, {reason}" in said if reason else not said


@pytest.mark.parametrize(("layers", "experts"), [(1, MAX_CELLS + 1), (1, 1 << 20), (513, 512)])
def test_a_header_cannot_ask_for_all_memory(tmp_path, layers, experts):
    """Tables have a cell for each expert of each layer: 2²⁰ of them took 250 MB for a file of a kilobyte."""
    model = msgspec.structs.replace(HEADER.model, layers=list(range(layers)), experts=experts)
    header = msgspec.structs.replace(HEADER, model=model)
    assert f"{layers} layers × {experts} experts is impossible" in refusal(tmp_path, header=header)


def test_the_header_of_every_event_is_a_struct_of_its_own():
    assert Header in ALL
    assert len(ALL) == len(BOUNDS)
