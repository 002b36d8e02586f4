"""Live run: turns the messages of a worker into a stream of events, which are recorded before they are shown.

Everything here runs on one thread (see `moe_watch.sessions.live.serial_thread`), so that events have the same order in
the file and in the stream. Other threads only read a few attributes and take items from the deque.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from moe_watch.backends import protocol
from moe_watch.backends.protocol import (
    Batch,
    BatchItem,
    Branch,
    Command,
    MemoryCounters,
    Message,
    Perturb,
    PromptShown,
    Ready,
    SetRate,
    ShowPrompt,
    Stop,
)
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import (
    Event,
    Marker,
    Progress,
    Refused,
    RunWarning,
    Sampling,
    State,
    StreamItem,
    Token,
    Vitals,
)
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.sessions.live.environment import Surroundings
from moe_watch.sessions.live.forks import fork_event
from moe_watch.sessions.live.guard.vitals_guard import Notice, VitalsGuard
from moe_watch.sessions.live.preview import PromptPreview
from moe_watch.sessions.live.settings import RunSettings
from moe_watch.sessions.live.stages import (
    Closed,
    CurrentRun,
    Ending,
    FailedRun,
    Finished,
    Idle,
    Loading,
    Paused,
    Resuming,
    Stage,
    Streaming,
    UnderWay,
    Void,
    run_of,
)
from moe_watch.sessions.live.vitals_timer import VitalsTimer
from moe_watch.sessions.live.worker_link import WorkerLink
from moe_watch.sessions.recording.recording import Recording
from moe_watch.sessions.text import whole_text
from moe_watch.vitals.sampler import VitalsSampler

STOP_SECONDS = 3.0
"""Seconds to wait for the worker's confirmation that the run has ended; then the end is recorded without it."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Prompt and sampler of a run."""

    prompt: str
    sampling: Sampling


