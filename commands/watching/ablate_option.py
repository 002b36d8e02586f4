"""Option `--ablate`: experts that are switched off for a whole run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moe_watch.commands.options import Command, Options

if TYPE_CHECKING:
    from moe_watch.routing.events import MaskRows


def ablate_option(command: Command) -> Command:
    """Add `--ablate`, which `mask_of` reads."""
    return click.option(
        "--ablate",
        metavar="L:E,…",
        help="Switch experts off: LAYER:EXPERT pairs, with the layer's index in the model, such as 0:3,5:1.",
    )(command)


def mask_of(options: Options) -> MaskRows:
    """Remove `--ablate` from a command's options, and return its mask; empty without the option.

    Raises:
        UserError: it is no list of pairs. The worker checks that the model has these experts.
    """
    from moe_watch.routing.router.masks import parse_mask

    given = options.pop("ablate")
    return [] if given is None else parse_mask(given).rows
