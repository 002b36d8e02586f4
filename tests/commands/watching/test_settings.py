"""Settings of a run from a command line."""

from __future__ import annotations

import re
from typing import Any

import click
import pytest

from moe_watch.backends.protocol import EngineOptions, TemplateFile
from moe_watch.commands.options import generation_options, model_choice, recording_options
from moe_watch.commands.watching.ablate_option import ablate_option
from moe_watch.commands.watching.pause_options import control_options
from moe_watch.commands.watching.settings import POCKET_PROMPT, run_settings
from moe_watch.commands.watching.watch import watch
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import PauseConditions
from moe_watch.sessions.live.settings import RunSettings
from moe_watch.sessions.live.teacher_forcing import teacher_script

WATCH = "moe_watch.commands.watching.watch"


def settings(*arguments: str, **more: Any) -> RunSettings:
    """Return the settings of a command with all options."""
    found: list[RunSettings] = []

    @click.command()
    @model_choice
    @generation_options
    @ablate_option
    @recording_options
    @control_options
    def command(**options: Any) -> None:
        found.append(run_settings(options, stop="eos", **more))

    command.main(args=["--backend", "llama.cpp", *arguments], standalone_mode=False)
    return found[0]


def test_the_engine_chooses_what_is_not_given():
    assert settings().options == EngineOptions()


def test_every_engine_option_arrives():
    pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")
    given = ["--threads", "2", "--gpu-layers", "-1", "--context", "512", "--batch", "128", "--micro-batch", "64"]
    given += ["--no-mmap", "--mlock", "--kv-type", "Q8_0", "-ot", "a=CPU", "--override-tensor", "b=CPU"]
    assert settings(*given).options == EngineOptions(
        threads=2,
        gpu_layers=-1,
        context=512,
        batch=128,
        micro_batch=64,
        mmap=False,
        mlock=True,
        kv_type="Q8_0",
        tensor_overrides=["a=CPU", "b=CPU"],
    )


def test_code_of_a_model_is_not_trusted_unasked():
    assert settings().options.trust_remote_code is False
    assert settings("--trust-remote-code", "--backend", "mlx").options.trust_remote_code is True


def test_multistep():
    assert settings().spec.multistep is False
    assert settings(multistep=True).spec.multistep is True


def test_a_teacher_gives_the_prompt_and_the_tokens(golden_path):
    taught = settings("--teacher", str(golden_path)).spec
    script = teacher_script(golden_path)
    assert taught.teacher == script
    prompt = "".join(piece.text for piece in script.tokens if piece.source == "prompt")
    assert prompt
    assert (taught.prompt, taught.raw, taught.tokens) == (prompt, True, None)
    assert settings().spec.teacher is None
    assert taught.seed == script.seed
    assert settings("--teacher", str(golden_path), "--seed", str(script.seed + 1)).spec.seed == script.seed + 1
    assert settings().spec.seed is None
    assert settings().spec.prompt == POCKET_PROMPT


@pytest.mark.parametrize(
    ("arguments", "stop"), [((), "never"), (("--stop", "eos"), "eos"), (("--stop", "never"), "never")]
)
def test_watch_continues_at_the_end_of_text_and_of_the_context_unless_told_to_stop(monkeypatch, arguments, stop):
    made = []
    monkeypatch.setattr(f"{WATCH}.require_terminal", lambda **_: None)
    monkeypatch.setattr(f"{WATCH}.run_settings", lambda *given, **more: made.append(run_settings(*given, **more)))
    monkeypatch.setattr(f"{WATCH}.show", lambda *_, **__: None)
    monkeypatch.setattr("moe_watch.sessions.live.source.LiveSource", lambda _: None)
    watch.main(args=["pocket", *arguments], standalone_mode=False)
    (settings,) = made
    assert (settings.spec.sampler.stop, settings.spec.on_full_context) == (stop, "restart")


class TestPauses:
    @pytest.fixture
    def sensor(self, monkeypatch):
        """Sets the reason why no sensor can be read."""
        from moe_watch.vitals.heat import probe

        def there_is(why=""):
            monkeypatch.setattr(probe, "why_no_processor_sensor", lambda: why)

        there_is()
        return there_is

    def test_both_conditions_arrive(self, sensor):
        given = ("--cool-down", "85", "--pause-on", "critical")
        assert settings(*given).control == PauseConditions(cool_down=85.0, pause_on="critical")
        assert settings().control == PauseConditions()
        assert settings(attended=True).attended
        assert not settings().attended

    @pytest.mark.parametrize("celsius", ["39.9", "110.1", "0", "-5", "nan", "inf"])
    def test_temperature_is_in_its_range(self, sensor, celsius):
        with pytest.raises(UserError, match=r"--cool-down is .*: use 40 to 110 °C"):
            settings("--cool-down", celsius)

    def test_refused_before_loading_if_no_sensor_is_readable(self, sensor):
        sensor("no sensors here")
        with pytest.raises(UserError, match="no CPU or GPU temperature can be read: no sensors here"):
            settings("--cool-down", "85", "--model", "no such model")

    def test_pressure_has_one_level(self):
        with pytest.raises(click.BadParameter):
            settings("--pause-on", "warning")


def test_the_system_prompt_and_the_template_arrive(tmp_path):
    file = tmp_path / "inst.jinja"
    file.write_text("[INST] {{ messages[0].content }} [/INST]")
    found = settings("--system", "Be brief.", "--template", str(file))
    assert found.spec.system == "Be brief."
    assert found.template == TemplateFile(name="inst.jinja", source=file.read_text())
    assert found.load().template == found.template
    assert (settings().spec.system, settings().template) == (None, None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--raw", "--system", "x"], "--raw and --system given, which only a chat template formats: leave out --raw"),
        (["--raw", "--template", "t.jinja"], "--raw and --template given, which formats a prompt: leave out --raw"),
        (["--raw", "--system", "x", "--template", "t"], "--raw and --system and --template given"),
        (["--system", ""], "--system is empty"),
        (["--template", "missing.jinja"], "cannot read the chat template from missing.jinja"),
        (["--teacher", "x", "--system", "y"], "--teacher and --system given"),
    ],
)
def test_options_of_a_template_that_exclude_each_other_are_refused(given, said):
    with pytest.raises(UserError, match=f"^{re.escape(said)}") as raised:
        settings(*given)
    assert "\n" not in str(raised.value)


def test_an_empty_template_is_refused(tmp_path):
    file = tmp_path / "empty.jinja"
    file.write_text(" \n")
    with pytest.raises(UserError, match="is empty: give a Jinja chat template"):
        settings("--template", str(file))
