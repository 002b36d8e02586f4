"""Shared parts of the tests of sessions: a clock, a way to wait, made-up events, and a worker that follows a script."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count, islice
from math import log
from pathlib import Path

import numpy as np

from moe_watch.backends.protocol import (
    Batch,
    Command,
    Failed,
    Load,
    Message,
    Pause,
    Perturb,
    Ready,
    Resume,
    Start,
    Stop,
)
from moe_watch.routing.events import (
    BackendInfo,
    Header,
    ModelInfo,
    Perturbation,
    Progress,
    Sampling,
    State,
    StreamItem,
    Token,
    TokenSource,
)
from moe_watch.sessions.live.environment import Surroundings
from moe_watch.sessions.replaying.source import ReplaySource
from moe_watch.sessions.source import Source
from tests.processes import wait_until

LAYERS, EXPERTS, K = 3, 5, 2
NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)

MODEL = ModelInfo(
    name="made/up model", architecture="mixtral", layers=[1, 2, 4], experts=EXPERTS, experts_per_token=K, gate="any"
)
BACKEND = BackendInfo(name="script", version="1", device="none", tap="none")
CAPTURE = ["experts", "weights", "entropy", "margin", "logprob"]
HEADER = Header(
    created="2026-11-20T09:00:00Z",
    moe_watch="0",
    model=MODEL,
    backend=BACKEND,
    sampling=Sampling(seed=7),
    prompt="def",
    chunk_size=4,
    capture=CAPTURE,
)


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def make_token(i: int, source: TokenSource = "generated") -> Token:
    """A token whose routing depends on its index only."""
    rng = np.random.default_rng(i)
    weights = rng.integers(1, 9999, LAYERS)
    top_margin = round(float(rng.random()), 4)
    return Token(
        i=i,
        t=round(0.05 * i, 3),
        phase="decode" if source == "generated" else "prefill",
        source=source,
        id=i,
        text=f" t{i}",
        logprob=round(log((1 + top_margin) / 2), 4),  # of two tokens, of which it is the likelier one
        top_margin=top_margin,
        choice_gap=0.0,
        experts=[int(e) for _ in range(LAYERS) for e in rng.choice(EXPERTS, K, replace=False)],
        weights=[int(w) for weight in weights for w in (weight, 10000 - weight)],
        entropy=rng.integers(0, 10000, LAYERS).tolist(),
        margin=rng.integers(0, 10000, LAYERS).tolist(),
    )


def tokens(number: int, first: int = 0) -> Iterator[Token]:
    """Generated tokens in a row."""
    return islice(map(make_token, count(first)), number)


class Drained:
    """Everything a source gave so far."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.items: list[StreamItem] = []

    def of(self, kind: type) -> list:
        """All items of a kind, after another look at the source."""
        self.items += self.source.drain()
        return [item for item in self.items if isinstance(item, kind)]

    def wait_for(self, kind: type, number: int = 1) -> list:
        """Wait until so many items of a kind came."""
        wait_until(lambda: len(self.of(kind)) >= number, f"{number} × {kind.__name__}")
        return self.of(kind)

    def wait_for_state(self, state: str) -> State:
        wait_until(lambda: any(each.state == state for each in self.of(State)), f"state {state}")
        return next(each for each in reversed(self.of(State)) if each.state == state)

    def wait_for_end(self) -> list[StreamItem]:
        """Wait until the source has ended, and return all that came without `Progress`."""
        wait_until(lambda: self.of(State) and self.source.ended, "the end")
        return self.recorded

    @property
    def recorded(self) -> list[StreamItem]:
        return [item for item in self.items if not isinstance(item, Progress)]


