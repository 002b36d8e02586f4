"""A run that takes long to end shows a notice."""

from __future__ import annotations

import threading

import pytest

from moe_watch.commands.watching import exit_notice as waiting
from moe_watch.commands.watching.headless import follow
from tests.processes import LONG
from tests.tui.scripted import Scripted


@pytest.fixture
def told(monkeypatch):
    """Return an event that the notice sets, with no delay."""
    said = threading.Event()

    def complain(message):
        assert message == waiting.NOTICE
        said.set()

    monkeypatch.setattr(waiting, "NOTICE_SECONDS", 0.0)
    monkeypatch.setattr(waiting, "complain", complain)
    return said


class Stuck(Scripted):
    """Source that closes only after the notice."""

    fatal_error = None

    def __init__(self, told):
        super().__init__(ended=True)
        self.told = told

    def close(self):
        assert self.told.wait(LONG)
        super().close()


def test_a_run_without_a_screen_says_what_it_waits_for_when_it_ends_slowly(told):
    source = Stuck(told)
    follow(source, total=None, quiet=True)
    assert source.asked[-1] == ("close",)


def test_a_terminal_that_is_gone_does_not_matter(monkeypatch, told):
    def gone(_):
        told.set()
        raise OSError

    failures = []
    monkeypatch.setattr(waiting, "complain", gone)
    monkeypatch.setattr(threading, "excepthook", failures.append)
    with waiting.exit_notice():
        assert told.wait(LONG)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(LONG)
    assert failures == []


def test_a_quick_end_is_not_talked_about(capsys):
    with waiting.exit_notice():
        pass
    assert capsys.readouterr().err == ""
