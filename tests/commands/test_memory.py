"""`moe-watch memory`, as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from moe_watch.backends.system.python_process import environment
from moe_watch.commands.app import run
from moe_watch.commands.models.memory import size_of
from moe_watch.routing.errors import UserError
from tests.backends.memory.full_size_models import write_model


def result(capsys, *arguments, status=0):
    assert run(["memory", *arguments, "--json"]) == status
    [line] = capsys.readouterr().out.splitlines()
    return json.loads(line)


@pytest.mark.parametrize("backend", ["llama.cpp", "mlx"])
def test_pocket_fits_with_both_engines(capsys, backend):
    found = result(capsys, "pocket", "--backend", backend)
    assert found["fits"]
    assert found["source"] == "engine"
    assert found["weights_bytes"] == 22_182_400
    assert found["kv_bytes"] == 6 * 2 * 32 * 2 * 2048 * 4
    assert found["expert_bytes"] + found["non_expert_bytes"] == found["weights_bytes"]
    assert found["total_bytes"] >= sum(found[f"{part}_bytes"] for part in ("weights", "kv", "compute"))
    assert found["recommendation"]["command"] == f"moe-watch watch pocket --backend {backend}"
    devices = found["by_device"].values()
    assert sum(each["total_bytes"] for each in devices) == sum(
        found[f"{part}_bytes"] for part in ("weights", "kv", "compute")
    )


def test_the_exit_status_is_1_if_it_does_not_fit(capsys):
    found = result(capsys, "pocket", "--backend", "llama.cpp", "--memory", "100MB", status=1)
    assert not found["fits"]
    assert found["available_bytes"] == 100_000_000
    assert found["limit"] == "given"
    assert found["recommendation"] is None


def test_the_text_ends_with_a_command_or_with_what_is_missing(capsys, tmp_path):
    path = str(write_model("mixtral-8x7b", tmp_path / "mixtral.gguf"))
    assert run(["memory", path, "--memory", "16.5GB"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path} with llama.cpp: it does not fit"
    assert lines[-1] == f"recommended: moe-watch watch {path} --context 4096"
    assert run(["memory", path, "--memory", "2GB"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("nothing fits: the smallest setting needs 15.")
    assert last.endswith("more than there is")


def test_options_of_a_run_are_taken(capsys):
    short = result(capsys, "pocket", "--backend", "llama.cpp", "--context", "1024", "--kv-type", "f16")
    assert short["kv_bytes"] == 6 * 2 * 32 * 2 * 1024 * 2
    assert short["recommendation"]["arguments"] == "--context 1024 --kv-type f16"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-model"], "there is no model called"),
        (["owner/name"], "owner/name is not on this machine"),
        (["pocket", "--context", "99999999"], "--context is 99999999"),
        (["pocket", "--backend", "mlx", "--kv-type", "q8_0"], "does not support --kv-type"),
        (["pocket", "--memory", "lots"], "--memory is 'lots'"),
        (["pocket", "--for", "mixtral-8x7b"], "--for and MODEL both given"),
        (["--for", "nothing"], "not in the table of published models"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_status_2(capsys, arguments, said):
    assert run(["memory", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    [line] = shown.err.splitlines()
    assert said in line


def test_a_published_model_needs_no_file(capsys):
    found = result(capsys, "--for", "mixtral-8x7b", "--memory", "18GB", status=1)
    assert found["formats"][0]["format"] == "FP16"
    assert not any(each["fits"] for each in found["formats"])
    found = result(capsys, "--for", "olmoe-1b-7b", "--memory", "18GB")
    assert found["recommendation"] == "FP16"
    longer = result(capsys, "--for", "olmoe-1b-7b", "--memory", "18GB", "--context", "8192", status=0)
    assert longer["kv_bytes"] == 2 * found["kv_bytes"]


def test_a_published_model_that_does_not_fit_has_a_next_step(capsys):
    """The advised context fits; where the weights alone are too large, none is advised."""
    assert run(["memory", "--for", "mixtral-8x7b", "--memory", "18GB"]) == 1
    shown = capsys.readouterr().out
    advice = shown.splitlines()[-1]
    assert advice.startswith("nothing fits: Q2_K takes 18.1 GB, ")
    assert "for engines that load experts on demand (moe-watch keeps all)" in shown
    _, context = advice.split("it fits with --context ")
    assert result(capsys, "--for", "mixtral-8x7b", "--memory", "18GB", "--context", context)["recommendation"] == "Q2_K"
    assert run(["memory", "--for", "mixtral-8x7b", "--memory", "16GB"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "nothing fits: Q2_K takes 18.1 GB, 2.1 GB more than there is"


def test_the_table_of_published_models_is_listed(capsys):
    assert run(["memory", "--for", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 14
    assert any(line.split()[0] == "mixtral-8x7b" and "46.7 B" in line and "12.9 B" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("18GB", 18 * 10**9),
        ("16GiB", 16 * 2**30),
        ("1.5 gb", 1_500_000_000),
        ("500M", 500_000_000),
        ("7000000", 7_000_000),
    ],
)
def test_sizes(text, size):
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1XB", "0GB", "1e9", "18", "18B", "999KB"])
def test_what_is_no_size(text):
    with pytest.raises(UserError):
        size_of(text)


@pytest.mark.parametrize(("kibibytes", "source"), [(300_000, "engine"), (130_000, "headers")])
def test_it_answers_under_a_limit_on_address_space(kibibytes, source):
    """Also where the engine's library cannot be loaded: then from the headers."""
    command = f'ulimit -v {kibibytes} && exec "$0" -m moe_watch memory pocket --backend llama.cpp --json'
    ended = subprocess.run(
        ["sh", "-c", command, sys.executable], env=environment(), capture_output=True, text=True, check=False
    )
    found = json.loads(ended.stdout)
    assert ended.returncode == 1, ended.stderr
    assert found["source"] == source
    assert found["limit"] == "ulimit -v"
    assert found["available_bytes"] == kibibytes * 1024
    assert not found["fits"]
