"""Options of the conditions on which a run pauses by itself: heat and memory pressure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moe_watch.commands.options import Command, Options, require
from moe_watch.routing.errors import UserError

if TYPE_CHECKING:
    from moe_watch.routing.header import PauseConditions

COOLEST, HOTTEST = 40.0, 110.0
"""Range of `--cool-down` in °C: idle laptops reach 40, and no processor runs above 110."""


def control_options(command: Command) -> Command:
    """Add the conditions on which a run pauses by itself, which `control_of` collects."""
    memory = click.option(
        "--pause-on",
        type=click.Choice(["critical"]),
        help="Pause when memory pressure is critical, until you resume; without a dashboard, until it has passed.",
    )
    heat = click.option(
        "--cool-down",
        type=float,
        metavar="C",
        help="Pause while a CPU or GPU is hotter than C °C; resume 5 °C below it.",
    )
    return memory(heat(command))


def control_of(options: Options) -> PauseConditions:
    """Take the options of `control_options` out of a command's options; a command without them pauses on nothing.

    Raises:
        UserError: the temperature is out of its range, or no sensor can be read.
    """
    from moe_watch.routing.header import PauseConditions

    limit, pause_on = options.pop("cool_down", None), options.pop("pause_on", None)
    if limit is not None:
        in_range = COOLEST <= limit <= HOTTEST
        require(in_range, f"--cool-down is {limit:g}", f"use {COOLEST:g} to {HOTTEST:g} °C")
        _require_sensor()
    return PauseConditions(cool_down=limit, pause_on=pause_on)


def _require_sensor() -> None:
    """Refuse `--cool-down` on a machine without a readable temperature of its CPU or GPU."""
    from moe_watch.vitals.heat.probe import why_no_processor_sensor

    if why := why_no_processor_sensor():
        raise UserError(f"--cool-down: no CPU or GPU temperature can be read: {why}", advice="omit it")
