"""A prompt as pocket would be sent it, before a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from moe_watch.commands.models.check import check
from tests.backends.text.small_templates import INST

pytestmark = pytest.mark.model


def shown(*arguments: str) -> Result:
    return CliRunner().invoke(check, ["pocket", *arguments])


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
