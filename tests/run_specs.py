"""Builders of run specifications and settings from flat options."""

from __future__ import annotations

from typing import Any

from moe_watch.backends.protocol import Start
from moe_watch.backends.run_spec import InjectionSchedule, RunSpec, SamplerOptions, TeacherScript
from moe_watch.routing.events import Sampling, Teacher
from moe_watch.sessions.live.settings import RunSettings
from moe_watch.sessions.recording.options import RecordingOptions


def run_spec(**options: Any) -> RunSpec:
    """Return a specification.

    Args:
        options: fields of `RunSpec` and `SamplerOptions`; `perturb` with `perturb_every` is a schedule of injections,
            and `teacher` may be a list of `TeacherTokens`.
    """
    sampler = {name: options.pop(name) for name in SamplerOptions.__struct_fields__ if name in options}
    every = options.pop("perturb_every", 0)
    if (text := options.pop("perturb", None)) is not None:
        options["injections"] = InjectionSchedule(text=text, every=every)
    if isinstance(teacher := options.get("teacher"), list):
        count = sum(len(piece.ids) for piece in teacher)
        options["teacher"] = TeacherScript(Teacher(model="teacher", backend="script", tokens=count), teacher, 0)
    return RunSpec(sampler=SamplerOptions(**sampler), **options)


def run_start(prompt: str, sampling: Sampling, **options: Any) -> Start:
    """Return the command that begins a run with this prompt and sampler."""
    sampler = {name: getattr(sampling, name) for name in SamplerOptions.__struct_fields__}
    return Start(spec=run_spec(prompt=prompt, **sampler, **options), seed=sampling.seed)


def run_settings(**options: Any) -> RunSettings:
    """Return settings of a live run.

    Args:
        options: fields of `RunSettings` and `RecordingOptions`; the others are for `run_spec`.
    """
    recording = {name: options.pop(name) for name in RecordingOptions.__dataclass_fields__ if name in options}
    own = {
        name: options.pop(name) for name in ("model", "backend", "options", "control", "attended") if name in options
    }
    return RunSettings(spec=run_spec(**options), recording=RecordingOptions(**recording), **own)
