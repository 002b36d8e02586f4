"""Foreign traces as session files: which format a file has, and what it comes to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backends.gguf_files import MAGIC
from routing.errors import UserError
from sessions.imports import sglang, vllm
from sessions.imports.imatrix import read_imatrix
from sessions.imports.loading import (
    NUMPY,
    ZIP,
    array_of,
    read_bytes,
    read_json,
    read_npy,
    read_npz,
    read_pt,
    read_start,
)
from sessions.imports.tabular import read_csv
from sessions.imports.traces import ImportOptions, Trace
from sessions.imports.writing import write_trace

Format = Literal["sglang", "vllm", "imatrix", "csv"]
FORMATS: tuple[Format, ...] = ("sglang", "vllm", "imatrix", "csv")
WHICH = "say whose it is with --from sglang or vllm"
PYTORCH = (".pt", ".pth")


@dataclass(frozen=True, slots=True)
class Imported:
    """A trace that was recorded."""

    path: Path
    """The session file."""
    trace: Trace


def import_trace(
    path: Path,
    options: ImportOptions,
    *,
    form: Format | None = None,
    dtype: str = "int16",
    output: Path | None = None,
    force: bool = False,
    folder: Path | None = None,
) -> Imported:
    """Make a session of a foreign trace.

    Args:
        path: the trace.
        options: what it does not tell itself.
        form: its format; None looks at the file.
        dtype: of expert ids that come as bare base64.
        output: where to record it; None makes a name in `folder`.
        force: replace `output` if it exists.
        folder: for files without a given name, the one for recordings by default.

    Raises:
        UserError: it cannot be read or understood, or the session cannot be written.
    """
    trace = read_trace(path, options, form, dtype)
    written = write_trace(trace, path, output, model=options.model, force=force, folder=folder)
    return Imported(written, trace)


def read_trace(path: Path, options: ImportOptions, form: Format | None, dtype: str = "int16") -> Trace:
    """What is in a foreign file.

    Raises:
        UserError: it cannot be read or understood.
    """
    start = read_start(path)
    if not start:
        raise UserError(f"{path}: the file is empty", advice="give a trace; docs/data.md has the formats")
    if start.startswith(MAGIC):
        _require(form, "imatrix", path)
        return read_imatrix(path, options)
    if path.suffix not in PYTORCH and not start.startswith((NUMPY, ZIP)) and start.lstrip()[:1] not in (b"{", b"["):
        _require(form, "csv", path)
        return read_csv(read_bytes(path), options, str(path))
    return _of_value(_value(path, start), options, form, dtype, str(path))


def _require(form: Format | None, found: Format, path: Path) -> None:
    if form not in (None, found):
        raise UserError(f"{path}: looks like {found}, not {form}", advice=f"leave out --from {form}")


def _value(path: Path, start: bytes) -> Any:
    """What is in a file of arrays or JSON: an array, or values by name."""
    if path.suffix in PYTORCH:
        return read_pt(path)
    content = read_bytes(path)
    if start.startswith(NUMPY):
        return read_npy(content, str(path))
    if start.startswith(ZIP):
        return read_npz(content, str(path))
    return read_json(content, str(path))


def _of_value(value: Any, options: ImportOptions, form: Format | None, dtype: str, where: str) -> Trace:
    if isinstance(value, dict) and (form or _named(value)) == "sglang":
        return sglang.read_dump(value, options, where)
    if isinstance(value, dict) and (form or _named(value)) == "vllm":
        return vllm.read_response(value, options, dtype, where)
    if isinstance(value, dict):
        raise UserError(f"{where}: neither logical_count, records, choices nor routed_experts in it", advice=WHICH)
    found = array_of(value, where)
    if form == "sglang":
        return sglang.read_counts(found, options, where)
    if form == "vllm":
        return vllm.read_array(found, options, where)
    raise UserError(f"{where}: an array that may be counts or expert ids", advice=WHICH)


def _named(value: dict[str, Any]) -> Format | None:
    """The format whose names these are."""
    if {sglang.COUNTS, sglang.RECORDS} & value.keys():
        return "sglang"
    return "vllm" if {"choices", vllm.KEY} & value.keys() else None
