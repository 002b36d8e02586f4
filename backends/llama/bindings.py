"""Bindings to llama.cpp's shared libraries: its log, and the layout and memory of its tensors."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp import llama_cpp as lib

from moe_watch.backends.system import out_of_memory
from moe_watch.routing.errors import UserError

VERSION = version("llama-cpp-python")

INFO, WARNING, ERROR, CONTINUED = 2, 3, 4, 5
"""Levels of `enum ggml_log_level`."""

CPUS, GPUS = (0,), (1, 2)
"""Values of `enum ggml_backend_dev_type`; the second GPU value is an integrated GPU."""

ERROR_PREFIX = re.compile(r"^(?:\w+_\w+: |error loading model: )+")
"""Prefix of an error before its reason."""

WARNING_PREFIX = re.compile(r"^(?:[\w:~]+: )+")
"""Prefix of a warning: the function that it comes from."""

F32, I32 = int(lib.GGML_TYPE_F32), int(lib.GGML_TYPE_I32)


class GgmlTensor(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h, up to the last field that is read here."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    )


class _InitParams(ctypes.Structure):
    """`struct ggml_init_params`."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def _library_path() -> str:
    """Return the path of the libllama that llama-cpp-python has loaded; its ggml libraries are reached through it.

    The ggml libraries must not be opened by their own names: copies of them are beside libllama, and a second copy has
    no devices registered.
    """
    named = os.environ.get("LLAMA_CPP_LIB_PATH")
    folder = Path(named) if named else Path(llama_cpp.__file__).parent / "lib"
    found = next((path for path in (folder / "libllama.so", folder / "libllama.dylib") if path.exists()), None)
    if found is None:
        raise UserError(f"llama-cpp-python {VERSION} has no libllama in {folder}", advice="install it again")
    return str(found)


_ggml = ctypes.CDLL(_library_path())
_brief = ctypes.PyDLL(_library_path())
"""The same library, called without releasing the GIL."""


def _function(name: str, result: Any, *arguments: Any, of: ctypes.CDLL = _ggml) -> Any:
    function = getattr(of, name)
    function.restype, function.argtypes = result, list(arguments)
    return function


def _brief_function(name: str, result: Any, *arguments: Any) -> Any:
    """Bind a function that returns at once, without releasing the GIL: after an evaluation the device is idle.

    Releasing the GIL for a few microseconds costs a wait of 100 µs and more until the other thread returns it.
    """
    return _function(name, result, *arguments, of=_brief)


tensor_get = _function("ggml_backend_tensor_get", None, *[ctypes.c_void_p] * 2, *[ctypes.c_size_t] * 2)
"""Copy a tensor's bytes from the memory of its device: (tensor, destination, offset, size)."""

tensor_set = _function("ggml_backend_tensor_set", None, *[ctypes.c_void_p] * 2, *[ctypes.c_size_t] * 2)
"""Copy bytes to a tensor in the memory of its device: (tensor, source, offset, size)."""

logits_address = _brief_function("llama_get_logits_ith", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)
"""Return the address of an output's logits: (context, index). An integer, because a pointer object takes longer."""

sample = _brief_function("llama_sampler_sample", ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)
"""Sample a token from an output: (sampler chain, context, index)."""

batch_size = _brief_function("llama_n_batch", ctypes.c_uint32, ctypes.c_void_p)
"""Return the largest number of tokens in one call (`n_batch`): (context)."""

is_host_memory = _brief_function("ggml_backend_buffer_is_host", ctypes.c_bool, ctypes.c_void_p)
"""Return whether the CPU reads a tensor's buffer as it is: (buffer)."""

_set_log = _brief_function("llama_log_set", None, lib.llama_log_callback, ctypes.c_void_p)


