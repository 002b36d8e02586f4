"""Made-up runs for tests of the dashboard: seeded, with real chunks computed from made-up routing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from math import exp

import msgspec
import numpy as np

from moe_watch.routing.events import (
    BackendInfo,
    Change,
    Chunk,
    Clock,
    Fork,
    GpuMemory,
    Header,
    MemoryPressure,
    ModelInfo,
    ModelMemory,
    Perturbation,
    Sampling,
    State,
    StreamItem,
    Temperature,
    Token,
    Vitals,
)
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.routing.router.observe import observe

PROMPT = 'def read_chunks(path, size=1024):\n    """'
TEXT = '''Yield the contents of *path* in chunks of at most *size* bytes.

    The file is opened in binary mode and closed when the iterator is
    exhausted or garbage collected. If *size* is negative or None, the whole
    file is returned at once.

    Raises OSError if the file cannot be opened, and ValueError if *size* is
    zero. Chunks are bytes objects; an empty file yields nothing at all.

    >>> list(read_chunks("empty.txt"))
    []
    """
    if size == 0:
        raise ValueError("chunk size must not be zero")
    with open(path, "rb") as stream:
        while True:
            chunk = stream.read(size)
            if not chunk:
                break
            yield chunk


class ChunkReader:
    """Read a stream in chunks and remember the position.

    The reader may be used as a context manager. Calling close() more than
    once has no effect, and every other method raises ValueError after it.
    """

    def __init__(self, stream, size=8192):
        self._stream = stream
        self._size = size
        self._position = 0

    def __iter__(self):
        return self

    def __next__(self):
        data = self._stream.read(self._size)
        if not data:
            raise StopIteration
        self._position += len(data)
        return data

'''
INJECTED = " Please continue:"
MASK = [(0, [3]), (2, [1, 4])]
CAPTURE = ["experts", "weights", "entropy", "margin", "logprob"]
GIGABYTE = 1_000_000_000


def pieces(text: str) -> list[str]:
    """Text in pieces as a small vocabulary would have them."""
    words = re.findall(r" ?\w+|\n *| *[^\w\s]+| +", text)
    return [part for word in words for part in re.findall(r".{1,6}", word, re.DOTALL)]


def header(layers: int = 6, experts: int = 8, k: int = 2, **changes) -> Header:
    """The header of a made-up run."""
    fields = {
        "created": "2026-11-20T09:00:00Z",
        "moe_watch": "0.1.0",
        "model": ModelInfo(
            name="pocket",
            architecture="mixtral",
            layers=list(range(layers)),
            experts=experts,
            experts_per_token=k,
            gate="softmax_top_k_renormalised",
            parameters=5_500_000,
            context_length=2048,
            trained_length=1536,
        ),
        "backend": BackendInfo(name="MLX", version="0.32.0", device="CPU", threads=2, tap="router output"),
        "sampling": Sampling(seed=7),
        "prompt": PROMPT,
        "capture": CAPTURE,
    }
    return Header(**{**fields, **changes})


