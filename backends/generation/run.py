"""One run of a model: prompt, generated tokens, injections and pauses, until it ends. Works with any engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Literal

import msgspec

from moe_watch.backends.engine import Engine, SampledToken
from moe_watch.backends.generation.adjustments import Adjusting, Adjustments
from moe_watch.backends.generation.chunk_counter import ChunkCounter
from moe_watch.backends.generation.command_port import CommandPort, RunEnds
from moe_watch.backends.generation.emitter import Emitter
from moe_watch.backends.generation.forks import Forking, ForkPoint
from moe_watch.backends.generation.inbox import Inbox
from moe_watch.backends.generation.injections import Injection, Injections, prepare
from moe_watch.backends.generation.next_turn import cut_context, prepare_turn, recorded_injection
from moe_watch.backends.generation.observation import check_prediction
from moe_watch.backends.generation.outbox import Outbox
from moe_watch.backends.generation.preview import preview
from moe_watch.backends.generation.rate_limit import RateLimit
from moe_watch.backends.generation.start import first_tokens
from moe_watch.backends.protocol import (
    Command,
    Failed,
    Load,
    Measure,
    Pause,
    PauseCause,
    Perturb,
    PromptShown,
    Resume,
    SetMask,
    SetMultistep,
    SetRate,
    SetSampling,
    SetTap,
    ShowPrompt,
    Start,
    Stop,
)
from moe_watch.backends.run_spec import TeacherTokens
from moe_watch.backends.text.dialogue import Dialogue
from moe_watch.backends.text.first_turn import is_turn, opening
from moe_watch.backends.text.format_check import prompt_warnings
from moe_watch.backends.text.turn_check import contains, left_out
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import TokenSource

Mode = Literal["sampling", "teacher", "forking", "finished"]
"""`teacher`: tokens come from a recorded session. `forking`: the engine's context is a continuation, not the run."""


