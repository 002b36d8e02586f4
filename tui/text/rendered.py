"""Rendered prompt as text for the screen: every token visible, special ones distinct."""

from __future__ import annotations

from textual.content import Content

from moe_watch.backends.protocol import PromptShown, RenderedPrompt
from moe_watch.tui.text.sanitize import inert, one_line
from moe_watch.tui.text.template_origin import template_in_words

LONGEST = 4_000
"""Characters that are shown; the end of a longer prompt is left out."""
NEW_LINE = "⏎"


def preview_content(previewed: PromptShown) -> Content:
    """Return a preview as lines: number of tokens and template, warnings, the text."""
    prompt = previewed.prompt
    if prompt is None:
        return Content.styled(f"⚠ {one_line(previewed.problem, 400)}", "$warning")
    lines = [Content.styled(_facts(prompt), "$foreground 60%")]
    lines += [Content.styled(f"⚠ {one_line(warning, 400)}", "$warning") for warning in prompt.warnings]
    return Content("\n").join([*lines, _text(prompt)])


def _facts(prompt: RenderedPrompt) -> str:
    facts = [f"{len(prompt.tokens):,} tokens", template_in_words(prompt.template)]
    if prompt.kept:
        facts.append(f"{prompt.kept:,} are in the context")
    if prompt.cut:
        facts.append(f"{prompt.cut:,} would be cut from it")
    return " · ".join(facts)


def _text(prompt: RenderedPrompt) -> Content:
    shown, length = [], 0
    for token in prompt.tokens:
        text = f"{NEW_LINE}\n".join(map(inert, token.text.split("\n")))
        shown.append(Content.styled(text, "$accent") if token.special else Content(text))
        length += len(text)
        if length > LONGEST:
            shown.append(Content.styled(" … the rest is not shown", "$foreground 60%"))
            break
    return Content("").join(shown)