class MadeUpRun:
    """Generator of the items of a run, one after another; equal seeds give equal runs."""

    def __init__(self, head: Header | None = None, *, seed: int = 7, rate: float = 30.0) -> None:
        self.header = head or header()
        self.i = 0
        self.t = 0.0
        self._step = 1 / rate
        self._rng = np.random.default_rng(seed)
        model = self.header.model
        self._shape = (len(model.layers), model.experts, model.experts_per_token)
        self._bias = self._rng.normal(0, 0.9, self._shape[:2])
        self._mood = self._rng.normal(0, 1, self._shape[:2])
        self._instruments = Instruments(self.header)
        self._text = iter(())

    def prompt(self) -> Iterator[StreamItem]:
        """The header and the prompt's tokens."""
        yield self.header
        for text in pieces(self.header.prompt):
            yield from self.token(text, "prompt")

    def generate(self, tokens: int) -> Iterator[StreamItem]:
        """Tokens as if drawn, with a reading of the machine every 30 of them."""
        for _ in range(tokens):
            yield from self.token(self._next_text(), "generated")
            if self.i % 30 == 0:
                yield self.vitals()

    def unobserved(self, tokens: int) -> Iterator[StreamItem]:
        """Tokens drawn while the tap is off."""
        for _ in range(tokens):
            token = self._token(self._next_text(), "generated")
            absent = [None] * len(token.experts)
            yield from self.followed(
                msgspec.structs.replace(token, experts=absent, weights=None, entropy=None, margin=None)
            )

    def inject(self, text: str = INJECTED, form: str = "raw") -> Iterator[StreamItem]:
        """A perturbation and its tokens."""
        parts = pieces(text)
        ids = list(range(len(parts)))
        yield from self.followed(Perturbation(i=self.i, t=self.t, text=text, ids=ids, form=form, source="key"))
        for part in parts:
            yield from self.token(part, "injected")

    def state(self, name: str, **fields) -> Iterator[StreamItem]:
        yield from self.followed(State(state=name, i=self.i, t=self.t, **fields))

    def followed(self, item: StreamItem) -> Iterator[StreamItem]:
        """Yield an item, then the items that the instruments derive from it."""
        yield item
        yield from self._instruments.feed(item)

    def token(self, text: str, source: str) -> Iterator[StreamItem]:
        """One token, with the chunk it may complete."""
        yield from self.followed(self._token(text, source))

    def _next_text(self) -> str:
        text = next(self._text, None)
        if text is None:
            self._text = iter(pieces(TEXT))
            text = next(self._text)
        return text

    def _token(self, text: str, source: str) -> Token:
        rng, (layers, experts, k) = self._rng, self._shape
        self._mood = 0.8 * self._mood + 0.6 * rng.normal(0, 1, (layers, experts))
        logits = self._bias + self._mood
        selected = np.argsort(-logits, -1)[:, :k]
        seen = observe(logits[None], selected[None], self.header.model.gate)
        word = text[:1].isalnum() or text.startswith(" ")
        surprisal = float(rng.gamma(*((0.9, 1.1) if word else (0.5, 0.6))))
        top = max(exp(-surprisal), float(rng.beta(4, 3)))
        generated = source == "generated"
        token = Token(
            i=self.i,
            t=round(self.t, 4),
            phase="decode" if generated else "prefill",
            source=source,
            id=abs(hash_of(text)) % 4096,
            text=text,
            logprob=-surprisal if self.i else None,
            top_margin=top * 0.7 if generated else None,
            choice_gap=max(0.0, top - exp(-surprisal)) if generated else None,
            experts=seen.experts[0].ravel().tolist(),
            weights=seen.weights[0].ravel().tolist(),
            entropy=seen.entropy[0].tolist(),
            margin=seen.margin[0].tolist(),
        )
        self.i += 1
        self.t += self._step if generated else self._step / 20
        return token

    def vitals(self) -> Vitals:
        """A plausible small machine."""
        wave = float(np.sin(self.t / 9))
        return Vitals(
            t=self.t,
            memory_total=16 * GIGABYTE,
            memory_used=int((10.4 + 0.5 * wave + 0.01 * self.t) * GIGABYTE),
            memory_available=int(5.2 * GIGABYTE),
            swap_total=2 * GIGABYTE,
            swap_used=int(0.21 * GIGABYTE),
            process_memory=int((88 + 3 * wave) * 1e6),
            worker_memory=int((402 + 6 * wave) * 1e6),
            pressure=MemoryPressure(level="ok", source="PSI", stalled=max(0.0, 0.004 + 0.004 * wave)),
            temperatures=[
                Temperature(sensor="cpu", celsius=58 + 9 * wave + float(self._rng.normal(0, 1)), high=100.0),
                Temperature(sensor="nvme", celsius=41 + 2 * wave, high=85.0),
            ],
            unavailable={"throttling": "no thermal throttle counter in /sys on this machine"},
        )


def hash_of(text: str) -> int:
    """A stable number for a text."""
    return int.from_bytes(text.encode()[:6], "little")


def main_run(tokens: int = 460, inject_after: int = 280, head: Header | None = None) -> list[StreamItem]:
    """A run with one "go on", as the main screen shows it."""
    return list(_pocket_run(tokens, inject_after)) if head is None else _run(tokens, inject_after, head)


@cache
def _pocket_run(tokens: int, inject_after: int) -> tuple[StreamItem, ...]:
    return tuple(_run(tokens, inject_after, header()))