class GenerationRun:
    """Run of one `Start` command.

    Args:
        engine: a loaded model.
        start: the command.
        inbox: queue of further commands.
        outbox: receives the events.
        refuse: called for a refused command, and with the answer to a preview; the run continues.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        engine: Engine,
        start: Start,
        *,
        inbox: Inbox,
        outbox: Outbox,
        refuse: Callable[[Failed | PromptShown], None],
        clock: Callable[[], float],
    ) -> None:
        spec = start.spec
        self._engine = engine
        self._start = start
        dialogue = Dialogue(opening(spec) if is_turn(engine.codec, spec) else None, engine.codec.ends)
        self._emitter = Emitter(outbox, clock, engine.detokenizer(), dialogue, engine.memory)
        self._commands = CommandPort(inbox, refuse, self._emitter.flush)
        self._limit = RateLimit(spec.rate, clock)
        self._chunks = ChunkCounter(spec.chunk_size, spec.tokens)
        self._changes = Adjustments(engine, start, self._emitter, chunks=self._chunks, limit=self._limit)
        self._injections = Injections(spec.injections)
        self._forking = (
            Forking(engine, spec.forks, spec.chunk_size, observed=outbox.observed, now=self._emitter.now)
            if spec.forks
            else None
        )
        self._prompt: list[int] = []
        self._mode: Mode = "sampling" if spec.teacher is None else "teacher"
        self._resumed = Resume()
        """Command that ended the last pause."""
        self._paused: PauseCause | Literal["chunk"] | None = None

    def run(self) -> Start | None:
        """Run until a command ends the run; returns the next `Start` if that is the command."""
        try:
            self._begin()
            while True:
                while self._mode != "finished":
                    self._next_token()
                self._await_continuation()
        except RunEnds as end:
            if self._mode != "finished":
                self._finish(end.why)
            return end.following
        except UserError as error:
            self._emitter.state("error", message=str(error))
            return None
        finally:
            self._emitter.flush()
            self._changes.restore()

    # -- the course of a run

    def _begin(self) -> None:
        spec = self._start.spec
        self._engine.reset()
        self._prompt = first_tokens(self._engine, self._start)
        self._changes.begin()
        for warning in prompt_warnings(self._engine, spec, self._prompt):
            self._emitter.warn(warning)
        if (note := self._engine.first_use) is not None:
            self._emitter.note, self._engine.first_use = note, None
            self._emitter.prefill(0, len(self._prompt))
        self._evaluate(self._prompt, "prompt")
        self._emitter.note = None
        if self._chunks.left == 0:
            self._finish("length")
        elif self._mode == "teacher":
            self._follow_teacher(spec.teacher_tokens[1:])
        else:
            self._fork_if_due()

    def _next_token(self) -> None:
        self._listen()
        sampled, completed = self._sample(last=self._must_settle())
        why = self._finish_reason(sampled)
        if why == "context" and self._start.spec.on_full_context == "restart":
            self._fresh_context(self._prompt)
        elif why is not None:
            self._finish(why)
            return
        if completed:
            self._fork_if_due()
        for perturb in self._injections.take_due(completed=self._chunks.whole if completed else None):
            if injection := self._prepare(perturb):
                self._inject(injection)
        if completed and self._changes.multistep:
            self._await_step()

    def _must_settle(self) -> bool:
        """Return whether the engine must not start on the token after the next one: something may come between."""
        completed = self._chunks.next_whole
        forks = self._forking is not None and completed is not None and self._forking.is_due(completed)
        may_stop = forks or (completed is not None and self._changes.multistep)
        is_final = self._chunks.left == 1 or self._engine.position + 1 >= self._engine.context_length
        return is_final or may_stop or self._changes.wait or self._injections.any_due(completed=completed)

    def _sample(self, *, last: bool) -> tuple[SampledToken, bool]:
        """Generate the next token; returns it, and whether it completes its chunk."""
        sampled = self._engine.draw(last=last)
        self._warn()
        check_prediction(sampled)
        self._emitter.tokens([sampled.id], "generated", sampled.routing, sampled)
        self._limit.count()
        if self._limit.rate > 0:
            self._emitter.flush()
        return sampled, self._chunks.count()

    def _finish_reason(self, sampled: SampledToken) -> str | None:
        if sampled.ends:
            return "eos"
        if self._chunks.left == 0:
            return "length"
        return "context" if self._engine.position >= self._engine.context_length else None

    def _fresh_context(self, prompt: list[int]) -> None:
        """Evaluate a prompt in an empty context; token indices, time and random generator continue."""
        self._chunks.cut()
        self._emitter.fresh_context(self._engine.detokenizer())
        self._engine.reset()
        self._evaluate(prompt, "prompt")

    def _finish(self, why: str) -> None:
        self._chunks.cut()
        self._mode = "finished"
        if why == "length":
            self._chunks.left = None
        self._emitter.state("finished", why=why)

    def _await_continuation(self) -> None:
        """Wait for an injection that continues the finished run."""
        while (injection := self._next_asked(at_once=True)) is None:
            self._obey(self._commands.pop(None))
        self._mode = "sampling"
        self._emitter.state("resumed", why="perturbation")
        self._inject(injection)

    def _evaluate(self, ids: list[int], source: TokenSource) -> None:
        """Append given tokens to the context. Commands are handled between the engine's steps."""
        done = 0
        for routing in self._engine.prefill(ids, lambda done: self._emitter.prefill(done, len(ids))):
            self._emitter.tokens(ids[done : done + routing.tokens], source, routing)
            self._emitter.send()
            done += routing.tokens
            self._obey_all()
        self._warn()

    def _warn(self) -> None:
        """Emit the engine's warnings about the run's numbers."""
        for warning in self._engine.take_warnings():
            self._emitter.warn(warning)

    # -- teacher forcing

    def _follow_teacher(self, pieces: Sequence[TeacherTokens]) -> None:
        """Evaluate the tokens after the prompt, and finish."""
        for tokens in pieces:
            if tokens.source == "prompt":
                self._fresh_context(tokens.ids)
            elif tokens.source == "injected":
                at_once = self._chunks.filled > 0
                self._inject(recorded_injection(tokens, self._emitter.dialogue, at_once=at_once))
            else:
                self._force(tokens.ids)
            if self._chunks.left == 0:
                break
        self._finish("length")

    def _force(self, ids: list[int]) -> None:
        self._engine.force(ids)
        for after in reversed(range(len(ids))):
            self._listen()
            _, completed = self._sample(last=after == 0 or self._chunks.left == 1 or self._changes.wait)
            if self._chunks.left == 0:
                return
            if completed and self._changes.multistep:
                self._await_step()

    # -- forks

    def _fork_if_due(self) -> None:
        if self._forking is None or not self._forking.is_due(self._chunks.whole):
            return
        if why_not := self._forking.hindrance():
            self._commands.refuse_once("fork", why_not)
            return
        at = ForkPoint(self._emitter.i, self._chunks.whole, self._changes.sampling)
        self._mode = "forking"
        with closing(self._forking.branches(at)) as branches:
            for branch in branches:
                self._emitter.branch(branch)
                self._obey_all()
        self._mode = "sampling"
        self._apply_changes()

    # -- injections

    def _next_asked(self, *, at_once: bool) -> Injection | None:
        """Return the user's oldest injection, if it can be injected."""
        perturb = self._injections.take_asked()
        if perturb is None:
            return None
        return self._prepare(msgspec.structs.replace(perturb, at_once=at_once or perturb.at_once))

    def _prepare(self, perturb: Perturb) -> Injection | None:
        """Tokenize an injection; refuses it and returns None if it cannot be injected."""
        # A fresh context is allowed by the run's own rule, or because the run has finished.
        may_restart = self._mode == "finished" or self._start.spec.on_full_context == "restart"
        fresh_room = self._engine.context_length - len(self._prompt) if may_restart else 0
        try:
            if perturb.renders_all and self._emitter.dialogue.is_conversation:
                return prepare_turn(perturb, self._emitter.dialogue, self._engine)
            return prepare(perturb, self._engine, fresh_room=fresh_room)
        except UserError as error:
            self._commands.refuse("inject", f"nothing was injected: {error}")
            return None

    def _inject(self, injection: Injection) -> None:
        if injection.needs_fresh_context:
            self._fresh_context(self._prompt)
        self._chunks.cut()
        injection = cut_context(injection, self._engine, self._emitter)
        if injection.form == "turn" and not contains(self._engine, injection.ids, injection.perturb.text):
            self._emitter.warn(left_out(self._engine, injection.ids))
        self._emitter.perturbation(injection)
        self._evaluate(injection.ids, "injected")

    # -- commands

    def _listen(self) -> None:
        """Handle commands until it is time for the next token."""
        while (command := self._commands.pop(self._limit.wait())) is not None:
            self._obey(command)
        self._apply_changes()

    def _obey_all(self) -> None:
        """Handle the queued commands."""
        while (command := self._commands.pop(0)) is not None:
            self._obey(command)

    def _obey(self, command: Command | None) -> None:
        match command:
            case Start():
                self._end_for(command)
            case Stop():
                raise RunEnds(command.why)
            case Pause() if self._mode != "finished":
                self._pause(command)
            case Resume():
                self._resume(command)
            case Perturb():
                self._ask(command)
            case SetRate():
                self._changes.set_rate(command.rate)
            case SetSampling() | SetTap() | SetMask():
                self._change(command)
            case SetMultistep():
                self._set_multistep(command.on)
            case ShowPrompt():
                self._commands.answer(preview(command, self._engine, self._emitter.dialogue))
            case Load():
                self._commands.refuse("load", "a model is loaded already")
            case Measure():
                self._commands.refuse("measure", "nothing was measured: a run is in progress")

    def _ask(self, perturb: Perturb) -> None:
        if self._mode == "teacher":
            self._commands.refuse("inject", "nothing was injected: the run evaluates the tokens of another session")
        else:
            self._injections.ask(perturb)

    def _pause(self, pause: Pause) -> None:
        """Pause until a command resumes the run; a further pause of the user changes the cause of the present one."""
        present = self._paused
        if present in ("user", "chunk") or (present is not None and pause.why != "user"):
            return
        self._paused = pause.why
        self._emitter.state("paused", why=pause.why, message=pause.message)
        if present is not None:
            return
        while self._paused:
            self._obey(self._commands.pop(None))
        self._emitter.state("resumed", why=self._resumed.why, message=self._resumed.message)

    def _resume(self, resume: Resume) -> None:
        if self._paused is not None and resume.why in ("user", self._paused):
            self._paused, self._resumed = None, resume

    def _await_step(self) -> None:
        """Pause after a whole chunk until the user resumes or injects."""
        self._paused, injection = "chunk", None
        self._emitter.state("paused", why="chunk")
        while self._paused and injection is None:
            self._obey(self._commands.pop(None))
            injection = self._next_asked(at_once=False)
        self._paused = None
        self._emitter.state("resumed", why="perturbation" if injection else "user")
        if injection:
            self._inject(injection)

    def _end_for(self, following: Start) -> None:
        """End the run for the next one; if that cannot begin and this run is in progress, this run continues."""
        try:
            if self._mode != "finished":
                first_tokens(self._engine, following)
        except UserError as error:
            self._commands.refuse("start", str(error))
        else:
            raise RunEnds("user", following=following)

    # -- changes

    def _change(self, command: Adjusting) -> None:
        if self._mode == "teacher" and isinstance(command, SetSampling):
            self._commands.refuse(
                "sampling", "sampling was not changed: the run evaluates the tokens of another session"
            )
            return
        try:
            self._changes.ask(command)
        except UserError as error:
            self._commands.refuse("mask" if isinstance(command, SetMask) else "sampling", str(error))
        self._apply_changes()

    def _apply_changes(self) -> None:
        """Apply the pending changes to the run's own context."""
        if self._mode != "forking":
            self._changes.apply()

    def _set_multistep(self, on: bool) -> None:
        self._changes.set_multistep(on=on)
        if not on and self._paused == "chunk":
            self._paused = None