class LiveRun:
    """One worker and its successive runs.

    Args:
        settings: model, engine, run and recording.
        around: clocks, folders, and how to start a worker.
        stream: receives the items, in order.
        post: executes a function on this object's thread.
    """

    def __init__(
        self,
        settings: RunSettings,
        around: Surroundings,
        stream: deque[StreamItem],
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self.stage: Stage = Loading()
        self.rate = settings.spec.rate
        self.fatal_error: UserError | None = None
        """Error of a run that could not begin; None once a run has a token."""
        self.worker = WorkerLink(around.worker, lambda message: post(lambda: self._receive(message)))
        self.recording = Recording(
            settings.recording,
            folder=around.folder,
            stream=around.stream,
            clock=around.clock,
            today=lambda: around.now().date(),
        )
        self._settings = settings
        self._prompt = settings.spec.prompt
        """Prompt of the run, or of the one that was asked for last."""
        self._around = around
        self._stream = stream
        self._has_run = False
        """A run has had a token."""
        self._vitals = VitalsTimer(VitalsSampler(self._seconds, self.worker.pid, around.providers, settings.thresholds))
        self._guard = VitalsGuard(settings.control, attended=settings.attended)
        self._following: deque[Beginning] = deque()
        """Runs that the worker was asked to begin, without an answer yet; the first of them ends this one."""
        self._previews: deque[PromptPreview] = deque()
        """Previews without an answer; the worker answers in order."""

    # Requests of the user

    def check(self) -> None:
        """Refuse settings that are sure to fail later.

        Raises:
            UserError: the model's name or the output file cannot be used.
        """
        self._settings.load()
        self.recording.check()

    def load(self) -> None:
        """Start a worker and load the model; its `Ready` begins the run."""
        self.stage = Loading()
        self.worker.load(self._settings.load())

    def restart(self) -> None:
        """Replace a worker that died."""
        if isinstance(self.stage, FailedRun):
            self._previews.clear()
            self.worker.close()
            self.load()

    def send(self, command: Command) -> None:
        """Pass a command on, if a model is loaded."""
        match self.stage:
            case Finished(run) if isinstance(command, Perturb):
                self.stage = Resuming(run)
            case Void() if isinstance(command, Perturb):
                return
            case Loading() | FailedRun() | Closed():
                return
        self.worker.send(command)

    def set_rate(self, rate: float) -> None:
        """Limit the generation rate, in tokens per second, of this run and of later ones."""
        self.rate = rate
        self.send(SetRate(rate))

    def begin_next(self, prompt: str) -> None:
        """End this run and begin another one; if the worker refuses the prompt, this run continues."""
        run = run_of(self.stage)
        if run is None:
            return
        self._prompt = prompt
        beginning = self._new_beginning()
        if isinstance(self.stage, UnderWay):
            self._following.append(beginning)
        else:
            self._begin(beginning, run.ready)
        self._send_start(beginning)

    def preview(self, text: str, answer: PromptPreview, *, turn: bool) -> None:
        """Ask the worker for a prompt as the model would be sent it, or for the next turn."""
        if run_of(self.stage) is not None:
            self._previews.append(answer)
            self.worker.send(ShowPrompt(spec=self._settings.start(whole_text(text), 0, self.rate).spec, turn=turn))

    def mark(self, note: str) -> None:
        """Add a marker to the stream."""
        if (run := self._noted_run) is not None:
            self._emit(Marker(i=run.tokens, t=self._seconds(), note=whole_text(note)))

    @property
    def _noted_run(self) -> CurrentRun | None:
        """Run that markers and refusals are added to; None without a token."""
        return None if isinstance(self.stage, Void) else run_of(self.stage)

    def set_recording(self, on: bool) -> None:
        """Close the file, or begin one. A file that begins in the middle of the run begins with its full state."""
        self.recording.wanted = on
        if not on:
            self.recording.end()
        elif self.recording.waiting:
            self.recording.retry()
        elif (run := self._noted_run) is not None and not self.recording.active:
            self.recording.begin(run.header, run.instruments.keyframe, run.instruments.frozen, under_way=True)

    def close(self) -> None:
        """End the run, and close everything once the worker has confirmed the end."""
        self._following.clear()
        stage = self.stage
        if isinstance(stage, UnderWay):
            before = stage.before if isinstance(stage, Ending) else stage
            self.stage = Ending(before, self._around.clock() + STOP_SECONDS)
            self.send(Stop())
        else:
            self._shut()

    def tick(self) -> bool:
        """Do periodic work; returns whether everything has ended."""
        now = self._around.clock()
        if isinstance(self.stage, Ending) and now >= self.stage.deadline:
            self._emit(State(state="finished", i=self.stage.run.tokens, t=self._seconds(), why="user"))
            self._shut()
        if isinstance(self.stage, UnderWay | Idle):
            self._read_vitals(now)
        self.recording.tick()
        if self.recording.broken_off and not isinstance(self.stage, Ending):
            self.close()
        return isinstance(self.stage, Closed)

    def fault(self, error: Exception) -> None:
        """End the run because of a bug in this program. The instruments may be its cause, so they get no event."""
        self._fail(f"moe-watch itself failed: {type(error).__name__}: {error}", derive=False)

    def _fail(self, message: str, *, derive: bool = True) -> None:
        """Record that the run cannot continue, and close the file."""
        stage = self.stage
        if isinstance(stage, FailedRun | Closed):
            return
        if not self._has_run:
            self.fatal_error = UserError(message)
        run = run_of(stage)
        error = State(state="error", i=0 if run is None else run.tokens, t=self._seconds(), message=message)
        try:
            self._emit(error, derive=derive)
            self.recording.end()
        finally:
            self.stage = FailedRun()
        if isinstance(stage, Ending):
            self._shut()

    # Messages of the worker

    def _receive(self, message: Message) -> None:
        match message:
            case Ready():
                self.worker.warnings = message.warnings
                self._vitals.model_memory = None
                beginning = self._new_beginning()
                self._begin(beginning, message)
                self._send_start(beginning)
            case Batch():
                for item in message.items:
                    self._take(item)
            case PromptShown() if self._previews:
                self._previews.popleft().answer = message
            case protocol.Failed(fatal=True):
                self.worker.log = message.log
                self._fail(message.message)
            case protocol.Failed():
                self._refuse(message)

    def _take(self, item: BatchItem) -> None:
        if isinstance(item, Progress):
            self._stream.append(item)
            return
        if isinstance(item, MemoryCounters):
            self._vitals.model_memory = item.memory
            return
        run = run_of(self.stage)
        if run is None:  # from a worker that was replaced
            return
        match item:
            case Branch():
                self._emit(fork_event(item, run.instruments))
            case State():
                self._follow(item, run)
            case _:
                self._emit(item)
        if isinstance(item, Token):
            run.tokens = item.i + 1
            self._has_run, self.fatal_error = True, None

    def _follow(self, state: State, run: CurrentRun) -> None:
        """Emit a state of the worker, and change the stage with it."""
        self._guard.follow(state)
        if state.state in ("paused", "resumed"):
            self._proceed(Paused(run) if state.state == "paused" else Streaming(run))  # before the state is visible
        self._emit(state)
        if state.state in ("finished", "error"):
            began = state.state == "finished" or run.tokens > 0
            if not began:
                self._discard(state.message or "the run could not begin")
            self._after_run(Finished(run) if began else Void(run))

    def _proceed(self, stage: Streaming | Paused) -> None:
        self.stage = replace(self.stage, before=stage) if isinstance(self.stage, Ending) else stage

    def _discard(self, message: str) -> None:
        """Remove the file of a run without a token, so that its name is free for another run."""
        self.recording.discard()
        if not self._has_run:
            self.fatal_error = UserError(message)

    def _refuse(self, refused: protocol.Failed) -> None:
        """Record a refused command at the token where it would have taken effect."""
        starts = refused.command == "start"
        if starts and self._following:
            self._following.popleft()
        if (run := self._noted_run) is not None:
            why = whole_text(refused.message)
            self._emit(Refused(i=run.tokens, t=self._seconds(), command=refused.command, why=why))
        before = self.stage.before if isinstance(self.stage, Ending) else self.stage
        if isinstance(before, Resuming) and not starts:
            self._after_run(Finished(before.run))

    def _after_run(self, idle: Idle) -> None:
        """The worker is idle: close, begin the next run, or wait."""
        if isinstance(self.stage, Ending):
            self._shut()
        elif self._following:
            self._begin(self._following.popleft(), idle.run.ready)
        else:
            self._vitals.put_off(self._around.clock())
            self.stage = idle

    # Progress of the run

    def _new_beginning(self) -> Beginning:
        spec = self._settings.spec
        seed = self._around.draw_seed() if spec.seed is None else spec.seed
        return Beginning(whole_text(self._prompt), spec.sampler.seeded(seed))

    def _send_start(self, beginning: Beginning) -> None:
        self.send(self._settings.start(beginning.prompt, beginning.sampling.seed, self.rate))

    def _begin(self, beginning: Beginning, ready: Ready) -> None:
        """Begin a run in the stream; `_send_start` begins it in the worker."""
        around = self._around
        header = self._settings.header(beginning.prompt, beginning.sampling, ready, around.now())
        run = CurrentRun(header, Instruments(header), ready, around.clock())
        self._vitals.begin(run.began)
        self._guard = VitalsGuard(self._settings.control, attended=self._settings.attended)
        self.stage = Streaming(run)
        problem = self.recording.begin(header, run.instruments.keyframe, run.instruments.frozen)
        if problem is not None and self._settings.recording.is_required and not self._has_run:
            self._fail(str(problem))
            return
        self._stream.append(header)

    def _emit(self, event: Event, *, derive: bool = True) -> None:
        """Record an event and the events that the instruments derive from it, then add them to the stream.

        The file is first: if it cannot take the event, the next file begins with the present state of the instruments.
        """
        self.recording.append(event)
        derived = self._derived(event) if derive else []
        for each in derived:
            self.recording.append(each)
        self._stream.extend((event, *derived))

    def _derived(self, event: Event) -> list[Event]:
        run = run_of(self.stage)
        try:
            return [] if run is None else run.instruments.feed(event)
        except Exception:
            self.recording.take_back()  # a replay could not compute with it either
            raise

    def _read_vitals(self, now: float) -> None:
        """Show vitals; they are recorded until the run has finished."""
        vitals = self._vitals.read_due(now)
        if vitals is None:
            return
        if not isinstance(self.stage, UnderWay):
            self._stream.append(vitals)
            return
        self._emit(vitals)
        if (text := self._vitals.pressure_mark.feed(vitals)) is not None:
            self._emit(RunWarning(i=self.stage.run.tokens, t=vitals.t, text=text))
        if not isinstance(self.stage, Ending):
            self._guard_run(self.stage.run, vitals)

    def _guard_run(self, run: CurrentRun, vitals: Vitals) -> None:
        """Carry out the decisions of the guard."""
        for action in self._guard.feed(vitals):
            match action:
                case Notice(paused=True):
                    why = "temperature"
                    self._emit(State(state="paused", i=run.tokens, t=vitals.t, why=why, message=action.text))
                case Notice():
                    self._emit(RunWarning(i=run.tokens, t=vitals.t, text=action.text))
                case _:
                    self.send(action)

    def _shut(self) -> None:
        try:
            self.recording.end()
            self.worker.close()
        finally:
            self.stage = Closed()

    def _seconds(self) -> float:
        """Return the seconds since the run began; 0 before it."""
        run = run_of(self.stage)
        return 0.0 if run is None else round(self._around.clock() - run.began, 3)
