"""One run of a model: prompt, generated tokens, injections, pauses, to its end. Knows no engine in particular."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from math import isnan
from typing import Literal

import msgspec

from moe_watch.backends.engine import Engine, SampledToken
from moe_watch.backends.generation.emitter import Narration
from moe_watch.backends.generation.forks import Branching, ForkPoint
from moe_watch.backends.generation.inbox import Inbox
from moe_watch.backends.generation.injections import Injection, Injections, prepare
from moe_watch.backends.generation.outbox import Outbox
from moe_watch.backends.generation.pending_changes import Changes
from moe_watch.backends.generation.rate_limit import Pace
from moe_watch.backends.generation.start import first_tokens, is_turn
from moe_watch.backends.protocol import (
    Command,
    Failed,
    Load,
    Measure,
    Pause,
    Perturb,
    Resume,
    SetMultistep,
    SetRate,
    SetSampling,
    SetTap,
    Start,
    Stop,
    TeacherTokens,
)
from moe_watch.backends.text.turn_check import contains, left_out
from moe_watch.routing.chunks import ChunkClock
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import TokenSource

NO_PREDICTION = "what the model predicts is not a number (NaN): damaged weights, or an overflow in their precision"


class RunEnds(Exception):  # noqa: N818 - not an error
    """A command ends the run, wherever it is."""

    def __init__(self, why: str, following: Start | None = None) -> None:
        self.why = why
        self.following = following
        super().__init__(why)


class GenerationRun:
    """What follows one `Start`.

    Args:
        engine: a loaded model.
        start: how to run it.
        inbox: where commands come from.
        outbox: where events go.
        refuse: told of a command that cannot be carried out; the run goes on.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        engine: Engine,
        start: Start,
        *,
        inbox: Inbox,
        outbox: Outbox,
        refuse: Callable[[Failed], None],
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._start = start
        self._inbox = inbox
        self._refuse = refuse
        self._narration = Narration(outbox, clock, engine.detokenizer())
        self._pace = Pace(start.rate, clock)
        self._chunks = ChunkClock(start.chunk_size)
        self._whole_chunks = 0
        """Those that were not cut short."""
        self._changes = Changes(engine, start.sampling)
        self._injections = Injections(start)
        self._branching = (
            Branching(engine, start.forks, start.chunk_size, observed=outbox.observed, now=self._narration.now)
            if start.forks
            else None
        )
        self._multistep = start.multistep
        self._prompt: list[int] = []
        self._left = start.tokens
        self._paused: Literal["user", "chunk"] | None = None
        self._takes = bool(start.teacher)
        """The tokens are another session's."""
        self._branches_off = False
        """What the engine holds now is a continuation, not the run."""
        self._finished = False
        self._declined_once: set[str] = set()

    def run(self) -> Start | None:
        """Go on until a command ends the run; returns the next `Start` if that is the command."""
        try:
            self._begin()
            while True:
                while not self._finished:
                    self._next_token()
                self._await_continuation()
        except RunEnds as end:
            if not self._finished:
                self._finish(end.why)
            return end.following
        except UserError as error:
            self._narration.state("error", message=str(error))
            return None
        finally:
            self._narration.flush()
            self._engine.observe(True)

    # -- the course of a run

    def _begin(self) -> None:
        self._engine.reset()
        self._engine.configure(self._start.sampling, reseed=True)
        self._prompt = first_tokens(self._engine, self._start)
        if is_turn(self._engine, self._start):
            self._check_said(self._prompt, self._start.prompt)
        if (note := self._engine.first_use) is not None:
            self._narration.note, self._engine.first_use = note, None
            self._narration.prefill(0, len(self._prompt))
        self._evaluate(self._prompt, "prompt")
        self._narration.note = None
        if self._left == 0:
            self._finish("length")
        elif self._takes:
            self._take_over(self._start.teacher[1:])
        else:
            self._branch_if_due()

    def _next_token(self) -> None:
        self._listen()
        drawn, completed = self._draw(last=self._must_settle())
        why = self._why_over(drawn)
        if why == "context" and self._start.on_full_context == "restart":
            self._fresh_context(self._prompt)
        elif why is not None:
            self._finish(why)
            return
        if completed:
            self._branch_if_due()
        for perturb in self._injections.take_due(completed=self._whole_chunks if completed else None):
            if injection := self._prepare(perturb):
                self._inject(injection)
        if completed and self._multistep:
            self._await_step()

    def _must_settle(self) -> bool:
        """Something may follow the next token that must find no other one under way."""
        completed = self._whole_chunks + 1 if self._chunks.next_completes else None
        forks = self._branching is not None and completed is not None and self._branching.is_due(completed)
        may_stop = forks or (completed is not None and self._multistep)
        is_final = self._left == 1 or self._engine.position + 1 >= self._engine.context_length
        return is_final or may_stop or self._changes.wait or self._injections.any_due(completed=completed)

    def _draw(self, *, last: bool) -> tuple[SampledToken, bool]:
        """The next token, and whether it completes its chunk."""
        drawn = self._engine.draw(last=last)
        self._warn()
        if isnan(drawn.logprob):
            raise UserError(NO_PREDICTION, advice="try another file of the model, or another precision")
        self._narration.tokens([drawn.id], "generated", drawn.routing, drawn)
        self._pace.count()
        if self._pace.rate > 0:
            self._narration.flush()
        if self._left is not None:
            self._left -= 1
        completed = self._chunks.advance()
        self._whole_chunks += completed
        return drawn, completed

    def _why_over(self, drawn: SampledToken) -> str | None:
        if drawn.ends:
            return "eos"
        if self._left == 0:
            return "length"
        return "context" if self._engine.position >= self._engine.context_length else None

    def _fresh_context(self, prompt: list[int]) -> None:
        """Begin again with a prompt in an empty context; token indices, time and the draw go on."""
        self._chunks.cut()
        self._narration.state("fresh_context", why="context")
        self._engine.reset()
        self._narration.detokenizer = self._engine.detokenizer()
        self._evaluate(prompt, "prompt")

    def _finish(self, why: str) -> None:
        self._chunks.cut()
        self._finished, self._takes = True, False
        if why == "length":
            self._left = None
        self._narration.state("finished", why=why)

    def _await_continuation(self) -> None:
        """The run is over unless text comes to go on with."""
        while (injection := self._next_asked(at_once=True)) is None:
            self._obey(self._inbox.take(None))
        self._finished = False
        self._narration.state("resumed", why="perturbation")
        self._inject(injection)

    def _evaluate(self, ids: list[int], source: TokenSource) -> None:
        """Put given tokens into the context. Commands are heard between the engine's steps."""
        done = 0
        for routing in self._engine.prefill(ids, lambda done: self._narration.prefill(done, len(ids))):
            self._narration.tokens(ids[done : done + routing.tokens], source, routing)
            self._narration.send()
            done += routing.tokens
            self._hear()
        self._warn()

    def _warn(self) -> None:
        """Say what the engine found out about the run's numbers."""
        for warning in self._engine.take_warnings():
            self._narration.warn(warning)

    # -- another session's tokens

    def _take_over(self, teacher: Sequence[TeacherTokens]) -> None:
        """Go through what follows the prompt, and finish."""
        for tokens in teacher:
            if tokens.source == "prompt":
                self._fresh_context(tokens.ids)
            elif tokens.source == "injected":
                perturb = Perturb(text=tokens.text, source="schedule", at_once=self._chunks.filled > 0)
                self._inject(Injection(perturb, "raw", tokens.ids))
            else:
                self._take(tokens.ids)
            if self._left == 0:
                break
        self._finish("length")

    def _take(self, ids: list[int]) -> None:
        self._engine.force(ids)
        for after in reversed(range(len(ids))):
            self._listen()
            _, completed = self._draw(last=after == 0 or self._left == 1 or self._changes.wait)
            if self._left == 0:
                return
            if completed and self._multistep:
                self._await_step()

    # -- continuations beside the run

    def _branch_if_due(self) -> None:
        if self._branching is None or not self._branching.is_due(self._whole_chunks):
            return
        if why_not := self._branching.hindrance():
            self._decline_once("fork", why_not)
            return
        at = ForkPoint(self._narration.i, self._whole_chunks, self._changes.sampling)
        self._branches_off = True
        with closing(self._branching.branches(at)) as branches:
            for branch in branches:
                self._narration.branch(branch)
                self._hear()
        self._branches_off = False
        self._apply_changes()

    # -- injections

    def _next_asked(self, *, at_once: bool) -> Injection | None:
        """What was asked for first, if it can be injected."""
        perturb = self._injections.take_asked()
        if perturb is None:
            return None
        return self._prepare(msgspec.structs.replace(perturb, at_once=at_once or perturb.at_once))

    def _prepare(self, perturb: Perturb) -> Injection | None:
        """Make sure that a text can be injected; says why not if it cannot."""
        # A fresh context is given by the run's own rule, or because the run was over.
        may_restart = self._finished or self._start.on_full_context == "restart"
        fresh_room = self._engine.context_length - len(self._prompt) if may_restart else 0
        try:
            return prepare(perturb, self._engine, fresh_room=fresh_room)
        except UserError as error:
            self._decline("inject", f"nothing was injected: {error}")
            return None

    def _inject(self, injection: Injection) -> None:
        if injection.needs_fresh_context:
            self._fresh_context(self._prompt)
        self._chunks.cut()
        if injection.form == "turn":
            self._check_said(injection.ids, injection.perturb.text)
        self._narration.perturbation(injection.perturb, injection.ids, injection.form)
        self._evaluate(injection.ids, "injected")

    # -- commands

    def _listen(self) -> None:
        """Carry out commands until it is time for the next token."""
        while (command := self._inbox.take(self._pace.wait())) is not None:
            self._obey(command)
        self._apply_changes()

    def _hear(self) -> None:
        """Carry out the commands that are there."""
        while (command := self._inbox.take(0)) is not None:
            self._obey(command)

    def _obey(self, command: Command | None) -> None:
        match command:
            case Start():
                self._end_for(command)
            case Stop():
                raise RunEnds(command.why)
            case Pause() if self._paused is None and not self._finished:
                self._pause()
            case Resume():
                self._paused = None
            case Perturb():
                self._ask(command)
            case SetRate():
                self._pace.rate = command.rate
            case SetSampling() | SetTap():
                self._change(command)
            case SetMultistep():
                self._set_multistep(command.on)
            case Load():
                self._decline("load", "a model is loaded already")
            case Measure():
                self._decline("measure", "nothing was measured: a run is under way")

    def _ask(self, perturb: Perturb) -> None:
        if self._takes:
            self._decline("inject", "nothing was injected: the run takes another session's tokens")
        else:
            self._injections.ask(perturb)

    def _pause(self) -> None:
        self._paused = "user"
        self._narration.state("paused", why="user")
        while self._paused:
            self._obey(self._inbox.take(None))
        self._narration.state("resumed", why="user")

    def _await_step(self) -> None:
        """Wait, after a whole chunk, for the next step: as before, or with a text."""
        self._paused, injection = "chunk", None
        self._narration.state("paused", why="chunk")
        while self._paused and injection is None:
            self._obey(self._inbox.take(None))
            injection = self._next_asked(at_once=False)
        self._paused = None
        self._narration.state("resumed", why="perturbation" if injection else "user")
        if injection:
            self._inject(injection)

    def _end_for(self, following: Start) -> None:
        """End the run for the next one, unless that cannot begin and this one is still going on."""
        try:
            if not self._finished:
                first_tokens(self._engine, following)
        except UserError as error:
            self._narration.flush()
            self._refuse(Failed(message=str(error), fatal=False, command="start"))
        else:
            raise RunEnds("user", following=following)

    # -- changes

    def _change(self, command: SetSampling | SetTap) -> None:
        if self._takes and isinstance(command, SetSampling):
            self._decline("sampling", "sampling was not changed: the run takes another session's tokens")
            return
        try:
            self._changes.ask(command)
        except UserError as error:
            self._decline("tap" if isinstance(command, SetTap) else "sampling", str(error))
        self._apply_changes()

    def _apply_changes(self) -> None:
        """Make the changes that wait, unless a token is under way that was drawn without them."""
        if self._changes.wait and self._engine.settled and not self._branches_off:
            for tap, sampling in self._changes.make():
                self._narration.change(tap=tap, sampling=sampling)

    def _set_multistep(self, on: bool) -> None:
        if on != self._multistep:
            self._multistep = on
            self._narration.change(multistep=on)
        if not on and self._paused == "chunk":
            self._paused = None

    def _check_said(self, ids: list[int], text: str) -> None:
        """Say so where a chat template did not put the user's text into its turn."""
        if not contains(self._engine, ids, text):
            self._narration.warn(left_out(self._engine, ids))

    def _decline_once(self, command: str, why: str) -> None:
        if why not in self._declined_once:
            self._declined_once.add(why)
            self._decline(command, why)

    def _decline(self, command: str, why: str) -> None:
        """Say that a command is not carried out, after everything that happened before it."""
        self._narration.flush()
        self._refuse(Failed(message=why, fatal=False, command=command))
