"""Specification of a run: all options of one generation, with their defaults. It does not name a model."""

from __future__ import annotations

from typing import Literal

import msgspec

from moe_watch.routing.events import MaskRows, PerturbationForm, Sampling, Teacher, TokenSource


class SamplerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Sampler without its seed."""

    temperature: float = 1.0
    """0 selects the likeliest token."""
    top_p: float = 1.0
    """Sample from the likeliest tokens that hold this share of probability."""
    top_k: int = 0
    """Sample from this number of likeliest tokens; 0 is all."""
    stop: Literal["eos", "never"] = "eos"
    """At end of text: finish, or mask end-of-text tokens and continue."""

    def seeded(self, seed: int) -> Sampling:
        """Return the sampler as a header records it."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, seed=seed, stop=self.stop)


class InjectionSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """Text that is injected every `every` chunks."""

    text: str
    every: int


class ForkPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Forks at chunk boundaries: the next chunk without text, with neutral text, and with a text.

    docs/measurements.md, "Perturbation".
    """

    text: str
    neutral: str
    """Cut or repeated to the number of tokens of `text`."""
    form: PerturbationForm = "raw"
    replicates: int = 8
    """Continuations of each arm, with independent seeds."""
    every: int = 1
    """Chunks from one forked boundary to the next."""
    first: int = 0
    """Complete chunks before the first forked boundary."""


class TeacherTurn(msgspec.Struct, frozen=True):
    """Cut of the context before a turn of which the whole conversation was rendered."""

    kept: int
    """Number of tokens of the context that remain."""
    again: int
    """Number of the following tokens that repeat the conversation."""
    begins_context: bool
    """A new context began with the tokens that remain."""


class TeacherTokens(msgspec.Struct, frozen=True):
    """Successive tokens of one source in a recorded session."""

    source: TokenSource
    ids: list[int]
    text: str
    """Text of the tokens, to detect another tokenizer: its ids mean something else."""
    turn: TeacherTurn | None = None


class TeacherScript(msgspec.Struct, frozen=True):
    """Tokens of a recorded session for teacher forcing."""

    facts: Teacher
    """Model and engine of the recorded session."""
    tokens: list[TeacherTokens]
    """At least one."""
    seed: int
    """Seed of the recorded run. Pressure depends on it: the phases of coherence start from it."""


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Options of one run."""

    prompt: str = ""
    raw: bool = False
    """Evaluate the prompt as it is, without the model's chat template."""
    system: str | None = None
    """System prompt for the chat template; None gives it none."""
    sampler: SamplerOptions = SamplerOptions()
    seed: int | None = None
    """Seed of the sampler and of the phases of coherence. If None, one is drawn; it is recorded in either case."""
    tokens: int | None = None
    """Number of tokens to generate; None is no limit."""
    chunk_size: int = 20
    """Decode tokens per chunk."""
    rate: float = 0.0
    """Limit of the generation rate, tokens per second; 0 is no limit."""
    on_full_context: Literal["restart", "finish"] = "finish"
    """Action at the end of the context: evaluate the prompt again in a fresh one and continue, or finish."""
    injections: InjectionSchedule | None = None
    multistep: bool = False
    """Pause after every chunk until the user resumes or injects."""
    forks: ForkPlan | None = None
    mask: MaskRows = []
    """Experts that are switched off from the beginning."""
    teacher: TeacherScript | None = None
    """Tokens to evaluate instead of the prompt's and of sampled ones; the run ends after them."""

    @property
    def teacher_tokens(self) -> list[TeacherTokens]:
        """Tokens for teacher forcing, in order; empty without a teacher."""
        return [] if self.teacher is None else self.teacher.tokens
