from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from moe_watch.backends.protocol import Failed, Start
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Header, Progress, State, Token
from moe_watch.routing.summary import Summary
from moe_watch.sessions.live.headless import STOP_SIGNALS, run_headless
from moe_watch.sessions.live.source import LiveSource
from moe_watch.sessions.reading.reader import read_session
from moe_watch.sessions.replaying.source import ReplaySource
from tests.run_specs import run_settings
from tests.sessions.kit import EndlessWorker, ManualClock, ScriptedWorker, Stage

SETTINGS = run_settings(prompt="def", chunk_size=4)


class Finishing(ScriptedWorker):
    """Generates fifty tokens and finishes."""

    def send(self, command):
        super().send(command)
        if isinstance(command, Start):
            self.generate(50)
            self.finish("length")


class Loading(ScriptedWorker):
    """Is never ready."""

    ready = Failed(message="still at it", fatal=False)


@pytest.fixture
def live(tmp_path):
    def make(worker):
        return LiveSource(SETTINGS, Stage(tmp_path, worker).around)

    return make


def headless(source, on_item=lambda item: None):
    items = []

    def keep(item):
        items.append(item)
        on_item(item)

    return run_headless(source, keep), items


def source_path(source):
    return Path(source.recording.path)


def summary_of(items):
    summary = Summary()
    for item in items:
        summary.feed(item)
    return summary.result()


def test_live_run_to_its_end(live):
    source = live(Finishing)
    summary, items = headless(source)
    assert isinstance(items[0], Progress)
    assert summary == summary_of(items)
    assert summary.tokens.generated == 50
    assert source.ended
    assert list(read_session(source_path(source))) == [item for item in items if not isinstance(item, Progress)]


def test_replay_has_the_summary_of_the_live_run(live):
    source = live(Finishing)
    summary, _ = headless(source)
    again, items = headless(ReplaySource(source_path(source), ManualClock(), speed=0))
    assert again == summary
    assert isinstance(items[0], Header)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signal_finishes_the_run(live, number):
    before = signal.getsignal(number)
    source = live(EndlessWorker)

    def interrupt(item):
        if isinstance(item, Token) and item.i == 30:
            signal.raise_signal(number)

    summary, items = headless(source, interrupt)
    (state,) = [item for item in items if isinstance(item, State)]
    assert (state.state, state.why) == ("finished", "user")
    assert summary == summary_of(items)
    assert summary.tokens.generated >= 29
    assert list(read_session(source_path(source))) == [item for item in items if not isinstance(item, Progress)]
    assert signal.getsignal(number) == before


def test_second_signal_interrupts_at_once_and_still_closes_the_file(live):
    source = live(EndlessWorker)

    def interrupt(item):
        if isinstance(item, Token) and item.i == 5:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        headless(source, interrupt)
    assert [event.why for event in read_session(source_path(source)) if isinstance(event, State)] == ["user"]


def test_closed_terminal_that_is_told_of_twice_ends_the_run_whole(live):
    source = live(EndlessWorker)

    def hang_up(item):
        if isinstance(item, Token) and item.i == 5:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)

    summary, items = headless(source, hang_up)
    assert (summary.ended.state, summary.ended.why) == ("finished", "user")
    assert list(read_session(source_path(source))) == [item for item in items if not isinstance(item, Progress)]


def test_closed_terminal_that_is_to_be_ignored(live):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        summary, _ = headless(live(Finishing), lambda _: signal.raise_signal(signal.SIGHUP))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert summary.ended.why == "length"


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signal_before_there_is_a_run(live, number):
    source = live(Loading)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        headless(source, lambda _: signal.raise_signal(number))
    assert source.ended
    assert source.fatal_error is None
    assert signal.getsignal(number) == before


def test_run_that_cannot_be_recorded_is_over_at_once(tmp_path):
    (tmp_path / "data").touch()
    stage = Stage(tmp_path / "data", Finishing)
    source = LiveSource(run_settings(prompt="def", required=True), stage.around)
    summary, _ = headless(source)
    assert summary is None
    assert "cannot be written" in str(source.fatal_error)


def test_signal_stops_a_replay(tmp_path, golden_path):
    def interrupt(item):
        if isinstance(item, Token) and item.i == 0:
            signal.raise_signal(signal.SIGINT)

    clock = ManualClock()
    summary, items = headless(ReplaySource(golden_path, clock, speed=1.0), interrupt)
    assert summary == summary_of(items)
    assert sum(isinstance(item, Token) for item in items) < 9


def test_works_on_any_thread(live):
    results = []
    thread = threading.Thread(target=lambda: results.append(headless(live(Finishing))[0]))
    thread.start()
    thread.join()
    assert results[0].tokens.generated == 50


def test_source_that_cannot_start(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        headless(ReplaySource(tmp_path / "none", ManualClock()))


def test_error_in_what_is_done_with_items_closes_the_source(live):
    source = live(EndlessWorker)

    def fail(item):
        raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        headless(source, fail)
    assert source.recording.mode == "off"
