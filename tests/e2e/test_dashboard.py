"""The real program, the real pocket model, a real terminal."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal

import pytest

from moe_watch.commands.app import run
from tests.e2e.terminal import Terminal
from tests.processes import LONG, worker_of

pytestmark = pytest.mark.model

VERDICT = r"(?:stable|rising|linear|exponential|cliff)[:,] [^│]+"
WATCH = ("watch", "pocket", "--prompt", "def parse_", "--seed", "7", "--stop", "never")


def events_of(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def chunk_shown(text):
    """The chunk number on the screen, or -1."""
    found = re.search(r"chunk (\d+)", text)
    return int(found[1]) if found else -1


@pytest.fixture
def session(tmp_path):
    return tmp_path / "seen.moe.jsonl"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run that was recorded before."""
    path = tmp_path_factory.mktemp("recorded") / "recorded.moe.jsonl"
    settings = ("--prompt", "def ", "--seed", "7", "--stop", "never", "--tokens", "400")
    assert run(["record", "pocket", *settings, "--output", str(path)]) == 0
    return path


def test_stream_go_on_quit_and_replay(session):
    with Terminal(*WATCH, "--rate", "60", "--output", str(session)) as terminal:
        terminal.wait_for(lambda text: chunk_shown(text) >= 1)
        for shown in ("STREAM", "EXPERTS", "ENTROPY", "PRESSURE", "VITALS", "REC"):
            terminal.wait_for(shown)
        terminal.press("g")
        shown = terminal.wait_for("Please continue:")
        before = chunk_shown(shown)
        terminal.wait_for(lambda text: chunk_shown(text) > before)
        terminal.press("q")
        assert terminal.wait_for_exit() == 0
        assert "moe-watch replay" in terminal.text

    events = events_of(session)
    (injection,) = [event for event in events if event["event"] == "perturbation"]
    injected = [event for event in events if event.get("source") == "injected"]
    assert (injection["source"], injection["text"]) == ("key", " Please continue:")
    assert [event["id"] for event in injected] == injection["ids"]
    assert injected[0]["i"] == injection["i"]
    assert (events[-1]["event"], events[-1].get("why")) in {("state", "user"), ("chunk", None)}

    with Terminal("replay", str(session), "--speed", "16") as terminal:
        terminal.wait_for("Please continue:")
        terminal.wait_for("REPLAY")
        terminal.press("q")
        assert terminal.wait_for_exit() == 0


