"""What a measurement consists of: its runs, and the settings that make its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from moe_watch.backends.protocol import BackendChoice, EngineOptions, ForkPlan
from moe_watch.backends.system.regular_files import read_regular
from moe_watch.routing.errors import UserError, system_error
from moe_watch.routing.events import Sampling
from moe_watch.routing.pressure.formulas import WARM_UP_CHUNKS
from moe_watch.sessions import paths
from moe_watch.sessions.live.settings import RunSettings

PLAN_FILE = "plan.json"

RunKind = Literal["plain", "late"]
"""`late`: the control, the same prompt behind text that has nothing to do with it."""
RUN_PREFIXES: dict[RunKind, str] = {"plain": "run-", "late": "late-"}
"""What the names of session files begin with."""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run of a measurement."""

    kind: RunKind
    number: int
    """From 1 on; a late run has the number of its plain twin."""
    seed: int
    prompt: str

    @property
    def file(self) -> str:
        """The name of its session file."""
        return f"{RUN_PREFIXES[self.kind]}{self.number:03}{paths.SUFFIX}"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the numbers of a measurement depend on, as far as a person chooses it."""

    model: str
    backend: BackendChoice = "auto"
    options: EngineOptions = EngineOptions()
    prompts: list[str]
    """Taken in turn."""
    raw: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seeds: list[int]
    """One run each."""
    chunks: int = 50
    """Measured ones; those of the warm-up come before."""
    chunk_size: int = 20
    control: bool = True
    """Each run gets a late twin, see `moe_watch.routing.pressure.position_control`."""
    forks: ForkPlan | None = None

    @property
    def tokens(self) -> int:
        """Generated in every run."""
        return (WARM_UP_CHUNKS + self.chunks) * self.chunk_size

    @property
    def shift(self) -> int:
        """Tokens of other text that are put before the prompt of a late run."""
        return self.chunks // 2 * self.chunk_size

    @property
    def forked_boundaries(self) -> int:
        """In each plain run; none after its last chunk, as nothing follows it."""
        if self.forks is None:
            return 0
        return len(range(self.forks.first, WARM_UP_CHUNKS + self.chunks, self.forks.every))

    @property
    def branches(self) -> int:
        """Continuations at all forked boundaries of a plain run."""
        return 0 if self.forks is None else self.forked_boundaries * 3 * self.forks.replicates

    def plain_runs(self) -> list[PlannedRun]:
        """The measured runs."""
        return [
            PlannedRun("plain", number, seed, self.prompts[(number - 1) % len(self.prompts)])
            for number, seed in enumerate(self.seeds, start=1)
        ]

    def donor_of(self, run: PlannedRun) -> PlannedRun:
        """The plain run whose text stands before a late run's prompt: the next one, the first after the last."""
        return self.plain_runs()[run.number % len(self.seeds)]

    def late_twin(self, run: PlannedRun, other_text: str) -> PlannedRun:
        """The control of a plain run."""
        return PlannedRun("late", run.number, run.seed, f"{other_text}\n\n{run.prompt}")

    def sampling(self, run: PlannedRun) -> Sampling:
        """How a run draws."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, seed=run.seed, stop="never")

    def settings(self, run: PlannedRun, folder: Path) -> RunSettings:
        """One run as the live run takes it."""
        return RunSettings(
            model=self.model,
            backend=self.backend,
            options=self.options,
            prompt=run.prompt,
            raw=self.raw,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=run.seed,
            stop="never",
            tokens=self.tokens,
            chunk_size=self.chunk_size,
            forks=self.forks if run.kind == "plain" else None,
            output=folder / run.file,
            force=True,
            recording_required=True,
        )

    def to_json(self) -> bytes:
        """As it is kept beside the runs."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def read_plan(folder: Path) -> Plan | None:
    """The plan that a folder was measured by, or None if it holds none.

    Raises:
        UserError: what stands there is no plan.
    """
    path = folder / PLAN_FILE
    try:
        return msgspec.json.decode(read_regular(path), type=Plan)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise system_error(path, error, advice="choose another folder with --out") from error
    except msgspec.DecodeError as error:
        raise UserError(f"{path}: no plan of a measurement: {error}", advice="choose another --out") from error


def differences(kept: Plan, wanted: Plan) -> list[str]:
    """The names of the settings in which two plans differ."""
    return [name for name in Plan.__struct_fields__ if getattr(kept, name) != getattr(wanted, name)]
