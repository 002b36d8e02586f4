"""Any content of a file is read, played, judged, salvaged and exported, or refused in one line, in bounded memory.

Many more of them: `python -m benchmarks.fuzz`.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sessions.exercise import exercise, in_time
from tests.sessions.mutations import damaged, made, sound

SESSIONS, HARD = sound(), damaged()
FOUND = Path(__file__).parents[1] / "fuzz_found"
"""Files that something could not take, once."""
ROOT = Path(__file__).parents[3]
MEBIBYTE = 1 << 20
MEMORY = 64 * MEBIBYTE
"""Bytes that Python may allocate for a file of 50 kB; keyframes and windows of its header's size included."""

freely = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fuzzed.moe.jsonl"


def outcome(path, data):
    path.write_bytes(data)
    with in_time():
        return exercise(path, path.parent)


@given(seed=st.integers(0, 1 << 32))
@settings(freely, max_examples=150)
def test_a_mutated_recording(path, seed):
    assert outcome(path, made(seed, SESSIONS, HARD)) in ("read", "torn", "refused")


@given(data=st.binary(max_size=300), at=st.integers(0, 20_000), length=st.integers(0, 400))
@settings(freely, max_examples=100)
def test_any_bytes_anywhere(path, data, at, length):
    session = SESSIONS[0]
    assert outcome(path, session[:at] + data + session[at + length :]) in ("read", "torn", "refused")


value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = ("event", "schema", "model", "units", "i", "t", "experts", "weights", "chunk_size", "sampling", "phases")


@given(fields=st.dictionaries(st.sampled_from(names), value, max_size=3), line=st.integers(0, 40))
@settings(freely, max_examples=100)
def test_any_json_in_any_field(path, fields, line):
    import msgspec

    lines = SESSIONS[-1].splitlines()
    at = line % len(lines)
    try:
        lines[at] = msgspec.json.encode(msgspec.json.decode(lines[at]) | fields)
    except UnicodeEncodeError:
        return
    assert outcome(path, b"\n".join(lines) + b"\n") in ("read", "torn", "refused")


@pytest.mark.parametrize("file", sorted(FOUND.glob("*")), ids=lambda file: file.name)
def test_what_was_found_once(path, file):
    assert outcome(path, file.read_bytes()) in ("read", "torn", "refused")


def test_sound_sessions_are_read_and_most_mutations_are_not(path):
    """Or nothing above would say anything."""
    assert {outcome(path, data) for data in SESSIONS} == {"read"}
    outcomes = [outcome(path, made(seed, SESSIONS, HARD)) for seed in range(60)]
    assert set(outcomes) == {"read", "torn", "refused"}


def test_memory_does_not_grow_with_the_number_of_files(path):
    for seed in range(5):
        outcome(path, made(seed, SESSIONS, HARD))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for seed in range(25):
            outcome(path, made(seed, SESSIONS, HARD))
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < MEMORY
    assert after - before < 4 * MEBIBYTE


def test_the_fuzzer_itself(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fuzz", "--files", "20", "--keep", str(tmp_path / "found")],
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("20 files in ")
    assert not (tmp_path / "found").exists()
