"""Command line: the group of commands, and the exit status of errors."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence

import click

from moe_watch.commands.command_list import CommandList
from moe_watch.routing.errors import UserError

FINE, NOT_FINE, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses: success; a failed run, recording or measurement, or faults found; bad usage or input; Ctrl-C."""

EXAMPLES = """
\b
Examples:
  moe-watch                                watch pocket, the built-in model
  moe-watch models                         list the models on this machine
  moe-watch memory ./Mixtral-8x7B-4bit     predict whether a model fits
  moe-watch check ./Mixtral-8x7B-4bit      try it before a run
  moe-watch watch ./Mixtral-8x7B-4bit      watch a model in a folder
  moe-watch record -o run.moe.jsonl        record a run without a dashboard
  moe-watch sessions                       list recorded sessions
  moe-watch replay run.moe.jsonl           replay a session
  moe-watch fit run.moe.jsonl              fit the half-life of its pressure
  moe-watch measure pocket -o results      measure many runs, with control
  moe-watch profile pocket --corpus a.txt  rank the experts over a text
  moe-watch ablate pocket --corpus a.txt   measure the damage of each expert
  moe-watch compare results-a results-b    compare half-lives and routing
  moe-watch bench ./Mixtral-8x7B-4bit      measure the observation cost
  moe-watch export run.moe.jsonl --to csv  write tables for other programs
"""


def _show_version(context: click.Context, _option: click.Parameter, given: bool) -> None:
    if given and not context.resilient_parsing:
        from moe_watch.sessions.version import version

        click.echo(f"moe-watch, version {version()}")
        context.exit()


@click.group(
    cls=CommandList,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXAMPLES,
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(context: click.Context) -> None:
    """Watch a Mixture-of-Experts model think: experts, router entropy, pressure, memory and temperature.

    Without a command: watch pocket, the built-in small model.
    """
    if context.invoked_subcommand is None:
        from moe_watch.commands.watching.watch import watch

        context.invoke(watch)


NO_ADDRESS_SPACE = "failed to map segment from shared object"
"""Part of the message of the dynamic loader if a small `ulimit -v` leaves no room for a library."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. Every error that the user can repair is one line on stderr."""
    # Closed by the shell: click would print nothing, and the next file to be opened would become standard output.
    if sys.stdout is None:
        return _bad_input(f"the output cannot be written: {os.strerror(errno.EBADF)}")
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
        return _no_memory()
    except ImportError as error:
        if NO_ADDRESS_SPACE not in str(error):
            raise
        return _no_memory()
    except SystemExit:  # click exits with this status if the reader of the output has closed it
        _drop_output()
        return FINE
    except OSError as error:
        _drop_output()
        return _bad_input(f"the output cannot be written: {error.strerror or error}")
    return status if isinstance(status, int) else FINE


def _no_memory() -> int:
    from moe_watch.backends.system.out_of_memory import SMALLER

    return _bad_input(f"not enough memory: {SMALLER}, or a shorter recording")


def _drop_output() -> None:
    """Discard buffered output. Otherwise Python would fail again when it flushes at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _bad_input(message: str) -> int:
    from moe_watch.commands.output import complain

    complain(message)
    return BAD_INPUT
