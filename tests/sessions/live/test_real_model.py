"""The whole way with the real thing: pocket in a worker process, its file, and the replay of that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moe_watch.routing.events import Chunk, Header, Perturbation, Progress, State, Token, Vitals
from moe_watch.sessions.live.environment import Surroundings
from moe_watch.sessions.live.headless import run_headless
from moe_watch.sessions.live.source import LiveSource
from moe_watch.sessions.reading.reader import read_session
from moe_watch.sessions.replaying.source import ReplaySource
from tests.processes import worker_of
from tests.run_specs import run_settings
from tests.sessions.kit import Drained, ManualClock

pytestmark = pytest.mark.model

SETTINGS = run_settings(model="pocket", prompt="def parse(", tokens=70, stop="never", seed=5)


@pytest.fixture
def live(tmp_path):
    sources = []

    def make(settings):
        sources.append(LiveSource(settings, Surroundings(folder=tmp_path / "data")))
        return sources[-1]

    yield make
    for source in sources:
        source.close()


def headless(source):
    items = []
    return run_headless(source, items.append), [item for item in items if not isinstance(item, Progress)]


def path_of(source):
    return Path(source.recording.path)


def test_live_and_replay_are_the_same_number_for_number(live):
    source = live(SETTINGS)
    summary, shown = headless(source)
    assert source.fatal_error is None
    assert [item.i for item in shown if isinstance(item, Token)][-1] == summary.tokens.prompt + 69
    chunks = [item for item in shown if isinstance(item, Chunk)]
    assert [chunk.partial for chunk in chunks] == [False, False, False, True]
    assert all(chunk.pressures is not None for chunk in chunks)
    assert any(isinstance(item, Vitals) and item.worker_memory for item in shown)
    assert list(read_session(path_of(source))) == shown
    replay = ReplaySource(path_of(source), ManualClock(), speed=0)
    again, replayed = headless(replay)
    assert replayed == shown
    assert again == summary
    assert replay.warnings == []


def test_seed_makes_the_same_tokens_again(live):
    runs = [[item.id for item in headless(live(SETTINGS))[1] if isinstance(item, Token)] for _ in range(2)]
    assert runs[0] == runs[1]


def test_injection_new_prompt_and_end_by_hand(live):
    source = live(run_settings(model="pocket", prompt="class A", stop="never", rate=200.0, on_full_context="restart"))
    drained = Drained(source)
    source.start()
    drained.wait_for(Token, 30)
    source.perturb(" go on")
    drained.wait_for(Perturbation)
    drained.wait_for(Token, 60)
    source.prompt("import os")
    drained.wait_for(Header, 2)
    first = path_of(source)
    drained.wait_for(Token, 90)
    source.close()
    drained.of(State)
    assert [state.why for state in drained.of(State)] == ["user", "user"]
    second = drained.recorded.index(drained.of(Header)[1])
    assert list(read_session(path_of(source))) == drained.recorded[second:]
    assert first.exists()


def test_killed_worker_leaves_a_whole_file_and_can_be_restarted(live):
    source = live(run_settings(model="pocket", prompt="class A", stop="never", rate=200.0, on_full_context="restart"))
    drained = Drained(source)
    source.start()
    drained.wait_for(Token, 30)
    worker_of(os.getpid()).kill()
    state = drained.wait_for_state("error")
    assert "SIGKILL" in state.message
    drained.wait_for_end()
    replayed = headless(ReplaySource(path_of(source), ManualClock(), speed=0))[1]
    assert replayed == drained.recorded
    source.restart()
    drained.wait_for(Header, 2)
    count = len(drained.of(Token))
    drained.wait_for(Token, count + 10)


def test_model_that_is_not_there(live):
    source = live(run_settings(model="/nowhere/at/all", prompt="a"))
    summary, shown = headless(source)
    assert summary is None
    assert [type(item) for item in shown] == [State]
    assert "/nowhere/at/all" in str(source.fatal_error)


def test_prompt_that_is_too_long(live):
    source = live(run_settings(model="pocket", prompt="x = 1\n" * 5000, tokens=1))
    headless(source)
    assert "the prompt has" in str(source.fatal_error)
    assert source.recording.path == ""