@contextmanager
def _sample() -> Iterator[tuple[int, int, int]]:
    """Yield a `ggml_get_rows` tensor named `layout`, and its sources: floats `[5, 3]`, and row indices."""
    init = _function("ggml_init", ctypes.c_void_p, _InitParams)
    free = _function("ggml_free", None, ctypes.c_void_p)
    new = _function("ggml_new_tensor_2d", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, *[ctypes.c_int64] * 2)
    get_rows = _function("ggml_get_rows", ctypes.c_void_p, *[ctypes.c_void_p] * 3)
    set_name = _function("ggml_set_name", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
    context = init(_InitParams(1 << 16, None, True))
    try:
        source, rows = new(context, F32, 3, 5), new(context, I32, 2, 1)
        yield set_name(get_rows(context, source, rows), b"layout"), source, rows
    finally:
        free(context)


def check_layout() -> None:
    """Check that `GgmlTensor` matches this build's tensors, on a tensor with known fields.

    Raises:
        UserError: it does not match, so routing cannot be read.
    """
    with _sample() as (node, source, rows):
        seen, given = GgmlTensor.from_address(node), GgmlTensor.from_address(source)
        fits = (seen.name, seen.src[0], seen.src[1], seen.src[2]) == (b"layout", source, rows, None)
        sizes = ([*given.ne], [*given.nb], given.type) == ([3, 5, 1, 1], [4, 12, 60, 60], F32)
        if not (fits and sizes and given.op == 0 < seen.op):  # 0 is GGML_OP_NONE: a source, not an operation
            raise UserError(
                f"llama-cpp-python {VERSION} has another tensor layout than moe-watch expects",
                advice="install another version of llama-cpp-python",
            )


def get_rows_operation() -> int:
    """Return this build's number of `GGML_OP_GET_ROWS`."""
    with _sample() as (node, _, _):
        return int(GgmlTensor.from_address(node).op)


def operation(address: int) -> str:
    """Return ggml's name of the operation that computes a tensor, such as `SOFT_MAX` or `SIGMOID`."""
    return str(_function("ggml_op_desc", ctypes.c_char_p, ctypes.c_void_p)(address).decode())


@cache
def has_key(key: str) -> bool:
    """Return whether this build contains an architecture's metadata key, such as `attention.sliding_window`."""
    with Path(_library_path()).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library:
        return library.find(f"%s.{key}\0".encode()) >= 0


def device_name(on_gpu: bool) -> str:
    """Return the description of the device that computes."""
    count = _function("ggml_backend_dev_count", ctypes.c_size_t)
    get = _function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    kind = _function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    description = _function("ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)
    kinds = GPUS if on_gpu else CPUS
    found = next((device for device in map(get, range(count())) if kind(device) in kinds), None)
    name = "unnamed" if found is None else description(found).decode(errors="replace").strip()
    return f"{'GPU' if on_gpu else 'CPU'} ({name})"


def device_names() -> list[str]:
    """Return the devices of this build, GPUs first, such as `CUDA0 (NVIDIA H200)`."""
    count = _function("ggml_backend_dev_count", ctypes.c_size_t)
    get = _function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    kind = _function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    name = _function("ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)
    description = _function("ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)
    devices = sorted(map(get, range(count())), key=lambda device: kind(device) not in GPUS)
    return [
        f"{name(device).decode(errors='replace')} ({description(device).decode(errors='replace').strip()})"
        for device in devices
    ]


def buffer_types() -> dict[str, int]:
    """Return the addresses of the devices' buffer types by name, such as `CPU` or `CUDA0`."""
    count = _function("ggml_backend_dev_count", ctypes.c_size_t)
    get = _function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    buffer_type = _function("ggml_backend_dev_buffer_type", ctypes.c_void_p, ctypes.c_void_p)
    name = _function("ggml_backend_buft_name", ctypes.c_char_p, ctypes.c_void_p)
    types = [buffer_type(get(number)) for number in range(count())]
    return {name(address).decode(): address for address in types if address is not None}


def optional_function(name: str, result: Any, *arguments: Any) -> Any:
    """Bind a function of libllama; None if this build has none of that name."""
    return _function(name, result, *arguments) if hasattr(_ggml, name) else None


def buffer_name(buffer_type: int) -> str:
    """Return the name of a buffer type, such as `CPU_REPACK`."""
    return str(_function("ggml_backend_buft_name", ctypes.c_char_p, ctypes.c_void_p)(buffer_type).decode())


def is_host_buffer(buffer_type: int) -> bool:
    """Return whether the CPU reads buffers of this type as they are."""
    return bool(_function("ggml_backend_buft_is_host", ctypes.c_bool, ctypes.c_void_p)(buffer_type))


def device_memory() -> dict[str, tuple[int, int]]:
    """Return free and total memory in bytes by the name of the device's buffer type."""
    count = _function("ggml_backend_dev_count", ctypes.c_size_t)
    get = _function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    buffer_type = _function("ggml_backend_dev_buffer_type", ctypes.c_void_p, ctypes.c_void_p)
    size = ctypes.POINTER(ctypes.c_size_t)
    memory = _function("ggml_backend_dev_memory", None, ctypes.c_void_p, size, size)
    found = {}
    for number in range(count()):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        memory(get(number), free, total)
        if (kind := buffer_type(get(number))) is not None:
            found[buffer_name(kind)] = (free.value, total.value)
    return found


class Log:
    """Log of llama.cpp's messages. It is written to standard error, which is the worker's log file."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._errors: list[str] = []
        self._warned: list[str] | None = None
        self._level = INFO
        self._callback = lib.llama_log_callback(self._write)

    def _write(self, level: int, text: bytes, _: Any) -> None:
        line = text.decode(errors="replace")
        self._level = self._level if level == CONTINUED else level
        if self._warned is not None and WARNING <= self._level <= ERROR:
            self._warned.append(line)
        if level == ERROR:
            self._errors.append(line.strip())
        if INFO <= level <= ERROR:
            self._lines.append(line)
            sys.stderr.write(line)

    def listen(self) -> None:
        """Start to collect messages, and drop earlier ones. llama.cpp has one log callback; the last one set wins."""
        self._lines, self._errors = [], []
        _set_log(self._callback, None)

    @contextmanager
    def warnings(self) -> Iterator[list[str]]:
        """Collect messages of level WARNING and above; the list is complete once the context manager is left."""
        lines: list[str] = []
        self._warned = []
        try:
            yield lines
        finally:
            lines += [WARNING_PREFIX.sub("", line) for line in "".join(self._warned).splitlines()]
            self._warned = None

    def reason(self) -> str:
        """Return the reason of a failure: the first error since `listen`, without its function prefixes."""
        return ERROR_PREFIX.sub("", self._errors[0] if self._errors else "no reason given")

    @property
    def lacks_memory(self) -> bool:
        """An error since `listen` reports a failed allocation."""
        return any(out_of_memory.SAID.search(error) for error in self._errors)

    def last(self, pattern: re.Pattern[str]) -> str | None:
        """Return the pattern's group in the last matching line since `listen`; None if no line matches."""
        found = [match[1] for match in map(pattern.search, self._lines) if match]
        return found[-1] if found else None

    def matches(self, pattern: re.Pattern[str]) -> list[re.Match[str]]:
        """Return the pattern's match in each line since `listen` that has one."""
        return [match for match in map(pattern.search, self._lines) if match]


log = Log()
"""Log of the whole process; llama.cpp keeps a pointer to its callback."""
