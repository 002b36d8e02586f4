"""Settings of a live run, and the commands and the header that are built from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
from msgspec import UNSET

from moe_watch.backends.protocol import BackendChoice, EngineOptions, Load, Ready, Start, TemplateFile
from moe_watch.backends.run_spec import RunSpec
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Header, PauseConditions, Sampling
from moe_watch.sessions.live.cost import known_cost
from moe_watch.sessions.live.host import host
from moe_watch.sessions.recording.options import RecordingOptions
from moe_watch.sessions.text import whole_text
from moe_watch.sessions.version import version
from moe_watch.vitals.thresholds import MemoryThresholds


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """Specification of a run, with its model, engine and recording."""

    spec: RunSpec = field(default_factory=RunSpec)
    model: str = "pocket"
    backend: BackendChoice = "auto"
    options: EngineOptions = field(default_factory=EngineOptions)
    template: TemplateFile | None = None
    """Chat template in place of the model's."""
    recording: RecordingOptions = field(default_factory=RecordingOptions)
    thresholds: MemoryThresholds = field(default_factory=MemoryThresholds)
    """Of the memory pressure level."""
    control: PauseConditions = field(default_factory=PauseConditions)
    """Conditions on which the run pauses by itself."""
    attended: bool = False
    """A user watches the run and can resume it."""

    def load(self) -> Load:
        """Return the worker's first command.

        Raises:
            UserError: the model's name is not valid UTF-8.
        """
        if self.model != whole_text(self.model):
            raise UserError(f"{self.model!a} is not valid UTF-8", advice="rename the model's file")
        return Load(model=self.model, backend=self.backend, options=self.options, template=self.template)

    def start(self, prompt: str, seed: int, rate: float) -> Start:
        """Return the command that begins a run with this prompt."""
        injections = self.spec.injections
        if injections is not None:
            injections = msgspec.structs.replace(injections, text=whole_text(injections.text))
        spec = msgspec.structs.replace(self.spec, prompt=prompt, rate=rate, injections=injections)
        return Start(spec=spec, seed=seed)

    def header(self, prompt: str, sampling: Sampling, ready: Ready, now: datetime) -> Header:
        """Return the first line of the run's session."""
        spec = self.spec
        return Header(
            schema=ready.model.schema,
            created=now.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            moe_watch=version(),
            model=ready.model,
            backend=ready.backend,
            sampling=sampling,
            prompt=prompt,
            template=None if spec.raw else ready.template,
            template_source=None if spec.raw else ready.template_source,
            system=spec.system,
            chunk_size=spec.chunk_size,
            capture=ready.capture,
            warnings=ready.warnings,
            cost=known_cost(ready.model, ready.backend),
            host=host(),
            multistep=spec.multistep,
            control=UNSET if self.control == PauseConditions() else self.control,
            teacher=None if spec.teacher is None else spec.teacher.facts,
        )
