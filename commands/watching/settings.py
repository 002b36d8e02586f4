"""Settings of a live run from the options of `watch` and `record`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from moe_watch.commands.options import (
    MAX_SEED,
    Options,
    check_generation,
    checked_output,
    chosen_model,
    engine_options_of,
    injections_of,
    prompt_of,
    require,
    sampler_of,
    system_of,
    template_of,
)
from moe_watch.commands.watching.ablate_option import mask_of
from moe_watch.commands.watching.pause_options import control_of

if TYPE_CHECKING:
    from pathlib import Path

    from moe_watch.backends.protocol import EngineOptions, Load
    from moe_watch.backends.run_spec import TeacherScript
    from moe_watch.sessions.live.settings import RunSettings

POCKET_PROMPT = '"""Helpers for reading'
"""Beginning of a Python module, as in the training data of pocket."""

PROMPT = "Explain how photosynthesis works in plants, covering the light-dependent and light-independent reactions:\n\n"
"""Prompt of every other model."""


def run_settings(
    options: Options,
    *,
    stop: Literal["eos", "never"],
    rate: float = 0.0,
    on_full_context: Literal["restart", "finish"] = "finish",
    multistep: bool = False,
    record: bool = True,
    recording_required: bool = False,
    attended: bool = False,
) -> RunSettings:
    """Return the settings of a live run.

    Args:
        options: those of `generation_options`, `ablate_option`, `recording_options` and `control_options`.
        stop: default of `--stop`.
        rate: limit in tokens per second; 0 is no limit.
        on_full_context: effect of a full context.
        multistep: pause after every chunk.
        record: record the run.
        recording_required: do not begin without a file.
        attended: a user watches the run and can resume it.

    Raises:
        UserError: an option is invalid, or the model cannot be found.
    """
    from moe_watch.backends.run_spec import RunSpec
    from moe_watch.sessions.live.settings import RunSettings
    from moe_watch.sessions.recording.options import RecordingOptions
    from moe_watch.sessions.user_settings import read_user_settings

    model = chosen_model(options.pop("model"), options.pop("model_option"))
    output, force = checked_output(options.pop("output")), options.pop("force")
    engine = engine_options_of(options)
    check_generation(options | {"prompt": (prompt := prompt_of(options))})
    control = control_of(options)
    backend, system, template = options.pop("backend"), system_of(options), template_of(options)
    check_model(model, backend, engine)
    mask = mask_of(options)
    teacher = None if (file := options.pop("teacher")) is None else _teacher(file)
    spec = RunSpec(
        prompt=_prompt(model, prompt, teacher),
        raw=options.pop("raw") or teacher is not None,
        system=system,
        sampler=sampler_of(options, stop),
        seed=_seed(options.pop("seed"), teacher),
        rate=rate,
        on_full_context=on_full_context,
        injections=injections_of(options),
        multistep=multistep,
        mask=mask,
        teacher=teacher,
        **options,
    )
    recording = RecordingOptions(record=record, output=output, force=force, required=recording_required)
    return RunSettings(
        spec=spec,
        model=model,
        backend=backend,
        options=engine,
        template=template,
        recording=recording,
        thresholds=read_user_settings().memory,
        control=control,
        attended=attended,
    )


def _teacher(file: Path) -> TeacherScript:
    """Return the tokens of a session for teacher forcing.

    Raises:
        UserError: the session cannot be read, or has no tokens.
    """
    from moe_watch.sessions.library.lookup import session_file
    from moe_watch.sessions.live.teacher_forcing import teacher_script

    return teacher_script(session_file(file))


def _seed(given: int | None, teacher: TeacherScript | None) -> int | None:
    """Return the given seed, or the seed of the teacher, so that both runs are measured alike."""
    if given is None and teacher is not None and 0 <= teacher.seed <= MAX_SEED:
        return teacher.seed
    return given


def _prompt(model: str, given: str | None, teacher: TeacherScript | None) -> str:
    """Return the prompt. A teacher's prompt includes the chat template already."""
    if teacher is not None:
        return "".join(piece.text for piece in teacher.tokens[:1] if piece.source == "prompt")
    return default_prompt(model) if given is None else given


def default_prompt(model: str) -> str:
    """Return the default prompt of a model."""
    return POCKET_PROMPT if model == "pocket" else PROMPT


def require_routers(model: str, backend: str, why: str = "") -> None:
    """Refuse a dense model for a command that measures routing, before it is loaded.

    Args:
        model: name or path of the model.
        backend: engine, or `auto`.
        why: reason; by default that a dense model has no pressure.

    Raises:
        UserError: the model is dense by its files. One that is not downloaded yet passes.
    """
    from moe_watch.backends.model_files.catalog import locate
    from moe_watch.backends.model_files.preflight import is_dense_model
    from moe_watch.routing.pressure.missing_signals import DENSE

    require(not is_dense_model(locate(model, backend)), f"{model}: {why or DENSE}", "record it with `moe-watch record`")


def check_model(model: str, backend: str, options: EngineOptions) -> None:
    """Check model, engine and options before a worker is started and the dashboard opens.

    Raises:
        UserError: the model cannot be found or used, or not with this engine, or the engine does not support an option.
    """
    from moe_watch.backends.engine_options import check_support
    from moe_watch.backends.model_files.catalog import choose_backend, locate
    from moe_watch.backends.model_files.preflight import preflight

    location = locate(model, backend)
    check_support(choose_backend(backend, location), options)
    preflight(location)


def checked_load(model: str, backend: str, options: EngineOptions) -> Load:
    """Return the command that loads a model, after `check_model`.

    Raises:
        UserError: as `check_model`, or the model's name is not valid UTF-8.
    """
    from moe_watch.sessions.live.settings import RunSettings

    check_model(model, backend, options)
    return RunSettings(model=model, backend=backend, options=options).load()  # type: ignore[arg-type]  # checked
