"""Reader of corpora: texts and conversations to evaluate, one JSON value per line, or one plain text.

A corpus is untrusted: any content gives examples, or a `UserError` that names the line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec

from moe_watch.backends.scoring_messages import Conversation
from moe_watch.backends.system.regular_files import open_regular
from moe_watch.routing.errors import UserError, system_error

MAX_BYTES = 1 << 29
"""Size limit of a corpus; published calibration corpora have some 10 MB."""
MAX_LINE = 100_000_000
"""Bytes of a line, as of a prompt."""
TEXT_SUFFIXES = (".txt", ".text", ".raw", ".md", ".py")
"""Endings of names of files that are one text; `.raw` is wikitext's."""
TEXT_KEYS = ("text", "content")
"""Keys of an example's text, in order of preference."""
ROLES = ("system", "developer", "user", "assistant", "tool")
FORMS = 'write one JSON object per line: {"text": …}, {"prompt": …, "completion": …} or {"messages": […]}'
LONGEST_DOMAIN = 80


@dataclass(frozen=True, slots=True)
class Example:
    """One text or conversation of a corpus."""

    text: str | Conversation
    """Plain text, or messages that the model's chat template formats."""
    domain: str | None = None
    """Group of the example, from the field `domain`."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Examples of one file."""

    examples: list[Example]
    """In the order of the file, without empty ones; at least one."""
    name: str
    """Path of the file as the user named it."""
    sha256: str
    """SHA-256 of the file."""

    @property
    def domains(self) -> list[str]:
        """Names of the domains in it, in the order of their first example."""
        return list(dict.fromkeys(each.domain for each in self.examples if each.domain is not None))


def read_corpus(path: Path) -> Corpus:
    """Read a corpus: JSON Lines, or one text in a file with one of `TEXT_SUFFIXES`.

    A line is a JSON string, or an object with `text` (or `content`), with `prompt` and `completion`, or with
    `messages`; the last two become conversations. `domain` names its group. Lines and texts without content are
    skipped, as calibration tools do.

    Raises:
        UserError: the file cannot be read, a line is not an example, or there is no text in it.
    """
    digest = sha256()
    examples: list[Example] = []
    if path.suffix.lower() in TEXT_SUFFIXES:
        content = b"".join(_lines(path, MAX_BYTES))
        digest.update(content)
        examples = [Example(_decoded(content, str(path)))]
    else:
        for number, line in enumerate(_lines(path, MAX_LINE), 1):
            digest.update(line)
            where = f"{path}, line {number}"
            text = _decoded(line, where).strip()
            if text:
                examples.append(_example(text, where))
    found = [each for each in examples if _has_content(each)]
    if not found:
        raise UserError(f"{path}: the corpus has no text", advice=FORMS)
    return Corpus(found, str(path), digest.hexdigest())


def _lines(path: Path, longest: int) -> Iterator[bytes]:
    """Yield the lines of a file with their ends.

    Raises:
        UserError: it cannot be read, or it or a line is too long.
    """
    read = 0
    try:
        with open_regular(path) as file:
            while line := file.readline(longest + 1):
                read += len(line)
                if len(line) > longest or read > MAX_BYTES:
                    what = f"larger than {MAX_BYTES >> 20:,} MB" if read > MAX_BYTES else "a line of more than 100 MB"
                    raise UserError(f"{path}: {what}", advice="use a part of it")
                yield line
    except (OSError, ValueError) as error:
        raise system_error(path, error, advice="name the file of a corpus", failed="cannot be read") from error


def _decoded(content: bytes, where: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text (byte {error.start})", advice=FORMS) from error
    if "\0" in text:
        raise UserError(f"{where}: not text (a zero byte)", advice=FORMS)
    return text


def _example(line: str, where: str) -> Example:
    try:
        value = msgspec.json.decode(line)
    except RecursionError as error:
        raise UserError(f"{where}: nested too deeply", advice=FORMS) from error
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        advice = f"{FORMS}; a plain text needs the name *.txt" if where.endswith("line 1") else FORMS
        raise UserError(f"{where}: not JSON ({reason})", advice=advice) from error
    if isinstance(value, str):
        return Example(value)
    if not isinstance(value, dict):
        raise UserError(f"{where}: neither an object nor a string", advice=FORMS)
    return Example(_text(value, where), _domain(value, where))


def _text(value: Mapping[str, object], where: str) -> str | Conversation:
    for key in TEXT_KEYS:
        if value.get(key):
            return _string(value[key], key, where)
    if value.get("messages") is not None:
        return _conversation(value["messages"], "messages", where)
    if value.get("prompt") is not None and value.get("completion") is not None:
        return [
            *_turns(value["prompt"], "prompt", "user", where),
            *_turns(value["completion"], "completion", "assistant", where),
        ]
    if any(key in value for key in TEXT_KEYS):
        return ""
    raise UserError(f"{where}: no text, messages, or prompt and completion", advice=FORMS)


def _turns(value: object, key: str, role: str, where: str) -> Conversation:
    """Return a prompt or a completion as messages; it is a text, or messages already."""
    return [{"role": role, "content": value}] if isinstance(value, str) else _conversation(value, key, where)


def _conversation(value: object, key: str, where: str) -> Conversation:
    if not isinstance(value, list):
        raise UserError(f"{where}: {key!r} is not a list of messages", advice=FORMS)
    found: Conversation = []
    for number, message in enumerate(value, 1):
        here = f"{where}, message {number}"
        if not isinstance(message, dict):
            raise UserError(f"{here}: not an object", advice='write messages as {"role": …, "content": …}')
        role = _string(message.get("role"), "role", here)
        if role not in ROLES:
            raise UserError(f"{here}: a role of {role[:40]!r}", advice=f"use {', '.join(ROLES)}")
        content = message.get("content")
        found.append({"role": role, "content": _string("" if content is None else content, "content", here)})
    return found


def _string(value: object, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: {key!r} is not a text", advice=FORMS)
    return value


def _domain(value: Mapping[str, object], where: str) -> str | None:
    domain = value.get("domain")
    if domain is None or domain == "":
        return None
    if not isinstance(domain, str) or len(domain) > LONGEST_DOMAIN:
        raise UserError(f"{where}: 'domain' is not a short text", advice=f"use at most {LONGEST_DOMAIN} characters")
    return domain


def _has_content(example: Example) -> bool:
    if isinstance(example.text, str):
        return bool(example.text.strip())
    return any(message["content"].strip() for message in example.text)
