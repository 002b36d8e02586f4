"""Perplexity of a model on a text: its windows, and the surprisal of their scored tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import monotonic

import numpy as np
from msgspec.structs import replace

from moe_watch.backends.protocol import EngineOptions, Ready
from moe_watch.backends.scoring_messages import Score
from moe_watch.backends.system.regular_files import read_regular
from moe_watch.routing.arrays import Floats
from moe_watch.routing.errors import UserError, system_error
from moe_watch.routing.events import Progress
from moe_watch.routing.router.masks import ExpertMask
from moe_watch.routing.stats.perplexity import FEWEST_WINDOWS, SHORTEST_WINDOW, first_scored
from moe_watch.sessions.live.settings import RunSettings
from moe_watch.sessions.live.shared_worker import KeptWorker
from moe_watch.sessions.text import plural

WINDOW = 512
"""Tokens of a window, llama.cpp's default."""


@dataclass(frozen=True, slots=True, eq=False)
class TextWindows:
    """Windows of a text as one model's tokenizer divides it."""

    ids: list[list[int]]
    """Tokens of each window, before the first one is replaced."""
    begin: int | None
    """Token that replaces the first one of every window; None if the vocabulary has none."""
    tokens: int
    """Tokens of the whole text."""


def text_windows(worker: KeptWorker, text: str, window: int, most: int | None = None) -> TextWindows:
    """Tokenize a text and divide it into whole windows, as llama.cpp's perplexity tool does.

    Args:
        worker: a worker with a loaded model.
        text: the text; its last newline is left out.
        window: tokens of a window.
        most: largest number of windows; None for all.

    Raises:
        UserError: the text has fewer than two windows.
    """
    answer = worker.tokenize([text.removesuffix("\n")], plain=True)
    (ids,) = answer.ids
    whole = len(ids) // window
    if whole < FEWEST_WINDOWS:
        raise UserError(
            f"the text has {plural(len(ids), 'token')}, fewer than {FEWEST_WINDOWS} windows of {window:,}",
            advice="give a longer text, or a smaller --context",
        )
    windows = [ids[at * window : (at + 1) * window] for at in range(whole)]
    return TextWindows(windows[:most], answer.begin, len(ids))


def score_windows(
    worker: KeptWorker, text: TextWindows, mask: ExpertMask, done: Callable[[int], None]
) -> Sequence[Floats]:
    """Return the surprisal of the scored tokens of each window, in nats.

    Args:
        worker: a worker with a loaded model.
        text: the windows.
        mask: experts that are off.
        done: called with the number of windows that are scored, after each.

    Raises:
        UserError: the model cannot evaluate a window, refuses the mask, or predicts no numbers.
    """
    found = []
    for at, ids in enumerate(text.ids):
        given = ids if text.begin is None else [text.begin, *ids[1:]]
        (scored,) = worker.score(Score(ids=given, window=len(ids), base=mask.rows))
        surprisal = np.frombuffer(scored.surprisal, "<f8")[first_scored(len(ids)) - 1 :]
        if not np.isfinite(surprisal).all():
            raise UserError(
                f"the model's predictions in window {at} are not numbers",
                advice="try another file of the model, or another precision",
            )
        found.append(surprisal)
        done(at + 1)
    return found


@dataclass(frozen=True, slots=True)
class TextToScore:
    """Text file, and its division into windows."""

    name: str
    text: str
    sha256: str
    window: int
    """Tokens of a window."""
    most: int | None
    """Largest number of windows; None for all."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelScore:
    """Text as one model scores it."""

    ready: Ready
    mask: ExpertMask
    windows: TextWindows
    surprisals: Sequence[Floats]
    """Surprisal of the scored tokens of each window, in nats."""


def read_text(path: Path, window: int | None, most: int | None) -> TextToScore:
    """Read a text file.

    Args:
        path: the file, in UTF-8.
        window: tokens of a window; None for the default.
        most: largest number of windows; None for all.

    Raises:
        UserError: the file cannot be read, or a window is too short.
    """
    length = WINDOW if window is None else window
    if length < SHORTEST_WINDOW:
        raise UserError(f"--context is {length}", advice=f"use at least {SHORTEST_WINDOW} tokens")
    try:
        content = read_regular(path)
    except OSError as error:
        raise system_error(path, error, advice="give a text file") from error
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start})", advice="give a text file") from error
    return TextToScore(path.name, text, sha256(content).hexdigest(), length, most)


def score_text(
    model: str,
    backend: str,
    options: EngineOptions,
    text: TextToScore,
    mask: ExpertMask,
    *,
    loading: Callable[[Progress], None],
    scored: Callable[[int, int], None],
    estimated: Callable[[float], None],
) -> ModelScore:
    """Load a model in a worker, and score a text with it.

    Args:
        model: name or path of the model.
        backend: engine, or `auto`.
        options: options of the engine; the context is a window.
        text: the text.
        mask: experts that are off.
        loading: called with the progress of loading.
        scored: called with the scored windows and all windows, after each.
        estimated: called once, with the seconds for the whole text.

    Raises:
        UserError: the model cannot be loaded, or cannot score the text.
    """
    load = RunSettings(
        model=model,
        backend=backend,  # type: ignore[arg-type]  # checked by the caller
        options=replace(options, context=text.window),
    ).load()
    with KeptWorker(load, loading) as worker:
        windows = text_windows(worker, text.text, text.window, text.most)
        began = monotonic()

        def done(count: int) -> None:
            scored(count, len(windows.ids))
            if count == 1:
                estimated((monotonic() - began) * len(windows.ids))

        return ModelScore(worker.ready, mask, windows, score_windows(worker, windows, mask, done))
