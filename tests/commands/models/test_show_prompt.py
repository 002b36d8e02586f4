"""A prompt as pocket would be sent it, before a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from moe_watch.backends.protocol import EngineOptions
from moe_watch.commands.models.show_prompt import show_prompt, show_prompt_options, take_prompt_options
from tests.backends.text.small_templates import INST

pytestmark = pytest.mark.model


@click.command()
@show_prompt_options
@click.option("--json", "as_json", is_flag=True)
def command(as_json: bool, **options: Any) -> None:
    """Do what `check --show-prompt` does."""
    fine = show_prompt("pocket", "auto", EngineOptions(), take_prompt_options(options), as_json=as_json)
    raise click.exceptions.Exit(0 if fine else 1)


def shown(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_a_prompt_by_a_template_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "inst.jinja"
    file.write_text(INST.replace("{{ bos_token }}", ""))
    prompt = ("--show-prompt", "--prompt", "Hi.", "--system", "Be brief.", "--template", str(file))
    result = json.loads(shown(*prompt, "--json").stdout)
    assert result["text"].endswith("[INST] Be brief.\n\nHi. [/INST]")
    assert (result["template"], result["template_file"]) == ("file", "inst.jinja")
    assert len(result["ids"]) > 5
    lines = shown(*prompt).stdout.splitlines()
    assert lines[0] == f"{len(result['ids'])} tokens, template inst.jinja {result['template_sha256'][:8]}"
    assert "[INST] Be brief.⏎" in lines[2]


def test_a_raw_prompt_of_a_base_model_is_fine() -> None:
    found = shown("--show-prompt", "--prompt", "def f(x):", "--json")
    assert found.exit_code == 0
    result = json.loads(found.stdout)
    assert (result["template"], result["warnings"]) == (None, [])
    assert result["text"].endswith("def f(x):")


def test_options_without_the_preview_are_refused() -> None:
    found = shown("--system", "x")
    assert "--system without --show-prompt" in str(found.exception)
