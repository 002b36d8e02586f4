"""From options to a live run, the same for `watch` and `record`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from commands.options import Generation, checked_output, chosen_model

if TYPE_CHECKING:
    from sessions.run_settings import RunSettings

POCKET_PROMPT = '"""Helpers for reading'
"""How a module of the standard library begins: what pocket was trained to go on from."""

PROMPT = "Explain how photosynthesis works in plants, covering the light-dependent and light-independent reactions:\n\n"
"""For every other model."""


def run_settings(
    options: dict[str, Any],
    *,
    stop: Literal["eos", "never"],
    rate: float = 0.0,
    on_full_context: Literal["restart", "finish"] = "finish",
    record: bool = True,
    recording_required: bool = False,
) -> RunSettings:
    """Settings of one live run; `options` are those of `generation_options` and `recording_options`.

    Raises:
        UserError: an option cannot be used, or the model cannot be found, with what to do about it.
    """
    from backends.protocol import EngineOptions
    from sessions.run_settings import RunSettings

    model = chosen_model(options.pop("model"), options.pop("model_option"))
    output, force = checked_output(options.pop("output")), options.pop("force")
    chosen = Generation.of(**options)
    check_model(model, chosen.backend)
    return RunSettings(
        model=model,
        backend=chosen.backend,  # type: ignore[arg-type]  # checked by `check_model`
        options=EngineOptions(threads=chosen.threads),
        prompt=default_prompt(model) if chosen.prompt is None else chosen.prompt,
        raw=chosen.raw,
        temperature=chosen.temperature,
        top_p=chosen.top_p,
        top_k=chosen.top_k,
        seed=chosen.seed,
        stop=chosen.stop or stop,  # type: ignore[arg-type]  # a choice of the option
        tokens=chosen.tokens,
        chunk_size=chosen.chunk_size,
        rate=rate,
        on_full_context=on_full_context,
        perturb=chosen.perturb,
        perturb_every=chosen.every,
        record=record,
        recording_required=recording_required,
        output=output,
        force=force,
    )


def default_prompt(model: str) -> str:
    """What a model goes on from if nothing else is asked for."""
    return POCKET_PROMPT if model == "pocket" else PROMPT


def check_model(model: str, backend: str) -> None:
    """Say what can be said before a worker is started and a screen is opened.

    Raises:
        UserError: the model cannot be found or used, or not with this engine.
    """
    from backends.catalog import choose_backend, locate
    from backends.preflight import preflight

    location = locate(model, backend)
    choose_backend(backend, location)
    preflight(location)
