from __future__ import annotations

import json
import subprocess
import sys

import pytest

from moe_watch.commands.app import cli, run
from moe_watch.commands.command_list import HEADINGS

NAMES = [name for listed in HEADINGS.values() for name in listed]
LIGHT = {"moe_watch.routing.errors", "moe_watch.routing.experts", "moe_watch.routing.experts.rankings"}
"""Modules with names and messages only."""
NOT_FOR_HELP = {"msgspec", "numpy", "platformdirs", "rich", "textual", "psutil", "zstandard", "importlib.metadata"}


@pytest.mark.parametrize("command", [[], ["watch"], ["record"], ["replay"], ["bench"]])
def test_help_explains_and_succeeds(capsys, command):
    assert run([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: moe-watch")
    assert len(shown.splitlines()) > 8


@pytest.mark.parametrize("command", ["", *NAMES])
def test_help_fits_a_terminal_of_80_columns(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    assert run([*command.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert [line for line in lines if len(line) > 80] == []


def test_commands_stand_under_headings(capsys):
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    places = [shown.index(f"\n{heading}:\n") for heading in HEADINGS]
    assert places == sorted(places)
    assert "Commands:" not in shown
    longest = max(map(len, NAMES))
    for listed in HEADINGS.values():
        for name, (_, short_help) in listed.items():
            assert f"\n  {name.ljust(longest)}  {short_help}\n" in shown


@pytest.mark.parametrize("name", NAMES)
def test_every_listed_command_is_there(name):
    command = cli.get_command(None, name)
    assert command is not None
    assert command.name == name


def test_an_unknown_command_is_one_line(capsys):
    assert run(["wacth"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No such command 'wacth'" in line
    assert "(see `moe-watch --help`)" in line


@pytest.mark.parametrize("model", ["pocket", "./x.gguf", "mlx-community/OLMoE-1B-7B-0125-Instruct-4bit"])
def test_a_model_in_place_of_a_command_names_watch(capsys, model):
    assert run([model]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"No such command '{model}': to watch a model, use `moe-watch watch MODEL`" in line


def loaded_by(*arguments: str) -> set[str]:
    """Return the modules loaded once `moe-watch` ran with these arguments."""
    code = (
        "import json, sys, moe_watch\n"
        f"try: moe_watch.main({list(arguments)})\n"
        "except SystemExit as left: assert not left.code, left.code\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_loads_no_command():
    loaded = loaded_by("--help")
    assert not loaded & NOT_FOR_HELP
    assert {name for name in loaded if name.startswith("moe_watch.")} == {
        "moe_watch.commands",
        "moe_watch.commands.app",
        "moe_watch.commands.command_list",
        "moe_watch.routing",
        "moe_watch.routing.errors",
    }


@pytest.mark.parametrize("name", NAMES)
def test_help_of_a_command_loads_no_library_but_click(name):
    loaded = loaded_by(name, "--help")
    assert not loaded & NOT_FOR_HELP
    ours = {each for each in loaded if each.startswith("moe_watch.")}
    packages = {each.split(".")[1] for each in ours}
    assert packages <= {"commands", "routing"}
    assert {each for each in ours if each.startswith("moe_watch.routing.")} <= LIGHT


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("moe-watch, version ")


def test_default_tokens_are_what_a_measurement_takes():
    from moe_watch.commands.watching.record import DEFAULT_TOKENS
    from moe_watch.routing.pressure.formulas import WARM_UP_CHUNKS

    assert DEFAULT_TOKENS == (WARM_UP_CHUNKS + 50) * 20