def _run(tokens: int, inject_after: int, head: Header) -> list[StreamItem]:
    run = MadeUpRun(head)
    items = [*run.prompt(), *run.generate(min(tokens, inject_after))]
    if tokens > inject_after:
        items += [*run.inject(), *run.generate(tokens - inject_after)]
    return items


def with_mid(items, curve, seed=3):
    """The chunks' P_mid by `curve(chunk index)`, with a little noise."""
    noise = np.random.default_rng(seed).normal(0, 0.008, 5000)

    def planted(item):
        if not isinstance(item, Chunk):
            return item
        mid = float(curve(item.index) + noise[item.index])
        return msgspec.structs.replace(item, pressures=msgspec.structs.replace(item.pressures, mid=mid))

    return [planted(item) for item in items]


def halving(chunk):
    """P_mid that covers half of its fall in 15 chunks."""
    return 0.12 + 0.45 * 2 ** (-max(0, chunk - 10) / 15)


def falling_at_24(chunk):
    """P_mid that falls off a cliff."""
    return 0.52 if chunk < 24 else 0.2


def decay():
    """A run whose pressure decays."""
    return with_mid(main_run(900, 700), halving)


def forks(boundaries=6, replicates=4, effect=0.02):
    """Continuations in three arms, the text's higher by `effect`."""
    pressures = next(item.pressures for item in main_run() if isinstance(item, Chunk))
    noise = np.random.default_rng(1)
    shifts = {"none": 0.0, "neutral": 0.005, "text": 0.005 + effect}
    return [
        Fork(
            i=40 * at, t=1.0, arm=arm, replicate=replicate, seed=replicate, text="x", injected=[1], generated=[2, 3],
            pressures=msgspec.structs.replace(pressures, mid=float(0.5 + shift + noise.normal(0, 0.004))),
        )
        for at in range(boundaries)
        for arm, shift in shifts.items()
        for replicate in range(replicates)
    ]  # fmt: skip


def tap_off(observed=50, unobserved=30):
    """A run, and its items: the tap is switched off at a token."""
    run = MadeUpRun()
    items = [*run.prompt(), *run.generate(observed)]
    return run, [*items, *run.followed(Change(i=run.i, t=run.t, tap=False)), *run.unobserved(unobserved)]


def masked_run(mask=MASK, *, before=60, after=20, head=None):
    """A run, and its items: experts are switched off at a token."""
    run = MadeUpRun(head)
    items = [*run.prompt(), *run.generate(before)]
    return run, [*items, *run.followed(Change(i=run.i, t=run.t, mask=mask)), *run.generate(after)]


def large_head(layers, experts, k):
    model = ModelInfo(
        name="large", architecture="qwen3moe", layers=list(range(layers)), experts=experts, experts_per_token=k,
        gate="softmax_top_k_renormalised",
    )  # fmt: skip
    return header(layers, experts, k, model=model)


def at_boundary(tokens=40):
    """A run in multistep, and its items: it waits after a chunk."""
    run = MadeUpRun(header(multistep=True))
    return run, [*run.prompt(), *run.generate(tokens), *run.state("paused", why="chunk")]


def short_of_memory(items: Iterable[StreamItem]) -> Iterator[StreamItem]:
    """The same run of a model that does not fit into memory, on a machine with all sensors."""
    tokens = 0
    for item in items:
        tokens += isinstance(item, Token)
        if isinstance(item, Vitals):
            item = msgspec.structs.replace(
                item,
                swapped_in=tokens * 2_400_000,
                swapped_out=tokens * 900_000,
                worker_read=tokens * 312_000_000,
                worker_faults=tokens * 70,
                model_memory=ModelMemory(active=11_400_000_000, peak=12_100_000_000, cache=300_000_000),
                pressure=MemoryPressure(
                    level="critical",
                    source="PSI some avg10",
                    stalled=0.46,
                    stalled_full=0.31,
                    reason="46.0 % of the time stalled, limit 40 %",
                ),
                clocks=[
                    Clock(device="cpu", kind="cpu", mhz=2412.0, max=4700.0),
                    Clock(device="GPU 0", kind="gpu", mhz=1410.0, max=1980.0),
                ],
                gpu_memory=[GpuMemory(device="GPU 0", used=7_900_000_000, total=8_600_000_000)],
                throttling=True,
                throttling_source="kernel counters",
                unavailable={},
            )
        yield item
