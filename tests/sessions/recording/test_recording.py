"""Names of files, and what is said about them, where a run cannot be recorded as it was meant to be."""

from __future__ import annotations

import os
import sys
from datetime import date

import pytest

from moe_watch.routing.events import State, Token, Vitals
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.sessions.reading.reader import read_session
from moe_watch.sessions.recording.options import RecordingOptions
from moe_watch.sessions.recording.recording import Recording
from tests.sessions.kit import HEADER, ManualClock, files, make_token


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def make(tmp_path, clock):
    def make_recording(**settings):
        around = {name: settings.pop(name) for name in ("folder", "stream") if name in settings}
        given = {"folder": tmp_path, "clock": clock} | around
        return Recording(RecordingOptions(**settings), **given, today=lambda: date(2026, 11, 20))

    return make_recording


def fill(recording, number, first=0):
    """Record tokens as a live run does."""
    for i in range(first, first + number):
        recording.append(make_token(i))
        for derived in recording.instruments.feed(make_token(i)):
            recording.append(derived)


def begin(recording):
    recording.instruments = Instruments(HEADER)
    return recording.begin(HEADER, recording.instruments.keyframe)


@pytest.mark.parametrize(
    ("name", "second", "later"),
    [
        ("mine.moe.jsonl", "mine.2.moe.jsonl", "mine-2.moe.jsonl"),
        ("mine.moe.jsonl.zst", "mine.2.moe.jsonl.zst", "mine-2.moe.jsonl.zst"),
        ("mine.jsonl", "mine.jsonl.2.moe.jsonl", "mine.jsonl-2.moe.jsonl"),
        ("mine.zst", "mine.2.moe.jsonl.zst", "mine-2.moe.jsonl.zst"),
    ],
)
def test_names_of_what_comes_after_a_file(make, tmp_path, clock, name, second, later):
    recording = make(output=tmp_path / name)
    begin(recording)
    fill(recording, 3)
    (tmp_path / name).unlink()
    clock.advance(1)
    fill(recording, 1, first=3)
    assert recording.status.mode == "failed"
    clock.advance(2)
    recording.tick()
    assert recording.status.name == second
    begin(recording)
    assert recording.status.name == later


def test_a_number_that_is_taken_is_left_alone(make, tmp_path, clock):
    recording = make(output=tmp_path / "mine.moe.jsonl")
    begin(recording)
    fill(recording, 3)
    (tmp_path / "mine.2.moe.jsonl").write_text("precious")
    (tmp_path / "mine.moe.jsonl").unlink()
    clock.advance(1)
    fill(recording, 1, first=3)
    recording.end()
    assert files(tmp_path) == ["mine.2.moe.jsonl", "mine.3.moe.jsonl"]
    assert (tmp_path / "mine.2.moe.jsonl").read_text() == "precious"


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_replacement_that_never_took_its_place_is_begun_anew(make, tmp_path, clock, monkeypatch):
    """The disk is full before the first token: the old file stays until there is room for the new one."""
    output = tmp_path / "mine.moe.jsonl"
    output.write_text("precious")
    recording = make(output=output, force=True)
    begin(recording)
    recording.append(Vitals(t=0.0))
    real, full = os.write, os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(os, "write", lambda _descriptor, data: real(full, data))
    fill(recording, 3)
    os.close(full)
    assert recording.status.mode == "failed"
    assert (output.read_text(), files(tmp_path)) == ("precious", [output.name])
    monkeypatch.setattr(os, "write", real)
    clock.advance(2)
    recording.tick()
    recording.end()
    assert files(tmp_path) == [output.name]
    assert [event.i for event in read_session(output) if isinstance(event, Token)] == [0, 1, 2]


def test_a_run_without_tokens_leaves_nothing_behind_where_it_could_not_be_recorded(make, tmp_path):
    folder = tmp_path / "folder"
    folder.touch()
    recording = make(folder=folder)
    assert "cannot be written" in str(begin(recording))
    recording.append(State(state="error", i=0, t=0.0, message="no such prompt"))
    folder.unlink()
    recording.end()
    assert not folder.exists()
    assert recording.status.mode == "failed"
    assert "cannot be written" in recording.status.problem


def test_switched_off_it_stays_off_whatever_became_of_the_file(make, tmp_path, clock):
    recording = make(output=tmp_path / "mine.moe.jsonl")
    begin(recording)
    fill(recording, 3)
    (tmp_path / "mine.moe.jsonl").unlink()
    recording.wanted = False
    recording.end()
    assert (
        recording.status.problem == "the file was deleted, with all earlier events; nothing is recorded since token 3"
    )
    fill(recording, 3, first=3)
    clock.advance(60)
    recording.tick()
    assert files(tmp_path) == []


def test_a_file_comes_even_after_the_run(make, tmp_path, clock):
    """What was kept is written as soon as it can be, and nothing is added to it."""
    folder = tmp_path / "folder"
    folder.touch()
    recording = make(folder=folder)
    begin(recording)
    fill(recording, 3)
    recording.end()
    assert recording.status.mode == "failed"
    fill(recording, 3, first=3)
    folder.unlink()
    clock.advance(4)
    recording.tick()
    assert (recording.status.mode, recording.status.problem) == ("off", "")
    (path,) = folder.iterdir()
    assert [event.i for event in read_session(path) if isinstance(event, Token)] == [0, 1, 2]
