"""Preview of a prompt, until the worker has rendered it."""

from __future__ import annotations

from moe_watch.backends.protocol import PromptShown


class PromptPreview:
    """Request for a rendered prompt. The answer may come at any time, or never if the worker dies."""

    def __init__(self) -> None:
        self.answer: PromptShown | None = None
        """None until it has come."""
