"""moe-watch: watch a Mixture-of-Experts model think. The launcher; imports nothing heavy."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit status."""
    from commands.app import run

    sys.exit(run(arguments))


if __name__ == "__main__":
    main()
