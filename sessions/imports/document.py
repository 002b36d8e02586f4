"""A file of another program, opened once: its kind, detected by content, and its decoded content."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moe_watch.backends.model_files.gguf import MAGIC as GGUF
from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.safe_loading import (
    NUMPY,
    ZIP,
    is_pytorch,
    read_bytes,
    read_npy,
    read_npz,
    read_pt,
    read_safetensors,
    read_start,
)

Kind = Literal["gguf", "arrays", "tensors", "json", "json lines", "events", "text", "bytes"]

MAX_TEXT = 1 << 30
"""Bytes of a text file; decoded JSON takes some ten times the memory."""
PYTORCH = (".pt", ".pth")
PICKLE = re.compile(rb"\x80[\x02-\x05]")
LONGEST_HEADER = 100_000_000
"""Bytes of a safetensors header; the limit that the format itself sets."""
EVENT = re.compile(r"(?:data|event|id|retry)?:")
"""Beginning of a line of server-sent events."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file and its decoded content."""

    path: Path
    kind: Kind
    value: object = None
    """Decoded JSON; of JSON Lines and server-sent events, the list of all; an array, or arrays by name."""
    text: str = ""
    """Content of a text file that is not JSON; lines end with a line feed."""
    data: bytes = b""
    """Content of a binary file of unknown kind."""

    @property
    def records(self) -> list[object]:
        """The objects of JSON Lines or of a JSON list; of other content, the only object."""
        return self.value if isinstance(self.value, list) else [self.value]

    @property
    def first(self) -> Mapping[str, object]:
        """The first object of JSON, or the arrays by name; empty if the file has neither."""
        first = self.records[0] if self.records else None
        return first if isinstance(first, dict) else {}

    @property
    def mapping(self) -> Mapping[str, object] | None:
        """The only object of JSON, or the arrays by name; None if the file has neither."""
        return self.value if isinstance(self.value, dict) else None

    def has(self, *keys: str) -> bool:
        """Return whether the first object of JSON, or the arrays by name, have all these keys."""
        return all(key in self.first for key in keys)


def open_document(path: Path) -> Document:
    """Open a file of another program.

    Raises:
        UserError: it cannot be read, is empty, or is damaged.
    """
    start = read_start(path)
    if not start:
        raise UserError(f"{path}: the file is empty", advice="give a trace; docs/data.md has the formats")
    if start.startswith(GGUF):
        return Document(path, "gguf")
    if start.startswith(NUMPY):
        return Document(path, "arrays", read_npy(read_bytes(path), str(path)))
    if start.startswith(ZIP):
        return _of_zip(path)
    if PICKLE.match(start):
        return Document(path, "arrays", read_pt(path))
    if _is_safetensors(start):
        return Document(path, "tensors", read_safetensors(read_bytes(path), str(path)))
    return _of_text(path, read_bytes(path, MAX_TEXT))


def _of_zip(path: Path) -> Document:
    content = read_bytes(path)
    if is_pytorch(content) or path.suffix in PYTORCH:  # the name matters only for a damaged archive
        return Document(path, "arrays", read_pt(path))
    return Document(path, "arrays", read_npz(content, str(path)))


def _is_safetensors(start: bytes) -> bool:
    return start[8:10] in (b'{"', b"{}") and 2 <= int.from_bytes(start[:8], "little") <= LONGEST_HEADER


def _of_text(path: Path, content: bytes) -> Document:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: text in UTF-16", advice="save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return Document(path, "bytes", data=content)
    if "\0" in text:
        return Document(path, "bytes", data=content)
    if text.lstrip()[:1] in ("{", "["):
        return _of_json(path, text)
    if EVENT.match(text) and "data:" in text:
        return Document(path, "events", _events(path, text))
    return Document(path, "text", text=text.replace("\r\n", "\n").replace("\r", "\n"))


def _of_json(path: Path, text: str) -> Document:
    try:
        return Document(path, "json", json.loads(text))
    except json.JSONDecodeError as error:
        if "\n" not in text.strip():
            raise _not_json(str(path), error) from error
    except (ValueError, RecursionError) as error:
        raise _not_json(str(path), error) from error
    return Document(path, "json lines", _lines(path, text))


def _lines(path: Path, text: str) -> list[object]:
    found: list[object] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                where = f"{path}, line {number}" if found else str(path)
                raise _not_json(where, error, "neither JSON nor JSON Lines" if not found else "not JSON") from error
    return found


def _events(path: Path, text: str) -> list[object]:
    """Return the decoded JSON of server-sent events, as `curl -N` saves them."""
    found: list[object] = []
    for number, line in enumerate(text.split("\n"), 1):
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data and data != "[DONE]":
            try:
                found.append(json.loads(data))
            except (ValueError, RecursionError) as error:
                raise _not_json(f"{path}, line {number}", error) from error
    return found


def _not_json(where: str, error: Exception, what: str = "not JSON") -> UserError:
    return UserError(f"{where}: {what}: {error}", advice="see docs/data.md for the formats")