class ScriptedWorker:
    """Answers commands at once, as a worker would: `Load` with `Ready`, `Start` with the prompt's two tokens."""

    ready: Message = Ready(model=MODEL, backend=BACKEND, template="chat", capture=CAPTURE)
    confirms_stop = True

    def __init__(self, on_message: Callable[[Message], None]) -> None:
        self.pid = 1 << 30
        self.commands: list[Command] = []
        self.closed = False
        self._on_message = on_message
        self._i = 0
        self._running = False

    def send(self, command: Command) -> None:
        self.commands.append(command)
        match command:
            case Load():
                self.say(Progress(stage="loading", done=1, total=2, unit="bytes"))
                self._on_message(self.ready)
            case Start():
                if self._running:
                    self.finish("user")
                self._i, self._running = 0, True
                self.say(self._next("prompt"), self._next("prompt"))
            case Pause() | Resume():
                state = "paused" if isinstance(command, Pause) else "resumed"
                self.state(state, why=command.why, message=command.message)
            case Perturb():
                self.perturb(command)
            case Stop() if self._running and self.confirms_stop:
                self.finish("user")

    def close(self) -> None:
        self.closed = True

    def say(self, *items: Token | Perturbation | State | Progress) -> None:
        self._on_message(Batch(list(items)))

    def generate(self, number: int) -> None:
        self.say(*[self._next("generated") for _ in range(number)])

    def perturb(self, command: Perturb) -> None:
        injected = Perturbation(
            i=self._i, t=self._seconds(), text=command.text, ids=[1], form=command.form, source=command.source
        )
        self.say(injected, self._next("injected"))

    def state(self, state: str, *, why: str | None = None, message: str | None = None) -> None:
        self.say(State(state=state, i=self._i, t=self._seconds(), why=why, message=message))

    def finish(self, why: str) -> None:
        self._running = False
        self.state("finished", why=why)

    def turn_down(self, message: str) -> None:
        """Refuse a `Start`: a run that is going on goes on."""
        if self._running:
            self._on_message(Failed(message=message, fatal=False, command="start"))
        else:
            self.state("error", message=message)

    def refuse(self, message: str) -> None:
        self._on_message(Failed(message=message, fatal=False, command="inject"))

    def die(self, message: str) -> None:
        self._on_message(Failed(message=message, log=["last words"]))

    def _next(self, source: TokenSource) -> Token:
        self._i += 1
        return make_token(self._i - 1, source)

    def _seconds(self) -> float:
        return round(0.05 * self._i, 3)


class EndlessWorker(ScriptedWorker):
    """Generates until it is stopped."""

    def send(self, command: Command) -> None:
        super().send(command)
        if isinstance(command, Start):
            threading.Thread(target=self._generate, daemon=True).start()

    def _generate(self) -> None:
        while self._running:
            self.generate(1)
            time.sleep(0.001)


class Stage:
    """Surroundings for a live run: a manual clock, a folder of its own, no vitals; remembers the workers it made."""

    def __init__(self, folder, worker=ScriptedWorker, stream=None) -> None:
        self.clock = ManualClock()
        self.workers: list[ScriptedWorker] = []
        self.around = Surroundings(
            worker=self._make(worker),
            clock=self.clock,
            now=lambda: NOW,
            draw_seed=count(7).__next__,
            folder=folder,
            providers=[],
            stream=stream,
        )

    def _make(self, kind):
        def make(on_message):
            self.workers.append(kind(on_message))
            return self.workers[-1]

        return make

    @property
    def worker(self) -> ScriptedWorker:
        return self.workers[-1]


class Picky(ScriptedWorker):
    """Takes no prompt of more than five characters."""

    def send(self, command):
        if isinstance(command, Start) and len(command.spec.prompt) > 5:
            self.turn_down("the prompt has 2,000 tokens")
        else:
            super().send(command)


class Hesitating(ScriptedWorker):
    """Never gets to its first token."""

    def send(self, command):
        if isinstance(command, Start):
            self._running = True
        else:
            super().send(command)


def replayed(path):
    source = ReplaySource(path, ManualClock(), speed=0)
    source.start()
    items = []
    while not source.ended:
        items += source.drain()
    said = {warning for item in items if isinstance(item, Header) for warning in item.warnings}
    assert [warning for warning in source.warnings if warning not in said and "read alone" not in warning] == []
    assert source.fatal_error is None
    return items


def path_of(source):
    return Path(source.recording.path)


def files(folder):
    return sorted(path.name for path in folder.iterdir())
