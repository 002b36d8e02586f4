"""The command line's front door: the group of commands, and what becomes of errors."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

import click

from moe_watch.backends.system.out_of_memory import SMALLER
from moe_watch.commands.measuring.bench import bench
from moe_watch.commands.measuring.fit import fit
from moe_watch.commands.measuring.measure import measure
from moe_watch.commands.output import complain
from moe_watch.commands.recordings.compare import compare
from moe_watch.commands.recordings.export import export
from moe_watch.commands.recordings.import_ import import_
from moe_watch.commands.recordings.sessions import sessions
from moe_watch.commands.recordings.verify import verify
from moe_watch.commands.watching.record import record
from moe_watch.commands.watching.replay import replay
from moe_watch.commands.watching.watch import watch
from moe_watch.routing.errors import UserError
from moe_watch.sessions.version import version

FINE, NOT_FINE, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses: all well; the thing asked about is not; bad usage or input; stopped by Ctrl-C."""

EXAMPLES = """
\b
Examples:
  moe-watch                                watch pocket, the model inside
  moe-watch watch ./Mixtral-8x7B-4bit      watch a model from a folder
  moe-watch record -o run.moe.jsonl        the same without a screen
  moe-watch sessions                       what was recorded, and is it whole
  moe-watch replay run.moe.jsonl           watch it again
  moe-watch fit run.moe.jsonl              the half-life of its pressure
  moe-watch measure pocket -o results      that over many runs, with control
  moe-watch compare results-a results-b    half-lives, usage, routing compared
  moe-watch bench ./Mixtral-8x7B-4bit      what observing costs here
  moe-watch export run.moe.jsonl --to csv  its tables, for other programs
"""


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXAMPLES,
)
@click.version_option(version(), prog_name="moe-watch")
@click.pass_context
def cli(context: click.Context) -> None:
    """Watch a Mixture-of-Experts model think: which experts, how sure, how hard pressed, how hot.

    Without a command: watch pocket, a small model that is inside.
    """
    if context.invoked_subcommand is None:
        context.invoke(watch)


for command in (watch, record, replay, fit, compare, bench, measure, sessions, export, import_, verify):
    cli.add_command(command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; every error of a person's becomes one line on stderr. Returns the exit status."""
    try:
        status = cli.main(args=arguments, prog_name="moe-watch", standalone_mode=False)
    except UserError as error:
        return _bad_input(str(error))
    except click.UsageError as error:
        help_command = error.ctx.command_path if error.ctx else "moe-watch"
        return _bad_input(f"{error.format_message().rstrip('.')} (see `{help_command} --help`)")
    except click.ClickException as error:
        return _bad_input(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except MemoryError:
        return _bad_input(f"not enough memory: {SMALLER}, or a shorter recording")
    except SystemExit:  # how click leaves where nobody reads the output any more
        _drop_output()
        return FINE
    except OSError as error:
        _drop_output()
        return _bad_input(f"the output cannot be written: {error.strerror or error}")
    return status if isinstance(status, int) else FINE


def _drop_output() -> None:
    """Let what is still buffered go nowhere, or Python would fail to write it once more as it leaves."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _bad_input(message: str) -> int:
    complain(message)
    return BAD_INPUT
