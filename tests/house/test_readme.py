"""Every command of the README runs as it is written there, in the order of the page."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import moe_watch
from tests.e2e.terminal import PROGRAM, Terminal

ROOT = Path(__file__).parents[2]
HELD_OUT = ROOT / "models" / "pocket" / "held_out"
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line]

QUICKER = {
    "bench": ("--tokens", "20"),
    "measure": ("--chunk-size", "8", "--runs", "2"),
    "ablate": ("--layers", "0", "--tokens", "512"),
}
"""Options added to commands that would take many times as long as the others."""

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The reader's folder, which has a model, a corpus and a text in it."""
    place = tmp_path_factory.mktemp("reader")
    own = place / "my-moe"
    own.mkdir()
    for path in (Path(moe_watch.__file__).parent / "backends" / "pocket").iterdir():
        if path.suffix in {".json", ".safetensors"}:
            shutil.copy(path, own)
        elif path.suffix == ".gguf":
            shutil.copy(path, place / "my-moe.gguf")
    texts = [json.loads(line)["text"] for line in (HELD_OUT / "rank.jsonl").read_text(encoding="utf-8").splitlines()]
    corpus = "".join(json.dumps({"text": text[at : at + 600]}) + "\n" for text in texts for at in (0, 2000))
    (place / "texts.jsonl").write_text(corpus, encoding="utf-8")
    held_out = (HELD_OUT / "score.txt").read_text(encoding="utf-8")[:6000]
    (place / "held-out.txt").write_text(held_out, encoding="utf-8")
    return place


def watch_and_leave(terminal: Terminal) -> None:
    """Wait until something is streaming, and quit."""
    terminal.wait_for(lambda text: "STREAM" in text and re.search(r"token \d", text) is not None)
    terminal.press("q")
    assert terminal.wait_for_exit() == 0


def run_plain(arguments: list[str], cwd: Path) -> str:
    """Run a command that has no screen; return its output."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(cwd)}
    done = subprocess.run([*PROGRAM, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    too_noisy = done.returncode == 1 and "too noisy" in done.stderr  # `bench`, on a busy machine
    assert done.returncode == 0 or too_noisy, done.stderr
    return done.stdout


def test_the_readme_shows_commands():
    assert len(COMMANDS) >= 7
    assert {shlex.split(command)[0] for command in COMMANDS} == {"make", "moe-watch"}


def run_command(command: str, folder: Path) -> None:
    """Run one command of the README in the reader's folder, as a reader would."""
    _, *arguments = shlex.split(command)
    if arguments[0] == "watch" or (arguments[0] == "replay" and "--headless" not in arguments):
        with Terminal(*arguments, cwd=folder, env={"HOME": str(folder)}) as terminal:
            watch_and_leave(terminal)
        return
    printed = run_plain([*arguments, *QUICKER.get(arguments[0], ())], folder)
    if "--json" in arguments:
        assert json.loads(printed)["model"] == "pocket"


def test_the_commands_run_in_order(folder):
    """One test, since later commands read the files of earlier ones, and test processes share no folder."""
    for command in COMMANDS:
        if not command.startswith("moe-watch"):
            continue
        try:
            run_command(command, folder)
        except BaseException as error:
            error.add_note(f"command of the README: {command}")
            raise


def test_make_watch(folder):
    """Sets up what is missing, then opens the dashboard."""
    assert "make watch" in COMMANDS
    with Terminal(
        "watch", program=("make", f"PYTHON={sys.executable}"), cwd=ROOT, env={"HOME": str(folder)}
    ) as terminal:
        watch_and_leave(terminal)


def test_make_test_is_what_ci_runs():
    """This test runs inside it."""
    assert "make test" in COMMANDS
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()
