"""Worker that is shared by several live runs and measurements, so that the model is loaded once."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

from moe_watch.backends.protocol import (
    Batch,
    CheckSession,
    Command,
    Failed,
    Load,
    Measure,
    Measured,
    Message,
    PromptShown,
    Ready,
    RenderedPrompt,
    ShowPrompt,
    Stop,
)
from moe_watch.backends.run_spec import RunSpec, TeacherTokens
from moe_watch.backends.scoring_messages import Conversation, Score, Scored, Tokenize, Tokenized
from moe_watch.backends.worker.process import WorkerProcess
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Progress

OnMessage = Callable[[Message], None]
Answered = Ready | Measured | PromptShown | Tokenized | Scored
Answer = TypeVar("Answer", Ready, Measured, PromptShown, Tokenized, Scored)


class KeptWorker:
    """Worker with a loaded model for successive live runs. Use as a context manager.

    Args:
        load: loads the model.
        on_progress: called with the progress of loading, on any thread.

    Raises:
        UserError: on entering, if the model cannot be used.
    """

    ready: Ready

    def __init__(self, load: Load, on_progress: Callable[[Progress], None]) -> None:
        self._load = load
        self._on_progress = on_progress
        self._answers: queue.SimpleQueue[Answered | Failed] = queue.SimpleQueue()
        self._live: OnMessage | None = None
        """Receiver of the worker's messages during a live run."""
        self._death: Failed | None = None
        self._unread = 0
        """Evaluations of an earlier window that the worker still sends, and nothing reads."""

    def __enter__(self) -> KeptWorker:
        self._worker = WorkerProcess(self._receive)
        try:
            self._worker.send(self._load)
            self.ready = self._await(Ready)
        except BaseException:
            self._worker.close()
            raise
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._worker.close()

    @property
    def pid(self) -> int:
        return self._worker.pid

    def lend(self, on_message: OnMessage) -> LentWorker:
        """Return the worker for one live run. A `moe_watch.sessions.live.environment.WorkerFactory`."""
        self._live = on_message
        return LentWorker(self, on_message)

    def measure(self, command: Measure) -> float:
        """Measure tokens per second; no live run may be in progress.

        Raises:
            UserError: the measurement failed, for instance because the worker died.
        """
        self._ask(command)
        return self._await(Measured).tokens_per_second

    def preview(self, spec: RunSpec) -> RenderedPrompt:
        """Return a prompt as the model would be sent it; no live run may be in progress.

        Raises:
            UserError: the prompt cannot be sent.
        """
        self._worker.send(ShowPrompt(spec=spec))
        answer = self._await(PromptShown)
        if answer.prompt is None:
            raise UserError(answer.problem)
        return answer.prompt

    def tokenize(self, texts: Sequence[str | Conversation], *, plain: bool = False) -> Tokenized:
        """Return the token ids of texts and conversations; no live run may be in progress.

        Args:
            texts: the texts.
            plain: read special tokens that are written in a plain text as text.

        Raises:
            UserError: a text cannot be tokenized.
        """
        self._ask(Tokenize(texts=list(texts), plain=plain))
        return self._await(Tokenized)

    def check_session(self, tokens: list[TeacherTokens]) -> Tokenized:
        """Return the token ids of a recorded session, one list per context; no live run may be in progress.

        Raises:
            UserError: they have another meaning for this model.
        """
        self._ask(CheckSession(tokens))
        return self._await(Tokenized)

    def score(self, command: Score) -> Iterator[Scored]:
        """Yield the evaluations of a window: of the whole model, then with each mask. No live run may be in progress.

        Read all of them, or close the generator, before the next command.

        Raises:
            UserError: the window or a mask is refused, or the worker died.
        """
        self._ask(command)
        left = 1 + len(command.masks)
        try:
            while left:
                answer = self._await(Scored)
                left -= 1
                yield answer
        except UserError:
            left = 0  # a refused window has no further evaluations
            raise
        finally:
            self._unread = left

    def _ask(self, command: Command) -> None:
        if self._death is not None:
            raise UserError(self._death.message)
        self._worker.send(command)
        while self._unread:
            answer = self._answers.get()
            self._unread -= 1
            if isinstance(answer, Failed):
                self._unread = 0
                if answer.fatal:
                    raise UserError(answer.message)

    def _await(self, kind: type[Answer]) -> Answer:
        while True:
            answer = self._answers.get()
            if isinstance(answer, Failed):
                raise UserError(answer.message)
            if isinstance(answer, kind):
                return answer

    def _receive(self, message: Message) -> None:
        if isinstance(message, Failed) and message.fatal:
            self._death = message
        live = self._live
        if live is not None:
            live(message)
        elif isinstance(message, Answered | Failed):
            self._answers.put(message)
        elif isinstance(message, Batch):
            for item in message.items:
                if isinstance(item, Progress):
                    self._on_progress(item)


class LentWorker:
    """Shared worker as seen by one live run; it outlives the run. A `moe_watch.sessions.live.environment.Worker`."""

    def __init__(self, kept: KeptWorker, on_message: OnMessage) -> None:
        self._kept = kept
        self._on_message = on_message

    @property
    def pid(self) -> int:
        return self._kept.pid

    def send(self, command: Command) -> None:
        if isinstance(command, Load):
            self._on_message(self._kept._death or self._kept.ready)
        else:
            self._kept._worker.send(command)

    def close(self) -> None:
        """Stop the run; the model stays loaded."""
        self._kept._live = None
        self._kept._worker.send(Stop())
