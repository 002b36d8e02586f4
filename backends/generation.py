"""One run of a model: prompt, generated tokens, injections, pauses, to its end. Knows no engine in particular."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from backends.engine import Drawn, Engine
from backends.inbox import Inbox
from backends.injections import Injections
from backends.observation import Evaluated, TokenFacts
from backends.outbox import Outbox
from backends.pace import Pace
from backends.protocol import Command, Load, Measure, Pause, Perturb, Resume, SetRate, SetSampling, Start, Stop
from routing.chunks import ChunkClock
from routing.errors import UserError
from routing.events import Perturbation, PerturbationForm, Progress, RunState, State, TokenSource


class RunEnds(Exception):  # noqa: N818 - not an error
    """A command ends the run, wherever it is."""

    def __init__(self, why: str, following: Start | None = None) -> None:
        self.why = why
        self.following = following
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class Injection:
    """A text that can be injected."""

    perturb: Perturb
    form: PerturbationForm
    ids: list[int]
    needs_fresh_context: bool


class Run:
    """What follows one `Start`.

    Args:
        engine: a loaded model.
        start: how to run it.
        inbox: where commands come from.
        outbox: where events go.
        refuse: told, in one line, of a command that cannot be carried out; the run goes on.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        engine: Engine,
        start: Start,
        *,
        inbox: Inbox,
        outbox: Outbox,
        refuse: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._start = start
        self._inbox = inbox
        self._outbox = outbox
        self._refuse = refuse
        self._clock = clock
        self._began = clock()
        self._sampling = start.sampling
        self._pace = Pace(start.rate, clock)
        self._chunks = ChunkClock(start.chunk_size)
        self._injections = Injections(start)
        self._detokenizer = engine.detokenizer()
        self._prompt: list[int] = []
        self._i = 0
        self._left = start.tokens
        self._paused = False
        self._finished: str | None = None

    def run(self) -> Start | None:
        """Go on until a command ends the run; returns the next `Start` if that is the command."""
        try:
            self._begin()
            while True:
                while self._finished is None:
                    self._next_token()
                self._await_continuation()
        except RunEnds as end:
            if self._finished is None:
                self._finish(end.why)
            return end.following
        except UserError as error:
            self._state("error", message=str(error))
            return None
        finally:
            self._outbox.flush()

    # -- the course of a run

    def _begin(self) -> None:
        self._engine.reset()
        self._engine.configure(self._sampling, reseed=True)
        turn = self._engine.has_chat_template and not self._start.raw
        self._prompt = self._engine.encode(self._start.prompt, turn=turn, first=True)
        if not self._prompt:
            raise UserError("the prompt is empty", advice="give at least one token to begin with")
        if len(self._prompt) >= self._engine.context_length:
            raise UserError(
                f"the prompt has {len(self._prompt):,} tokens, the context holds {self._engine.context_length:,}",
                advice="shorten the prompt",
            )
        self._evaluate(self._prompt, "prompt")
        if self._left == 0:
            self._finish("length")

    def _next_token(self) -> None:
        self._listen()
        due = self._injections.any_due(completes=self._chunks.next_completes)
        drawn = self._engine.draw(last=due or self._is_final())
        self._count(drawn)
        completed = self._chunks.advance()
        why = self._why_over(drawn)
        if why == "context" and self._start.on_full_context == "restart":
            self._fresh_context()
        elif why is not None:
            self._finish(why)
            return
        for perturb in self._injections.take_due(completed=completed):
            if injection := self._prepare(perturb):
                self._inject(injection)

    def _is_final(self) -> bool:
        """The next token is the last that may be generated here."""
        return self._left == 1 or self._engine.position + 1 >= self._engine.context_length

    def _why_over(self, drawn: Drawn) -> str | None:
        if drawn.ends:
            return "eos"
        if self._left == 0:
            return "length"
        return "context" if self._engine.position >= self._engine.context_length else None

    def _fresh_context(self) -> None:
        """Begin again with the prompt in an empty context; token indices, time and the draw go on."""
        self._chunks.cut()
        self._state("fresh_context", why="context")
        self._engine.reset()
        self._detokenizer = self._engine.detokenizer()
        self._evaluate(self._prompt, "prompt")

    def _finish(self, why: str) -> None:
        self._chunks.cut()
        self._finished = why
        if why == "length":
            self._left = None
        self._state("finished", why=why)

    def _await_continuation(self) -> None:
        """The run is over unless text comes to go on with."""
        while (injection := self._next_asked()) is None:
            self._obey(self._inbox.take(None))
        self._finished = None
        self._state("resumed", why="perturbation")
        self._inject(injection)

    def _next_asked(self) -> Injection | None:
        perturb = self._injections.take_asked()
        return self._prepare(msgspec.structs.replace(perturb, at_once=True)) if perturb else None

    # -- tokens

    def _evaluate(self, ids: list[int], source: TokenSource) -> None:
        """Put given tokens into the context. Commands are heard between the engine's steps."""

        def report(done: int) -> None:
            self._outbox.put(Progress(stage="prefill", done=done, total=len(ids), unit="tokens"))
            self._outbox.flush()

        done = 0
        for routing in self._engine.prefill(ids, report):
            step = ids[done : done + routing.tokens]
            self._outbox.put_tokens(Evaluated(self._facts(step, source), routing))
            self._outbox.flush()
            done += routing.tokens
            while (command := self._inbox.take(0)) is not None:
                self._obey(command)

    def _count(self, drawn: Drawn) -> None:
        """A token was generated."""
        self._outbox.put_tokens(Evaluated(self._facts([drawn.id], "generated", drawn), drawn.routing))
        self._pace.count()
        if self._pace.rate > 0:
            self._outbox.flush()
        if self._left is not None:
            self._left -= 1

    def _facts(self, ids: Sequence[int], source: TokenSource, drawn: Drawn | None = None) -> list[TokenFacts]:
        t = self._now()
        facts = [
            TokenFacts(i, t, source, token, self._detokenizer.add(token), drawn)
            for i, token in enumerate(ids, start=self._i)
        ]
        self._i += len(facts)
        return facts

    # -- injections

    def _prepare(self, perturb: Perturb) -> Injection | None:
        """Make sure that a text can be injected; says why not if it cannot."""
        form: PerturbationForm = perturb.form if self._engine.has_chat_template else "raw"
        try:
            ids = self._engine.encode(perturb.text, turn=form == "turn", first=False)
        except UserError as error:
            self._decline(f"nothing was injected: {error}")
            return None
        room = self._engine.context_length - self._engine.position
        fits_fresh = self._may_restart and len(self._prompt) + len(ids) < self._engine.context_length
        if ids and (len(ids) < room or fits_fresh):
            return Injection(perturb, form, ids, needs_fresh_context=len(ids) >= room)
        why = f"the text has {len(ids):,} tokens, and the context has room for {room:,}" if ids else "the text is empty"
        self._decline(f"nothing was injected: {why}")
        return None

    @property
    def _may_restart(self) -> bool:
        """Text that does not fit any more may get a fresh context: by the run's own rule, or because it was over."""
        return self._finished is not None or self._start.on_full_context == "restart"

    def _inject(self, injection: Injection) -> None:
        if injection.needs_fresh_context:
            self._fresh_context()
        self._chunks.cut()
        perturb = injection.perturb
        self._outbox.put(
            Perturbation(
                i=self._i,
                t=self._now(),
                text=perturb.text,
                ids=injection.ids,
                form=injection.form,
                source=perturb.source,
                at_once=perturb.at_once,
            )
        )
        self._evaluate(injection.ids, "injected")

    # -- commands

    def _listen(self) -> None:
        """Carry out commands until it is time for the next token."""
        while (command := self._inbox.take(self._pace.wait())) is not None:
            self._obey(command)

    def _obey(self, command: Command | None) -> None:
        match command:
            case Start():
                raise RunEnds("user", following=command)
            case Stop():
                raise RunEnds(command.why)
            case Pause() if not self._paused and self._finished is None:
                self._pause()
            case Resume():
                self._paused = False
            case Perturb():
                self._injections.ask(command)
            case SetRate():
                self._pace.rate = command.rate
            case SetSampling():
                self._set_sampling(command)
            case Load():
                self._decline("a model is loaded already")
            case Measure():
                self._decline("nothing was measured: a run is under way")

    def _pause(self) -> None:
        self._paused = True
        self._state("paused", why="user")
        while self._paused:
            self._obey(self._inbox.take(None))
        self._state("resumed", why="user")

    def _set_sampling(self, change: SetSampling) -> None:
        named = {field: value for field, value in msgspec.structs.asdict(change).items() if value is not None}
        sampling = msgspec.structs.replace(self._sampling, **named)
        try:
            self._engine.configure(sampling, reseed=False)
        except UserError as error:
            self._decline(str(error))
        else:
            self._sampling = sampling

    # -- reporting

    def _decline(self, why: str) -> None:
        """Say that a command is not carried out, after everything that happened before it."""
        self._outbox.flush()
        self._refuse(why)

    def _now(self) -> float:
        return round(self._clock() - self._began, 3)

    def _state(self, state: RunState, *, why: str | None = None, message: str | None = None) -> None:
        self._outbox.put(State(state=state, i=self._i, t=self._now(), why=why, message=message))
        self._outbox.flush()
