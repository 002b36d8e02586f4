"""A live run from the inside: what a worker sends becomes a stream of events, recorded before anybody sees it.

Everything here happens on one thread (see `moe_watch.sessions.live.serial_thread`), so that the order of events in the
file is the order in the stream. Other threads read a few attributes and take from the deque, nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from moe_watch.backends.protocol import (
    Batch,
    BatchItem,
    Branch,
    Command,
    Failed,
    Message,
    Perturb,
    Ready,
    SetRate,
    Stop,
)
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Event, Header, Marker, Progress, Refused, Sampling, State, StreamItem, Token
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.sessions.live.environment import Surroundings as Surroundings
from moe_watch.sessions.live.environment import Worker
from moe_watch.sessions.live.forks import fork_event
from moe_watch.sessions.live.settings import RunSettings
from moe_watch.sessions.recording.recording import Recording
from moe_watch.sessions.text import whole_text
from moe_watch.vitals.sampler import VitalsSampler

Stage = Literal["loading", "running", "finished", "failed", "closed"]
"""`finished`: the model waits for more. `failed`: there is no model."""

VITALS_SECONDS = 1.0
STOP_SECONDS = 3.0
"""How long to wait for a worker to confirm the end of a run before it is recorded without."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a run is to begin with."""

    prompt: str
    sampling: Sampling


