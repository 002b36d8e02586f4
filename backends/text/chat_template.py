"""Chat template, rendered in a separate process with bounded memory and time.

A template is a program that comes with a model. jinja2's sandbox denies it files and Python's internals, but lets it
multiply a string to gigabytes or loop for hours; meanwhile no other thread of the same process runs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from moe_watch.backends.engine import Messages
from moe_watch.backends.system.python_process import command, environment

SECONDS = 2
"""Limit of processor time. Templates of real models take some milliseconds."""
LONGEST_WAIT = 60.0
"""Limit of elapsed time in seconds; it allows for a busy machine."""
MEMORY = 1 << 30
"""Bytes, including the interpreter and the conversation."""
LONGEST_TEXT = 200_000_000
"""Characters; twice the limit of a prompt."""
POLL = 0.05
"""Seconds between checks of the process's memory, for macOS, which enforces no limit on address space."""


class TemplateError(Exception):
    """Failure to render a template; `str()` is the reason in a few words."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """Jinja template, and the variables that it can use beside the messages."""

    source: str
    variables: Mapping[str, object] = field(default_factory=dict)

    def render(self, messages: Messages) -> str:
        """Return the text of a conversation, up to the start of the model's answer.

        Raises:
            TemplateError: the template fails, or takes too much memory or time.
        """
        [text] = self.render_each([messages])
        if isinstance(text, TemplateError):
            raise text
        return text

    def render_each(self, conversations: Sequence[Messages]) -> list[str | TemplateError]:
        """Return the text of each conversation, or its failure, from one process.

        Args:
            conversations: the messages of each. After a message of the user the beginning of the model's answer
                follows.

        Raises:
            TemplateError: together they take too much memory or time.
        """
        cases = [{"messages": each, "add_generation_prompt": awaits_answer(each)} for each in conversations]
        request = json.dumps({"template": self.source, "variables": self.variables, "cases": cases}, default=str)
        found = json.loads(_answer(request.encode()))
        return [TemplateError(each["failed"]) if "failed" in each else str(each["text"]) for each in found]


def awaits_answer(messages: Messages) -> bool:
    """Return whether the model speaks next in a conversation."""
    return not messages or messages[-1]["role"] != "assistant"


def of_hugging_face(tokenizer: Any) -> ChatTemplate | None:
    """Return the template of mlx-lm's tokenizer wrapper; None if a library renders conversations by its own code."""
    inner = getattr(tokenizer, "_tokenizer", tokenizer)
    renders = getattr(type(inner), "apply_chat_template", None)
    if getattr(tokenizer, "_chat_template", None) is not None or not _is_from_transformers(renders):
        return None
    return ChatTemplate(inner.get_chat_template(), variables_of_hugging_face(tokenizer))


def variables_of_hugging_face(tokenizer: Any) -> dict[str, object]:
    """Return the variables that a template of mlx-lm's tokenizer wrapper can use."""
    inner = getattr(tokenizer, "_tokenizer", tokenizer)
    thinking = getattr(tokenizer, "_thinking_kwarg", "enable_thinking")
    variables = {**inner.special_tokens_map, "tools": None, "documents": None}
    return variables | {thinking: bool(tokenizer.has_thinking)}


def no_template() -> ChatTemplate:
    """Refuse to render, for a model without a chat template.

    Raises:
        TemplateError: always.
    """
    raise TemplateError("the model has none")


def _is_from_transformers(method: Any) -> bool:
    """Return whether this is the base method of transformers, which only renders the template."""
    return getattr(method, "__module__", "") == "transformers.tokenization_utils_base"


def _answer(request: bytes) -> bytes:
    limits = (SECONDS, MEMORY, LONGEST_TEXT, os.getpid())
    with subprocess.Popen(
        command("moe_watch.backends.text.template_renderer", *limits),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    ) as process:
        try:
            answer = _communicate(process, request)
        finally:
            process.kill()
    if process.returncode == 0:
        return answer
    if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise TemplateError(f"it takes more than {SECONDS} s")
    raise TemplateError(f"its process ended with exit status {process.returncode}")


def _communicate(process: subprocess.Popen[bytes], request: bytes) -> bytes:
    left: bytes | None = request
    deadline = time.monotonic() + LONGEST_WAIT
    while True:
        try:
            return process.communicate(left, timeout=POLL)[0]
        except subprocess.TimeoutExpired as error:
            left = None  # `communicate` keeps the unsent part
            if _resident(process.pid) > MEMORY:
                raise TemplateError(too_much_memory(MEMORY)) from error
            if time.monotonic() > deadline:
                raise TemplateError(f"it takes more than {LONGEST_WAIT:.0f} s") from error


def too_much_memory(limit: int) -> str:
    """Return the message for a template that exceeds its memory limit."""
    return f"it takes more than {limit >> 20:,} MiB of memory"


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
