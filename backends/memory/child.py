"""Main module of the process that asks an engine for the memory that a model takes, without loading the weights.

An engine may abort its process on a faulty file, and writes its log to standard error: neither reaches the parent.
The request is read from standard input, the answer is written to standard output.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

import msgspec
import psutil

from moe_watch.backends.engine_options import check_ranges, check_support
from moe_watch.backends.engine_sizes import EngineSizes, FailedSizes, SizesAnswer, SizesItem, SizesRequest
from moe_watch.backends.model_files.catalog import locate
from moe_watch.backends.system.open_files import clamped_limits
from moe_watch.routing.errors import UserError

MODULES = {"mlx": "moe_watch.backends.mlx.memory_sizes", "llama.cpp": "moe_watch.backends.llama.memory_sizes"}
"""Module of each engine with `engine_sizes(location, options, runtime)`."""


def main() -> None:
    """Answer one request."""
    answer_file = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries may print
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=SizesRequest)
    answer_file.write(msgspec.json.encode(_answer(request)))
    answer_file.close()


def _answer(request: SizesRequest) -> SizesAnswer:
    with clamped_limits():
        module = importlib.import_module(MODULES[request.engine])
    return SizesAnswer(sizes=[_sizes(module, request.engine, item) for item in request.items])


def _sizes(module: ModuleType, engine: str, item: SizesItem) -> EngineSizes | FailedSizes:
    try:
        check_ranges(item.options)
        check_support(engine, item.options)
        found: EngineSizes = module.engine_sizes(locate(item.model, engine), item.options, _private_bytes)
    except UserError as error:
        return FailedSizes(what=error.what, advice=error.advice)
    return msgspec.structs.replace(found, address_space=psutil.Process().memory_info().vms)


def _private_bytes() -> int:
    """Return the memory of this process that no file backs; all resident memory where the system reports one number."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


if __name__ == "__main__":
    main()
