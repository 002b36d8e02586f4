"""Text from people, models and files, made fit for files, pipes and pages."""

from __future__ import annotations

import re

_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>#|!&~]")


def whole_text(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which a command line can contain and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def markdown_text(text: str) -> str:
    """One line of Markdown that reads as `text`: nothing in it is markup, and hidden characters show their code."""
    shown = "".join(each if each.isprintable() else f"⟨{ord(each):04X}⟩" for each in text)
    return _MARKDOWN.sub(r"\\\g<0>", shown)
