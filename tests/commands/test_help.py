from __future__ import annotations

import pytest

from moe_watch.commands.app import cli, run


@pytest.mark.parametrize("command", [[], ["watch"], ["record"], ["replay"], ["bench"]])
def test_help_explains_and_succeeds(capsys, command):
    assert run([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: moe-watch")
    assert len(shown.splitlines()) > 8


@pytest.mark.parametrize("command", ["", *cli.commands])
def test_help_fits_a_terminal_of_80_columns(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    assert run([*command.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert [line for line in lines if len(line) > 80] == []


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("moe-watch, version ")


def test_default_tokens_are_what_a_measurement_takes():
    from moe_watch.commands.watching.record import DEFAULT_TOKENS
    from moe_watch.routing.pressure.formulas import WARM_UP_CHUNKS

    assert DEFAULT_TOKENS == (WARM_UP_CHUNKS + 50) * 20
