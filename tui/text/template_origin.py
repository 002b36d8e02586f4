"""Origin of a chat template in words."""

from __future__ import annotations

from moe_watch.routing.events import TemplateSource
from moe_watch.tui.text.sanitize import one_line

DIGEST_SHOWN = 8
"""Hexadecimal digits of a digest that are shown."""


def template_in_words(template: TemplateSource | None) -> str:
    """Return the origin of a chat template in a few words."""
    if template is None:
        return "raw, no template"
    digest = "" if template.sha256 is None else f" {template.sha256[:DIGEST_SHOWN]}"
    if template.origin == "file":
        return f"template {one_line(template.name or 'of a file', 40)}{digest}"
    return f"the tokenizer's own format{digest}" if template.origin == "library" else f"the model's template{digest}"
