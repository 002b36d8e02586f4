"""Main module of the process that imports an engine and describes its build.

`python -m moe_watch.backends.worker.build_child ENGINE LIFELINE`. A library may crash on import, or write to
standard output: neither reaches the parent. The answer is written to the real standard output.
"""

from __future__ import annotations

import importlib
import os
import sys

import msgspec

from moe_watch.backends.engine_build import BuildAnswer
from moe_watch.backends.system.open_files import clamped_limits
from moe_watch.backends.system.parent_pipe import hold
from moe_watch.routing.errors import UserError

MODULES = {"mlx": "moe_watch.backends.mlx.build", "llama.cpp": "moe_watch.backends.llama.build"}
"""Module of each engine with `engine_build()`."""


def main() -> None:
    """Describe one engine; the end of the parent ends this process."""
    hold(int(sys.argv[2]))
    answer_file = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries may print
    answer_file.write(msgspec.json.encode(_answer(sys.argv[1])))
    answer_file.close()
    sys.stderr.flush()
    os._exit(0)  # on some exits of the interpreter MLX aborts in its destructors


def _answer(engine: str) -> BuildAnswer:
    try:
        with clamped_limits():
            module = importlib.import_module(MODULES[engine])
        return BuildAnswer(build=module.engine_build())
    except UserError as error:
        return BuildAnswer(problem=str(error))
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        return BuildAnswer(problem=f"it cannot be imported: {type(error).__name__}: {reason}")


if __name__ == "__main__":
    main()