def test_a_killed_worker_is_named_and_the_file_ends_with_the_error(session, capsys):
    with Terminal(*WATCH, "--output", str(session)) as terminal:
        terminal.wait_for(lambda text: chunk_shown(text) >= 0)
        worker_of(terminal.process.pid).send_signal(signal.SIGKILL)
        terminal.wait_for("SIGKILL")
        assert terminal.process.poll() is None
        assert "EXPERTS" in terminal.text
        terminal.press("q")
        terminal.wait_for_exit()
    errors = [event for event in events_of(session) if event["event"] == "state" and event["state"] == "error"]
    assert "SIGKILL" in errors[-1]["message"]
    assert run(["replay", str(session), "--headless", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ended"]["state"] == "error"


def test_a_killed_dashboard_leaves_a_readable_file_and_no_worker(session, capsys):
    with Terminal(*WATCH, "--output", str(session)) as terminal:
        terminal.wait_for(lambda text: chunk_shown(text) >= 0)
        worker = worker_of(terminal.process.pid)
        os.kill(terminal.process.pid, signal.SIGKILL)
        worker.wait(timeout=LONG)
        tokens = sum(b'"event":"token"' in line for line in session.read_bytes().splitlines(keepends=True))
    assert run(["replay", str(session), "--headless", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["ended"] is None
    assert sum(summary["tokens"].values()) in (tokens, tokens - 1)


def test_ctrl_c_ends_the_run_whole(session):
    record = ("record", "pocket", "--prompt", "x", "--tokens", "100000", "--on-full-context", "restart")
    with Terminal(*record, "--output", str(session)) as terminal:
        terminal.wait_for(lambda text: session.exists() and session.stat().st_size > 20_000)
        terminal.press("\x03")
        assert terminal.wait_for_exit() == 0
        assert "ended: stopped by the user" in terminal.text
    assert any(event.get("why") == "user" for event in events_of(session)[-2:])


@pytest.mark.parametrize("command", [("watch",), ("replay", "any.moe.jsonl")])
def test_a_terminal_too_small_is_refused_in_one_line(command):
    with Terminal(*command, size=(50, 12)) as terminal:
        assert terminal.wait_for_exit() == 2
        assert "the terminal is 50×12" in terminal.text.replace("\n", "")


def test_multistep_waits_at_every_chunk_and_the_tap_can_be_switched(session):
    with Terminal(*WATCH, "--rate", "0", "--multistep", "--output", str(session)) as terminal:
        terminal.wait_for("chunk 0 is complete: space or g continues")
        terminal.press("o")
        terminal.press(" ")
        terminal.wait_for("chunk 1 is complete")
        terminal.wait_for("tap off since token")
        terminal.press("o")
        terminal.press("g")
        terminal.wait_for("chunk 2 is complete")
        terminal.wait_for(lambda text: "tap off since token" not in text)
        terminal.press("m")
        terminal.wait_for(lambda text: "is complete" not in text and chunk_shown(text) > 12)
        terminal.press("!")
        terminal.wait_for(lambda text: text.count("Please continue:") >= 1)
        terminal.press("q")
        assert terminal.wait_for_exit() == 0

    events = events_of(session)
    chunks = {event["index"]: event for event in events if event["event"] == "chunk"}
    tokens = {event["i"]: event for event in events if event["event"] == "token"}
    tap = [(event["tap"], event["i"]) for event in events if event["event"] == "change" and "tap" in event]
    assert [on for on, _ in tap] == [False, True]
    unobserved = range(tap[0][1], tap[1][1])
    assert unobserved
    assert all(set(tokens[i]["experts"]) == {None} for i in unobserved)
    assert None not in tokens[unobserved.stop]["experts"]
    assert "pressures" in chunks[0]
    assert "pressures" not in chunks[1]
    assert [chunks[index].get("pause") for index in (0, 2)] == ["multistep_chunk_complete"] * 2
    asked = [event for event in events if event["event"] == "perturbation"]
    assert [event.get("at_once", False) for event in asked] == [False, True]
    assert asked[0]["i"] == chunks[1]["last"] + 1


def test_the_verdict_on_the_screen_is_that_of_the_recording(recorded, capsys):
    assert run(["fit", str(recorded)]) == 0
    verdict = capsys.readouterr().out
    with Terminal("replay", str(recorded), "--speed", "0", size=(80, 24)) as terminal:
        terminal.wait_for("REPLAY")
        terminal.press("\t\t\t\t")
        terminal.wait_for("finished: token limit reached, after 40")
        terminal.wait_for(lambda text: any(words.strip() in verdict for words in re.findall(VERDICT, text)))
        terminal.press("t")
        terminal.wait_for(lambda text: all(shape in text for shape in ("constant", "linear", "exponential", "cliff")))
        terminal.press("q")
        assert terminal.wait_for_exit() == 0


def test_a_replay_is_moved_about_in(recorded):
    with Terminal("replay", str(recorded)) as terminal:
        terminal.wait_for("REPLAY")
        terminal.press(" ")
        terminal.press("j")
        terminal.wait_for("To a token, a share of the recording, or a time.")
        terminal.press("200\r")
        terminal.wait_for("token 200 of 40")
        for key, token in ((".", 201), (",", 200), (",", 199), ("\x1b[H", 0)):
            terminal.press(key)
            terminal.wait_for(f"token {token} of 40")
        terminal.press("5")
        terminal.wait_for(lambda text: re.search(r"token 20\d of 40", text))
        terminal.press("/")
        terminal.wait_for("enter next")
        terminal.press(" \r")
        terminal.wait_for(lambda text: re.search(r"token 2\d\d · enter next", text))
        terminal.press("\x1b")
        terminal.wait_for(lambda text: "enter next" not in text)
        terminal.press("\x1b[F")
        terminal.wait_for("finished: token limit reached")
        terminal.press("\x1b[D")
        terminal.wait_for(lambda text: "finished" not in text and "token 400 of" not in text)
        terminal.press("q")
        assert terminal.wait_for_exit() == 0


def test_a_recorded_session_is_replayed_in_place_of_a_run(recorded, tmp_path):
    folder = tmp_path / "data" / "moe-watch" / "sessions"
    folder.mkdir(parents=True)
    shutil.copy(recorded, folder / "older.moe.jsonl")
    os.utime(folder / "older.moe.jsonl", (1_700_000_000, 1_700_000_000))
    env = {"XDG_DATA_HOME": str(tmp_path / "data"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with Terminal(*WATCH, env=env) as terminal:
        terminal.wait_for(lambda text: chunk_shown(text) >= 0)
        worker = worker_of(terminal.process.pid)
        terminal.press("S")
        terminal.wait_for("● pocket-")
        terminal.press("\x1b[B")
        terminal.wait_for("older.moe.jsonl")
        terminal.press("\r")
        terminal.wait_for("End this run?")
        terminal.press("y")
        terminal.wait_for("REPLAY older")
        worker.wait(timeout=LONG)
        terminal.press("q")
        assert terminal.wait_for_exit() == 0
        assert "recorded to" in terminal.text
    (new,) = set(folder.iterdir()) - {folder / "older.moe.jsonl"}
    assert any(event.get("why") == "user" for event in events_of(new)[-2:])
