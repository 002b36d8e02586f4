"""What every test may use."""

from __future__ import annotations

import pathlib

import pytest

GOLDEN = pathlib.Path(__file__).parent / "golden" / "golden.moe.jsonl"
"""A session written by hand: 2 layers × 4 experts, 3 chunks, an injection, vitals, a mark, a keyframe."""


@pytest.fixture
def golden_path() -> pathlib.Path:
    return GOLDEN


@pytest.fixture
def golden_events():
    from routing.events import from_json

    return [from_json(line) for line in GOLDEN.read_bytes().splitlines()]
