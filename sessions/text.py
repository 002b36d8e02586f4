"""Text that a person typed, made fit for files and pipes."""

from __future__ import annotations


def whole_text(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which a command line can contain and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
