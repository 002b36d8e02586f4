from __future__ import annotations

import json

import msgspec
import pytest

from moe_watch.routing.events import (
    BackendInfo,
    Chunk,
    Header,
    MemoryPressure,
    ModelMemory,
    Token,
    Unknown,
    Vitals,
    from_json,
    to_json,
)
from moe_watch.routing.header import Buffer


def test_every_golden_line_survives_reading_and_writing(golden_path):
    for line in golden_path.read_bytes().splitlines():
        again = json.loads(to_json(from_json(line)))
        original = json.loads(line)
        assert {key: value for key, value in again.items() if key in original} == original


def test_absent_quantities_are_not_written():
    token = Token(i=0, t=0.0, phase="prefill", source="prompt", id=3, text="x", experts=[0, 1])
    written = json.loads(to_json(token))
    assert "logprob" not in written
    assert "entropy" not in written
    assert "would_stop" not in written


def test_unknown_fields_of_a_newer_minor_version_are_ignored(golden_path):
    line = json.loads(golden_path.read_bytes().splitlines()[1]) | {"future": [1, 2]}
    assert isinstance(from_json(json.dumps(line).encode()), Token)


def test_unknown_events_are_passed_on_as_they_are():
    raw = b'{"event":"aurora","colour":"green"}'
    with pytest.raises(msgspec.ValidationError):
        from_json(raw)
    assert to_json(Unknown("aurora", raw)) == raw


def test_golden_session_has_what_the_contract_promises(golden_events):
    kinds = [type(event).__name__ for event in golden_events]
    assert isinstance(golden_events[0], Header)
    assert kinds.count("Chunk") == 3
    assert {"Perturbation", "Vitals", "Keyframe", "Marker", "State"} <= set(kinds)
    assert (len(golden_events[0].model.layers), golden_events[0].model.experts) == (2, 4)
    assert all(isinstance(event.signals.router_entropy, float) for event in golden_events if isinstance(event, Chunk))


def test_bytes_per_token_stay_within_the_published_budget():
    """At most 1.0 KB per token at 32 layers × 2 experts, with weights, entropy and margin."""
    token = Token(
        i=100_000,
        t=12345.678,
        phase="decode",
        source="generated",
        id=31999,
        text=" photosynthesis",
        logprob=-12.3456,
        top_margin=0.1234,
        choice_gap=0.1234,
        experts=[6, 7] * 32,
        weights=[5123, 4877] * 32,
        entropy=[7312] * 32,
        margin=[1234] * 32,
    )
    assert len(to_json(token)) + 1 <= 1000


def test_memory_of_vitals_survives_writing_and_is_absent_in_older_lines():
    pressure = MemoryPressure(level="warning", source="PSI full avg10", stalled=0.1, stalled_full=0.06, reason="why")
    memory = ModelMemory(active=3, peak=4, cache=1)
    vitals = Vitals(
        t=1.0, worker_read=7, worker_faults=2, swapped_in=0, swapped_out=5, group_events={"oom_kill": 0},
        model_memory=memory, pressure=pressure,
    )  # fmt: skip
    assert from_json(to_json(vitals)) == vitals
    older = from_json(b'{"event":"vitals","t":1.0,"pressure":{"level":"ok","source":"PSI some avg10","stalled":0.0}}')
    assert isinstance(older, Vitals)
    assert (older.worker_read, older.group_events, older.model_memory) == (None, None, None)
    assert older.pressure == MemoryPressure(level="ok", source="PSI some avg10", stalled=0.0)


def test_buffers_of_a_header_are_written_only_if_the_engine_reports_them():
    backend = BackendInfo(name="llama.cpp", version="1", device="cpu", tap="")
    assert b"buffers" not in msgspec.json.encode(backend)
    buffers = [Buffer(device="CUDA0", kind="kv", bytes=5)]
    written = msgspec.json.encode(msgspec.structs.replace(backend, buffers=buffers))
    assert msgspec.json.decode(written, type=BackendInfo).buffers == buffers
