"""Settings of a live run from the options of `watch` and `record`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from moe_watch.commands.options import MAX_SEED, GenerationOptions, checked_output, chosen_model

if TYPE_CHECKING:
    from pathlib import Path

    from moe_watch.backends.protocol import EngineOptions
    from moe_watch.sessions.live.settings import RunSettings
    from moe_watch.sessions.live.teacher_forcing import TeacherScript

POCKET_PROMPT = '"""Helpers for reading'
"""Beginning of a Python module, as in the training data of pocket."""

PROMPT = "Explain how photosynthesis works in plants, covering the light-dependent and light-independent reactions:\n\n"
"""Prompt of every other model."""


def run_settings(
    options: dict[str, Any],
    *,
    stop: Literal["eos", "never"],
    rate: float = 0.0,
    on_full_context: Literal["restart", "finish"] = "finish",
    multistep: bool = False,
    record: bool = True,
    recording_required: bool = False,
) -> RunSettings:
    """Return the settings of a live run from the options of `generation_options` and `recording_options`.

    Raises:
        UserError: an option is invalid, or the model cannot be found.
    """
    from moe_watch.sessions.live.settings import RunSettings

    model = chosen_model(options.pop("model"), options.pop("model_option"))
    output, force = checked_output(options.pop("output")), options.pop("force")
    chosen = GenerationOptions.of(**options)
    check_model(model, chosen.backend, chosen.engine)
    teacher = None if chosen.teacher is None else _teacher(chosen.teacher)
    return RunSettings(
        model=model,
        backend=chosen.backend,  # type: ignore[arg-type]  # checked by `check_model`
        options=chosen.engine,
        prompt=_prompt(model, chosen.prompt, teacher),
        raw=chosen.raw or teacher is not None,
        temperature=chosen.temperature,
        top_p=chosen.top_p,
        top_k=chosen.top_k,
        seed=_seed(chosen.seed, teacher),
        stop=chosen.stop or stop,  # type: ignore[arg-type]  # a choice of the option
        tokens=chosen.tokens,
        chunk_size=chosen.chunk_size,
        rate=rate,
        on_full_context=on_full_context,
        perturb=chosen.perturb,
        perturb_every=chosen.every,
        multistep=multistep,
        teacher=teacher,
        record=record,
        recording_required=recording_required,
        output=output,
        force=force,
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
