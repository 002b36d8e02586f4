"""List of all commands under their headings. Each module is imported only when its command runs or shows its help."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click

HEADINGS = {
    "Watch and replay": {
        "watch": ("watching.watch", "Watch a model generate."),
        "record": ("watching.record", "Record a run without a dashboard."),
        "replay": ("watching.replay", "Replay a session."),
    },
    "Models": {
        "models": ("models.models", "List the models on this machine."),
        "check": ("models.check", "Check the machine, and a model, before a run."),
        "memory": ("models.memory", "Predict the memory of a model, and whether it fits."),
    },
    "Experts": {
        "profile": ("experts.profile", "Rank the experts of a model over texts."),
        "ablate": ("experts.ablate", "Measure the damage of switching off each expert."),
        "prune": ("experts.prune", "Write a model without its least important experts."),
    },
    "Recordings": {
        "sessions": ("recordings.sessions", "List, show, rename and delete sessions."),
        "verify": ("recordings.verify", "Check sessions for faults, or salvage one."),
        "compare": ("recordings.compare", "Compare sessions or measurements."),
        "export": ("recordings.export", "Write a session as tables or as a trace."),
        "import": ("recordings.import_", "Convert another program's trace to a session."),
    },
    "Measure": {
        "fit": ("measuring.fit", "Fit the half-life of mid-pressure."),
        "measure": ("measuring.measure", "Measure half-lives over many runs."),
        "perplexity": ("measuring.perplexity", "Measure the perplexity of a model on a text."),
        "bench": ("measuring.bench", "Measure the observation cost."),
    },
    "Reference": {
        "schema": ("schema", "Print the JSON Schema of a result."),
    },
}
"""Module and short help of each command, by heading and name. Both are in the order of `--help`."""


class CommandList(click.Group):
    """Group of the commands in `HEADINGS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return all names in the order of `--help`."""
        return [name for listed in HEADINGS.values() for name in listed]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import a command; None if there is none of this name."""
        for listed in HEADINGS.values():
            if cmd_name in listed:
                module, _ = listed[cmd_name]
                found = import_module(f"moe_watch.commands.{module}")
                command: click.Command = getattr(found, module.rpartition(".")[2])
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name. An error names `watch` if the first argument is a model.

        Raises:
            UsageError: there is no such command.
        """
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            name = args[0]
            if (
                name == "pocket"
                or "/" in name
                or name.startswith("ollama:")
                or name.endswith(".gguf")
                or Path(name).is_dir()
            ):
                said = f"{error.message.rstrip('.')}: to watch a model, use `moe-watch watch MODEL`"
                raise click.UsageError(said, ctx) from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write names and short help of all commands, one section per heading."""
        width = max(map(len, self.list_commands(ctx)))
        for heading, listed in HEADINGS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), help_) for name, (_, help_) in listed.items()])
