"""Live run as a source of events: the interface for the screen, in front of the thread that does the work."""

from __future__ import annotations

from collections import deque
from functools import partial

from moe_watch.backends.protocol import Pause, Perturb, Resume, SetMask, SetMultistep, SetTap
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import PerturbationForm, StreamItem
from moe_watch.routing.router.masks import ExpertMask
from moe_watch.sessions.live.environment import Surroundings
from moe_watch.sessions.live.preview import PromptPreview
from moe_watch.sessions.live.run import LiveRun
from moe_watch.sessions.live.serial_thread import Mailbox
from moe_watch.sessions.live.settings import RunSettings
from moe_watch.sessions.live.stages import Closed, FailedRun, Finished, Loading, UnderWay, Void, is_paused
from moe_watch.sessions.source import Ability, Origin, PaceStatus, RecordingStatus
from moe_watch.sessions.text import whole_text


class LiveSource:
    """Source that runs a model in a worker process and records it. A `moe_watch.sessions.source.Source`.

    Args:
        settings: model, engine, run and recording.
        around: clocks, folders and the like; only tests replace the default.
    """

    def __init__(self, settings: RunSettings, around: Surroundings | None = None) -> None:
        self._stream: deque[StreamItem] = deque()
        self._mailbox = Mailbox()
        self._model = settings.model
        self._run = LiveRun(settings, around or Surroundings(), self._stream, self._mailbox.post)

    @property
    def abilities(self) -> frozenset[Ability]:
        stage = self._run.stage
        match stage:
            case FailedRun():
                return frozenset({"restart"})
            case Loading() | Closed():
                return frozenset()
            case Void():
                return frozenset({"prompt", "rate"})
        always: frozenset[Ability] = frozenset({"perturb", "prompt", "rate", "record", "mark"})
        turn: frozenset[Ability] = frozenset({"turn"} if stage.run.ready.template else ())
        pause: frozenset[Ability] = frozenset({"pause", "tap", "multistep"} if isinstance(stage, UnderWay) else ())
        mask: frozenset[Ability] = frozenset(() if stage.run.ready.model.is_dense else {"mask"})
        return always | turn | pause | mask

    @property
    def origin(self) -> Origin:
        return Origin("model", model=self._model)

    @property
    def recording(self) -> RecordingStatus:
        return self._run.recording.status

    @property
    def pace(self) -> PaceStatus:
        return PaceStatus("rate", self._run.rate, is_paused(self._run.stage))

    @property
    def ended(self) -> bool:
        return isinstance(self._run.stage, Finished | Void | FailedRun | Closed) and not self._stream

    @property
    def fatal_error(self) -> UserError | None:
        """Error of a run that could not begin, or None."""
        return self._run.fatal_error

    @property
    def warnings(self) -> list[str]:
        """Warnings about the model, one line each."""
        return self._run.worker.warnings

    @property
    def worker_log(self) -> list[str]:
        """The last lines of the log of a worker that failed."""
        return self._run.worker.log

    def start(self) -> None:
        """Start the worker and load the model. Further calls do nothing.

        Raises:
            UserError: the output file exists already, or the model's name is not valid UTF-8.
        """
        if self._mailbox.started:
            return
        self._run.check()
        self._mailbox.post(self._run.load)
        self._mailbox.start(self._run.tick, self._run.fault)

    def drain(self) -> list[StreamItem]:
        items: list[StreamItem] = []
        while self._stream:
            items.append(self._stream.popleft())
        return items

    def pause(self) -> None:
        self._mailbox.post(partial(self._run.send, Pause()))

    def resume(self) -> None:
        self._mailbox.post(partial(self._run.send, Resume()))

    def perturb(self, text: str, *, form: PerturbationForm = "raw", at_once: bool = False) -> None:
        command = Perturb(text=whole_text(text), form=form, at_once=at_once)
        self._mailbox.post(partial(self._run.send, command))

    def turn(self, text: str) -> None:
        command = Perturb(text=whole_text(text), form="turn", at_once=True, renders_all=True)
        self._mailbox.post(partial(self._run.send, command))

    def preview(self, text: str, *, turn: bool) -> PromptPreview:
        asked = PromptPreview()
        self._mailbox.post(partial(self._run.preview, text, asked, turn=turn))
        return asked

    def set_tap(self, on: bool) -> None:
        self._mailbox.post(partial(self._run.send, SetTap(on)))

    def set_multistep(self, on: bool) -> None:
        self._mailbox.post(partial(self._run.send, SetMultistep(on)))

    def mask(self, mask: ExpertMask) -> None:
        self._mailbox.post(partial(self._run.send, SetMask(mask.rows)))

    def prompt(self, text: str) -> None:
        self._mailbox.post(partial(self._run.begin_next, text))

    def set_pace(self, value: float) -> None:
        self._mailbox.post(partial(self._run.set_rate, max(0.0, value)))

    def set_recording(self, on: bool) -> None:
        self._mailbox.post(partial(self._run.set_recording, on))

    def mark(self, note: str) -> None:
        self._mailbox.post(partial(self._run.mark, note))

    def restart(self) -> None:
        self._mailbox.post(self._run.restart)

    def close(self) -> None:
        if self._mailbox.started:
            self._mailbox.post(self._run.close)
            self._mailbox.join()
        else:
            self._run.close()