class LiveRun:
    """One worker and the runs it makes, one after the other.

    Args:
        settings: what was asked for.
        around: clocks, folders, and how to make a worker.
        stream: where the items go, in order.
        post: has something done on this run's thread.
    """

    def __init__(
        self,
        settings: RunSettings,
        around: Surroundings,
        stream: deque[StreamItem],
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self.stage: Stage = "loading"
        self.void = False
        """The last run could not begin, so that there is none that anything could be done to."""
        self.ready: Ready | None = None
        self.paused = False
        self.rate = settings.rate
        self.fatal_error: UserError | None = None
        """Why no run could begin, until one does."""
        self.worker_log: list[str] = []
        """The last lines of the log of a worker that failed."""
        self.recording = Recording(
            wanted=settings.record,
            output=settings.output,
            force=settings.force,
            folder=around.folder,
            stream=around.stream,
            clock=around.clock,
            today=lambda: around.now().date(),
        )
        self._settings = settings
        self._prompt = settings.prompt
        """Of the run, or of the one that was asked for last."""
        self._around = around
        self._stream = stream
        self._post = post
        self._worker: Worker | None = None
        self._header: Header | None = None
        self._instruments: Instruments | None = None
        self._tokens = 0
        self._has_run = False
        self._resuming = False
        """A finished run was asked to go on, and the worker has not answered yet."""
        self._began = 0.0
        self._vitals = VitalsSampler(self._seconds, self._worker_pid, around.providers)
        self._vitals_due = 0.0
        self._following: deque[Beginning] = deque()
        """Runs that the worker was told to begin, and has not answered about; the first of them ends this one."""
        self._stop_by: float | None = None

    # What the person asks for

    def check(self) -> None:
        """Refuse what could only fail later.

        Raises:
            UserError: what it is, and what to do.
        """
        self._settings.load()
        self.recording.check()

    def load(self) -> None:
        """Start a worker and have it load the model; its `Ready` begins the run."""
        self.stage = "loading"
        self._header, self._instruments, self._tokens = None, None, 0
        self._worker = self._around.worker(lambda message: self._post(lambda: self._receive(message)))
        self._worker.send(self._settings.load())

    def restart(self) -> None:
        """A new worker in place of one that died."""
        if self.stage == "failed":
            self._close_worker()
            self.load()

    def send(self, command: Command) -> None:
        """Pass a command on, if there is a model to take it."""
        if self._worker is None or self.stage not in ("running", "finished"):
            return
        if self.stage == "finished" and isinstance(command, Perturb):
            if self.void:
                return
            self.stage, self._resuming = "running", True
        self._worker.send(command)

    def set_rate(self, rate: float) -> None:
        """Tokens per second at most, from now on and in later runs."""
        self.rate = rate
        self.send(SetRate(rate))

    def begin_next(self, prompt: str) -> None:
        """End this run, and begin another one with this prompt; a prompt that cannot be one leaves this run alone."""
        if self.stage not in ("running", "finished"):
            return
        self._prompt = prompt
        beginning = self._new_beginning()
        if self.stage == "running":
            self._following.append(beginning)
        else:
            self._begin(beginning)
        self._send_start(beginning)

    def mark(self, note: str) -> None:
        """Put a note into the stream."""
        if self._takes_notes:
            self._emit(Marker(i=self._tokens, t=self._seconds(), note=whole_text(note)))

    @property
    def _takes_notes(self) -> bool:
        """There is a run that something can be noted in."""
        return self.stage in ("running", "finished") and not self.void

    def set_recording(self, on: bool) -> None:
        """Close the file, or begin one that can be computed from although it begins in the middle of the run."""
        self.recording.wanted = on
        if not on:
            self.recording.end()
        elif self.recording.waiting:
            self.recording.retry()
        elif self.stage in ("running", "finished") and not (self.void or self.recording.active):
            assert self._header is not None
            assert self._instruments is not None
            instruments = self._instruments
            self.recording.begin(self._header, instruments.keyframe, instruments.frozen, under_way=True)

    def close(self) -> None:
        """End the run, and everything, once the worker has confirmed its end."""
        self._following.clear()
        if self.stage == "running":
            self._stop_by = self._around.clock() + STOP_SECONDS
            self.send(Stop())
        else:
            self._shut()

    def tick(self) -> bool:
        """Do what is due; True when everything has ended."""
        now = self._around.clock()
        if self._stop_by is not None and now >= self._stop_by and self.stage == "running":
            self._emit(State(state="finished", i=self._tokens, t=self._seconds(), why="user"))
            self._shut()
        if self.stage in ("running", "finished") and now >= self._vitals_due:
            self._read_vitals(now)
        self.recording.tick()
        if self.recording.broken_off and self._stop_by is None:
            self.close()
        return self.stage == "closed"

    def fault(self, error: Exception) -> None:
        """End the run because of an error of ours, which may well lie in the instruments."""
        self._instruments = None
        self.fail(f"moe-watch itself failed: {type(error).__name__}: {error}")

    def fail(self, message: str) -> None:
        """The run cannot go on: say so in the stream, and close the file."""
        if self.stage in ("failed", "closed"):
            return
        if not self._has_run:
            self.fatal_error = UserError(message)
        try:
            self._emit(State(state="error", i=self._tokens, t=self._seconds(), message=message))
            self.recording.end()
        finally:
            self.stage = "failed"
        if self._stop_by is not None:
            self._shut()

    # What the worker tells

    def _receive(self, message: Message) -> None:
        match message:
            case Ready():
                self.ready = message
                beginning = self._new_beginning()
                self._begin(beginning)
                self._send_start(beginning)
            case Batch():
                for item in message.items:
                    self._take(item)
            case Failed(fatal=True):
                self.worker_log = message.log
                self.fail(message.message)
            case Failed():
                self._refuse(message)

    def _take(self, item: BatchItem) -> None:
        if isinstance(item, Progress):
            self._stream.append(item)
            return
        if isinstance(item, Branch):
            assert self._instruments is not None
            self._emit(fork_event(item, self._instruments))
            return
        if isinstance(item, State):
            self.paused = item.state == "paused"  # before anybody sees it
        self._emit(item)
        if isinstance(item, Token):
            self._tokens = item.i + 1
            self._has_run, self.fatal_error = True, None
        elif isinstance(item, State):
            self._follow(item)

    def _follow(self, state: State) -> None:
        """Go where the worker says it is."""
        if state.state in ("paused", "resumed"):
            self.stage, self._resuming = "running", False
        elif state.state in ("finished", "error"):
            if state.state == "error" and not self._tokens:
                self._never_began(state.message or "the run could not begin")
            self._after_run()

    def _never_began(self, message: str) -> None:
        """Leave no file behind that holds no token, so that its name is free for another try."""
        self.void = True
        self.recording.discard()
        if not self._has_run:
            self.fatal_error = UserError(message)

    def _refuse(self, failed: Failed) -> None:
        """Note a command that was not carried out where it would have taken effect."""
        starts = failed.command == "start"
        if starts and self._following:
            self._following.popleft()
        if self._takes_notes:
            why = whole_text(failed.message)
            self._emit(Refused(i=self._tokens, t=self._seconds(), command=failed.command, why=why))
        if self._resuming and not starts:
            self._after_run()

    def _after_run(self) -> None:
        """The worker is idle: do what waited for that."""
        self.paused = self._resuming = False
        if self._stop_by is not None:
            self._shut()
        elif self._following:
            self._begin(self._following.popleft())
        else:
            self._vitals_due = self._around.clock() + VITALS_SECONDS
            self.stage = "finished"

    # The course of things

    def _new_beginning(self) -> Beginning:
        seed = self._settings.seed
        sampling = self._settings.sampling(self._around.draw_seed() if seed is None else seed)
        return Beginning(whole_text(self._prompt), sampling)

    def _send_start(self, beginning: Beginning) -> None:
        self.send(self._settings.start(beginning.prompt, beginning.sampling, self.rate))

    def _begin(self, beginning: Beginning) -> None:
        """Begin a run in the stream; the worker is told by `_send_start`."""
        assert self.ready is not None
        around = self._around
        header = self._settings.header(beginning.prompt, beginning.sampling, self.ready, around.now())
        self._header, self._instruments, self._tokens = header, Instruments(header), 0
        self._began = self._vitals_due = around.clock()
        self.stage, self.paused, self.void = "running", False, False
        problem = self.recording.begin(header, self._instruments.keyframe, self._instruments.frozen)
        if problem is not None and self._settings.needs_recording and not self._has_run:
            self.fail(str(problem))
            return
        self._stream.append(header)

    def _emit(self, event: Event) -> None:
        """Put an event and what the instruments derive from it into the file, and then into the stream.

        Into the file first: where it cannot take the event, the next file begins with the instruments as they are.
        """
        self.recording.append(event)
        derived = self._feed(event)
        for each in derived:
            self.recording.append(each)
        self._stream.extend((event, *derived))

    def _feed(self, event: Event) -> list[Event]:
        try:
            return [] if self._instruments is None else self._instruments.feed(event)
        except Exception:
            self.recording.take_back()  # a replay could not compute with it either
            raise

    def _read_vitals(self, now: float) -> None:
        """Show how the machine is; it is part of the run, and recorded, until that has finished."""
        self._vitals_due = now + VITALS_SECONDS
        vitals = self._vitals.read()
        if self.stage == "running":
            self._emit(vitals)
        else:
            self._stream.append(vitals)

    def _shut(self) -> None:
        try:
            self.recording.end()
            self._close_worker()
        finally:
            self.stage = "closed"

    def _close_worker(self) -> None:
        if self._worker is not None:
            self._worker.close()

    def _worker_pid(self) -> int | None:
        return None if self._worker is None else self._worker.pid

    def _seconds(self) -> float:
        """Since the run began; 0 before it did."""
        return 0.0 if self._header is None else round(self._around.clock() - self._began, 3)
