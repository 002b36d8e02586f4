"""What a person asks of a live run, and the messages and the header that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from moe_watch.backends.protocol import BackendChoice, EngineOptions, ForkPlan, Load, Ready, Start
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Header, Sampling
from moe_watch.sessions.live.cost import known_cost
from moe_watch.sessions.live.host import host
from moe_watch.sessions.live.teacher_forcing import TeacherScript
from moe_watch.sessions.text import whole_text
from moe_watch.sessions.version import version


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """One run, before a model is loaded. The command line's generation options, under their own names."""

    model: str = "pocket"
    backend: BackendChoice = "auto"
    options: EngineOptions = field(default_factory=EngineOptions)
    prompt: str = ""
    raw: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    """None draws one; it is recorded either way."""
    stop: Literal["eos", "never"] = "eos"
    tokens: int | None = None
    chunk_size: int = 20
    rate: float = 0.0
    on_full_context: Literal["restart", "finish"] = "finish"
    perturb: str | None = None
    perturb_every: int = 0
    multistep: bool = False
    forks: ForkPlan | None = None
    teacher: TeacherScript | None = None
    """Take another session's tokens."""
    record: bool = True
    output: Path | None = None
    """Where to record; None makes a name in the data directory."""
    force: bool = False
    """Replace `output` if it exists."""
    recording_required: bool = False
    """A run that cannot be recorded is not begun, whether a place was named or not."""

    @property
    def needs_recording(self) -> bool:
        """The first run is not begun where its file cannot be."""
        return self.recording_required or self.output is not None

    def load(self) -> Load:
        """The worker's first command.

        Raises:
            UserError: no model can have this name.
        """
        if self.model != whole_text(self.model):
            raise UserError(f"{self.model!a} is not valid UTF-8", advice="rename the model's file")
        return Load(model=self.model, backend=self.backend, options=self.options)

    def sampling(self, seed: int) -> Sampling:
        """How tokens are drawn, with the seed that was given or drawn."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, seed=seed, stop=self.stop)

    def start(self, prompt: str, sampling: Sampling, rate: float) -> Start:
        """The command that begins a run with this prompt."""
        return Start(
            prompt=prompt,
            sampling=sampling,
            raw=self.raw,
            tokens=self.tokens,
            chunk_size=self.chunk_size,
            rate=rate,
            on_full_context=self.on_full_context,
            perturb=self.perturb and whole_text(self.perturb),
            perturb_every=self.perturb_every,
            multistep=self.multistep,
            forks=self.forks,
            teacher=[] if self.teacher is None else self.teacher.tokens,
        )

    def header(self, prompt: str, sampling: Sampling, ready: Ready, now: datetime) -> Header:
        """The first line of the run's session."""
        return Header(
            schema=ready.model.schema,
            created=now.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            moe_watch=version(),
            model=ready.model,
            backend=ready.backend,
            sampling=sampling,
            prompt=prompt,
            template=None if self.raw else ready.template,
            chunk_size=self.chunk_size,
            capture=ready.capture,
            warnings=ready.warnings,
            cost=known_cost(ready.model, ready.backend),
            host=host(),
            multistep=self.multistep,
            teacher=None if self.teacher is None else self.teacher.facts,
        )
