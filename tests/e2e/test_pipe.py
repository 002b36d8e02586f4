"""A session through a pipe into the dashboard, the keyboard being the terminal."""

from __future__ import annotations

import json
import shlex
import subprocess

import psutil
import pytest

from moe_watch.routing.events import to_json
from tests.e2e.terminal import PROGRAM, Terminal
from tests.processes import worker_of
from tests.sessions.kit import HEADER, tokens

PROGRAM_LINE = shlex.join(PROGRAM)
REPLAY = f"{PROGRAM_LINE} replay"
RECORD = f"{PROGRAM_LINE} record pocket --prompt x"


def shell(command):
    return Terminal("-c", command, program=("sh",))


def quoted(path):
    return shlex.quote(str(path))


@pytest.fixture
def session(tmp_path):
    path = tmp_path / "session.moe.jsonl"
    path.write_bytes(b"".join(to_json(event) + b"\n" for event in (HEADER, *tokens(120))))
    return path


@pytest.mark.parametrize("option", ["", "--follow"])
def test_a_piped_session_is_shown_and_keys_work(session, option):
    with shell(f"(cat {quoted(session)}; sleep 600) | {{ {REPLAY} {option} -; echo left with $?; }}") as terminal:
        terminal.wait_for("t7")
        terminal.press("?")
        terminal.wait_for("esc closes")
        terminal.press("\x1b")
        terminal.wait_for(lambda text: "esc closes" not in text)
        terminal.press("q")
        terminal.wait_for("left with 0")


def test_a_file_is_followed_while_it_is_written(session):
    late = to_json(next(tokens(1, first=120))).replace(b" t120", b" latecomer")
    with Terminal("replay", "--follow", str(session)) as terminal:
        terminal.wait_for("t119")
        with session.open("ab") as file:
            file.write(late + b"\n")
        terminal.wait_for("latecomer")
        terminal.press("q")
        assert terminal.wait_for_exit() == 0


@pytest.mark.model
def test_a_run_is_recorded_here_and_watched_there(tmp_path):
    output = tmp_path / "run.moe.jsonl"
    file = quoted(output)
    with shell(f"{RECORD} --tokens 200 --output {file} >/dev/null 2>&1; cat {file} | {REPLAY} --follow -") as terminal:
        terminal.wait_for("token limit reached")
        terminal.press("q")
        assert terminal.wait_for_exit() == 0


@pytest.mark.model
def test_a_run_is_watched_through_a_pipe_while_it_goes_on():
    record = f"{RECORD} --tokens 100000 --on-full-context restart --output -"
    with shell(f"{record} 2>/dev/null | {{ {REPLAY} --follow -; echo left with $?; }}") as terminal:
        terminal.wait_for("streaming")
        psutil.Process(worker_of(terminal.process.pid).ppid()).terminate()
        terminal.wait_for("stopped by the user")
        terminal.press("q")
        terminal.wait_for("left with 0")


def test_headless_from_a_pipe(session):
    done = subprocess.run(
        [*PROGRAM, "replay", "-", "--headless", "--json"], input=session.read_bytes(), capture_output=True, check=True
    )
    assert json.loads(done.stdout)["tokens"]["generated"] == 120


def test_a_terminal_is_no_session():
    with Terminal("replay", "-") as terminal:
        assert terminal.wait_for_exit() == 2
        assert "standard input is a terminal, not a session" in terminal.text


def test_no_terminal_to_take_keys_from(session):
    done = subprocess.run(
        [*PROGRAM, "replay", "-"], input=session.read_bytes(), capture_output=True, start_new_session=True
    )
    assert done.returncode == 2
    assert done.stderr == b"moe-watch: there is no terminal to read keys from: use --headless\n"


@pytest.mark.parametrize("command", ["--help", "--version", "sessions --json"])
@pytest.mark.parametrize("redirection", [">&-", "1</dev/null"])
def test_a_closed_output_is_an_error_of_one_line(command, redirection):
    done = subprocess.run(["sh", "-c", f"{PROGRAM_LINE} {command} {redirection}"], stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr == b"moe-watch: the output cannot be written: Bad file descriptor\n"


def test_a_reader_that_has_enough_is_no_error():
    line = f"{{ {PROGRAM_LINE} --help; echo $? >&2; }} | true"
    assert subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, check=True).stderr == b"0\n"
