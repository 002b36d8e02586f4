"""Entry point of the worker process, which runs the model.

`python -m moe_watch.backends.worker.main COMMANDS MESSAGES LIFELINE`: three inherited file descriptors.

The main thread loads the model and generates (MLX's streams belong to a thread); a second thread reads commands.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

from moe_watch.backends.engine import Engine
from moe_watch.backends.generation.inbox import Inbox, PipeInbox
from moe_watch.backends.generation.observation import Observer, captured
from moe_watch.backends.generation.outbox import Outbox
from moe_watch.backends.generation.preview import preview
from moe_watch.backends.generation.run import GenerationRun
from moe_watch.backends.generation.start import session_texts
from moe_watch.backends.model_files import catalog
from moe_watch.backends.model_files.preflight import preflight
from moe_watch.backends.protocol import (
    Batch,
    CheckSession,
    Failed,
    Load,
    Measure,
    Measured,
    Message,
    Perturb,
    Ready,
    ShowPrompt,
    Start,
    encode,
)
from moe_watch.backends.scoring.windows import WindowScoring
from moe_watch.backends.scoring_messages import Score, Tokenize, Tokenized
from moe_watch.backends.system import out_of_memory
from moe_watch.backends.system.parent_pipe import hold
from moe_watch.backends.text.format_check import template_warnings
from moe_watch.backends.worker.throughput import Measurements
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Progress

Send = Callable[[Message], None]

GIVE_WAY = 1e-4
"""GIL switch interval in seconds, so that the thread that makes events does not delay the model; default 5 ms."""


def main() -> None:
    """Serve the parent until it shuts the worker down or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable(all_threads=False)
    sys.setswitchinterval(GIVE_WAY)
    commands, messages, lifeline = (int(descriptor) for descriptor in sys.argv[1:4])
    hold(lifeline)
    status = serve(PipeInbox(Connection(commands, writable=False)), _sender(Connection(messages, readable=False)))
    sys.stderr.flush()
    # On some exits of the interpreter MLX aborts in its destructors; no cleanup is needed.
    os._exit(status)


def _sender(connection: Connection) -> Send:
    """Return a function that sends whole messages, also from several threads."""
    lock = threading.Lock()

    def send(message: Message) -> None:
        frame = encode(message)
        try:
            with lock:
                connection.send_bytes(frame)
        except BrokenPipeError:
            os._exit(0)

    return send


def serve(inbox: Inbox, send: Send) -> int:
    """Load a model and carry out commands; returns the exit status after a failure."""
    try:
        _serve_commands(_load(inbox, send), inbox, send)
    except UserError as error:
        send(Failed(message=str(error)))
        return 2
    except MemoryError:
        send(Failed(message=f"the model's process has not enough memory: {out_of_memory.SMALLER}"))
    except Exception as error:
        traceback.print_exc()
        reason = next(iter(str(error).splitlines()), "")
        send(Failed(message=f"the model's process failed unexpectedly: {type(error).__name__}: {reason}"))
    return 1


def _load(inbox: Inbox, send: Send) -> Engine:
    command = inbox.pop(None)
    if not isinstance(command, Load):
        raise UserError(f"the first command must be Load, not {type(command).__name__}")

    def report(progress: Progress) -> None:
        send(Batch([progress]))

    report(Progress(stage="starting"))
    found = catalog.locate(command.model, command.backend)
    location = catalog.fetch(found, report, with_code=command.options.trust_remote_code)
    preflight(location)
    name = catalog.choose_backend(command.backend, location)
    engine = catalog.load_engine(name, location, options=command.options, progress=report)
    if command.template is not None:
        engine.codec.replace_template(command.template.source, command.template.name)
    return engine


def _serve_commands(engine: Engine, inbox: Inbox, send: Send) -> None:
    send(_ready(engine))
    measurements, scoring = Measurements(engine), WindowScoring(engine)
    following: Start | None = None
    while True:
        command, following = following or inbox.pop(None), None
        match command:
            case Start():
                outbox = Outbox(send, Observer(engine.model), time.monotonic)
                run = GenerationRun(engine, command, inbox=inbox, outbox=outbox, refuse=send, clock=time.monotonic)
                following = run.run()
            case Measure():
                send(Measured(measurements.measure(command)))
            case ShowPrompt():
                send(preview(command, engine))
            case Tokenize() | Score() | CheckSession():
                _score(command, engine, scoring, send)
            case Load():
                send(Failed(message="a model is loaded already", fatal=False, command="load"))
            case Perturb():
                send(Failed(message="nothing was injected: no run is in progress", fatal=False, command="inject"))


def _score(command: Tokenize | Score | CheckSession, engine: Engine, scoring: WindowScoring, send: Send) -> None:
    """Answer a command on given tokens; a refused one does not end the worker."""
    try:
        if isinstance(command, CheckSession):
            send(Tokenized(ids=session_texts(engine, command.tokens), begin=engine.codec.begin))
            return
        if isinstance(command, Tokenize):
            send(scoring.tokenize(command))
            return
        for scored in scoring.score(command):
            send(scored)
    except UserError as error:
        send(Failed(message=str(error), fatal=False, command="score"))


def _ready(engine: Engine) -> Ready:
    format_warnings = template_warnings(engine)
    return Ready(
        model=engine.model,
        backend=engine.backend,
        template="chat" if engine.has_chat_template else None,
        template_source=engine.codec.template,
        capture=captured(engine.model.gate, sees_weights=engine.sees_weights),
        warnings=[*engine.warnings, *format_warnings],
        format_warnings=format_warnings,
    )


if __name__ == "__main__":
    main()
