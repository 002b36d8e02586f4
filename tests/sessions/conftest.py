"""Fixtures of live runs."""

from __future__ import annotations

import pytest

from moe_watch.sessions.live.source import LiveSource
from tests.run_specs import run_settings
from tests.sessions.kit import (
    Drained,
    ScriptedWorker,
    Stage,
)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def begin(folder):
    """Starts a live run on a scripted worker, and closes it in the end."""
    sources = []

    def begin_run(worker=ScriptedWorker, **settings):
        stage = Stage(folder, worker)
        source = LiveSource(run_settings(**({"prompt": "def", "chunk_size": 4} | settings)), stage.around)
        sources.append(source)
        source.start()
        return stage, source, Drained(source)

    yield begin_run
    for source in sources:
        source.close()
