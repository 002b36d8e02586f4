"""Fixtures of all tests."""

from __future__ import annotations

import faulthandler
import os
import pathlib
import sys

import pytest
from hypothesis import HealthCheck, settings

# Hundreds of programs are started here, and each would compile anew all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# The same examples every time, however slow the machine is.
settings.register_profile(
    "deterministic", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("deterministic")

GOLDEN = pathlib.Path(__file__).parent / "golden" / "golden.moe.jsonl"
"""A session written by hand: 2 layers × 4 experts, 3 chunks, an injection, vitals, a mark, a keyframe."""

HOPELESS = 900.0
"""Seconds after which a test will never end. It takes a few, or some hundred where it installs everything anew."""
SCREEN = pytest.StashKey[int]()
"""Standard error as it is outside of tests, where nothing captures it."""


def pytest_configure(config):
    config.stash[SCREEN] = os.dup(2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Have a test that hangs end everything, and say where all threads are, instead of waiting for ever."""
    faulthandler.dump_traceback_later(HOPELESS, exit=True, file=item.config.stash[SCREEN])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


SHORT_NAMES = {"routing", "vitals", "backends", "sessions", "tui", "commands"}
"""Our packages without `moe_watch.`: importable in a checkout, and then loaded a second time."""


@pytest.fixture(autouse=True)
def one_name():
    yield
    assert not SHORT_NAMES & sys.modules.keys(), "a package was imported without `moe_watch.`"


@pytest.fixture
def golden_path() -> pathlib.Path:
    return GOLDEN


@pytest.fixture
def golden_events():
    from moe_watch.routing.events import from_json

    return [from_json(line) for line in GOLDEN.read_bytes().splitlines()]
