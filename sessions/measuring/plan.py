"""Plan of a measurement: its runs and their settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from moe_watch.backends.protocol import BackendChoice, EngineOptions, TemplateFile
from moe_watch.backends.run_spec import ForkPlan, RunSpec, SamplerOptions
from moe_watch.backends.system.regular_files import read_regular
from moe_watch.routing.errors import UserError, system_error
from moe_watch.routing.events import MaskRows, PauseConditions, Sampling
from moe_watch.routing.pressure.formulas import WARM_UP_CHUNKS
from moe_watch.sessions import paths
from moe_watch.sessions.live.settings import RunSettings
from moe_watch.sessions.recording.options import RecordingOptions

PLAN_FILE = "plan.json"

RunKind = Literal["plain", "late"]
"""`late`: the control, the same prompt after unrelated text."""
RUN_PREFIXES: dict[RunKind, str] = {"plain": "run-", "late": "late-"}
"""Prefixes of the names of session files."""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run of a measurement."""

    kind: RunKind
    number: int
    """From 1; a late run has the number of its baseline run."""
    seed: int
    prompt: str

    @property
    def file(self) -> str:
        """Name of its session file."""
        return f"{RUN_PREFIXES[self.kind]}{self.number:03}{paths.SUFFIX}"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Runs and settings of a measurement: everything chosen by the user that its numbers depend on."""

    model: str
    backend: BackendChoice = "auto"
    options: EngineOptions = EngineOptions()
    template: TemplateFile | None = None
    """Chat template in place of the model's."""
    spec: RunSpec = RunSpec()
    """Settings of all runs. The measurement sets prompt, seed, number of tokens, and `stop`, which is `never`."""
    prompts: list[str]
    """Used in turn."""
    seeds: list[int]
    """One run for each."""
    chunks: int = 50
    """Measured chunks per run; the warm-up precedes them."""
    control: bool = True
    """Each run gets a late twin, see `moe_watch.routing.pressure.position_control`."""
    pauses: PauseConditions = PauseConditions()
    """Conditions on which a run pauses by itself. No number depends on them, so they may change from attempt to
    attempt, and are recorded in the sessions only."""

    @property
    def tokens(self) -> int:
        """Number of generated tokens per run."""
        return (WARM_UP_CHUNKS + self.chunks) * self.spec.chunk_size

    @property
    def shift(self) -> int:
        """Number of tokens of other text before the prompt of a late run."""
        return self.chunks // 2 * self.spec.chunk_size

    @property
    def forked_boundaries(self) -> int:
        """Number of forked boundaries per baseline run. The end of the last chunk is none: no chunk follows it."""
        forks = self.spec.forks
        return 0 if forks is None else len(range(forks.first, WARM_UP_CHUNKS + self.chunks, forks.every))

    @property
    def branches(self) -> int:
        """Number of continuations at all forked boundaries of a baseline run."""
        return 0 if self.spec.forks is None else self.forked_boundaries * 3 * self.spec.forks.replicates

    def plain_runs(self) -> list[PlannedRun]:
        """Return the runs that are not controls."""
        return [
            PlannedRun("plain", number, seed, self.prompts[(number - 1) % len(self.prompts)])
            for number, seed in enumerate(self.seeds, start=1)
        ]

    def donor_of(self, run: PlannedRun) -> PlannedRun:
        """Return the baseline run with the text before a late run's prompt: the next one; for the last, the first."""
        return self.plain_runs()[run.number % len(self.seeds)]

    def late_twin(self, run: PlannedRun, other_text: str) -> PlannedRun:
        """Return the control of a baseline run."""
        return PlannedRun("late", run.number, run.seed, f"{other_text}\n\n{run.prompt}")

    def sampling(self, run: PlannedRun) -> Sampling:
        """Return the sampler of a run."""
        return self._sampler.seeded(run.seed)

    def settings(self, run: PlannedRun, folder: Path) -> RunSettings:
        """Return the settings of a run's live run."""
        spec = msgspec.structs.replace(
            self.spec,
            prompt=run.prompt,
            sampler=self._sampler,
            seed=run.seed,
            tokens=self.tokens,
            forks=self.spec.forks if run.kind == "plain" else None,
        )
        return RunSettings(
            spec=spec,
            model=self.model,
            backend=self.backend,
            options=self.options,
            template=self.template,
            recording=RecordingOptions(output=folder / run.file, force=True, required=True),
            control=self.pauses,
        )

    @property
    def _sampler(self) -> SamplerOptions:
        return msgspec.structs.replace(self.spec.sampler, stop="never")

    def to_json(self) -> bytes:
        """Return the content of `plan.json`."""
        return msgspec.json.format(msgspec.json.encode(PlanRecord.of(self)), indent=2) + b"\n"


_DEFAULT = RunSpec()


class PlannedChat(msgspec.Struct, frozen=True, kw_only=True):
    """System prompt and chat template of all runs."""

    system: str | None = None
    template: TemplateFile | None = None
    """Template in place of the model's."""


class PlanRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Plan as in `plan.json` and `results.json`, one field per key."""

    model: str
    backend: BackendChoice = "auto"
    options: EngineOptions = EngineOptions()
    prompts: list[str]
    raw: bool = _DEFAULT.raw
    chat: PlannedChat = PlannedChat()
    temperature: float = _DEFAULT.sampler.temperature
    top_p: float = _DEFAULT.sampler.top_p
    top_k: int = _DEFAULT.sampler.top_k
    seeds: list[int]
    chunks: int = 50
    chunk_size: int = _DEFAULT.chunk_size
    control: bool = True
    forks: ForkPlan | None = None
    mask: MaskRows = []

    @classmethod
    def of(cls, plan: Plan) -> PlanRecord:
        """Return the record of a plan."""
        spec, sampler = plan.spec, plan.spec.sampler
        return cls(
            model=plan.model,
            backend=plan.backend,
            options=plan.options,
            prompts=plan.prompts,
            raw=spec.raw,
            chat=PlannedChat(system=spec.system, template=plan.template),
            temperature=sampler.temperature,
            top_p=sampler.top_p,
            top_k=sampler.top_k,
            seeds=plan.seeds,
            chunks=plan.chunks,
            chunk_size=spec.chunk_size,
            control=plan.control,
            forks=spec.forks,
            mask=spec.mask,
        )

    def plan(self) -> Plan:
        """Return the plan of a record."""
        sampler = SamplerOptions(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k)
        return Plan(
            model=self.model,
            backend=self.backend,
            options=self.options,
            template=self.chat.template,
            spec=RunSpec(
                raw=self.raw,
                system=self.chat.system,
                sampler=sampler,
                chunk_size=self.chunk_size,
                forks=self.forks,
                mask=self.mask,
            ),
            prompts=self.prompts,
            seeds=self.seeds,
            chunks=self.chunks,
            control=self.control,
        )


def read_plan(folder: Path) -> Plan | None:
    """Read the plan of a measurement folder; None if it has none.

    Raises:
        UserError: the file cannot be read, or is not a plan.
    """
    path = folder / PLAN_FILE
    try:
        return msgspec.json.decode(read_regular(path), type=PlanRecord).plan()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise system_error(path, error, advice="choose another folder with --out") from error
    except msgspec.DecodeError as error:
        raise UserError(f"{path}: no plan of a measurement: {error}", advice="choose another --out") from error


def differences(kept: Plan, wanted: Plan) -> list[str]:
    """Return the names of the settings in which two plans differ."""
    ours, theirs = PlanRecord.of(kept), PlanRecord.of(wanted)
    return [name for name in PlanRecord.__struct_fields__ if getattr(ours, name) != getattr(theirs, name)]
