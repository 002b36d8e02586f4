"""Small chat templates, one of each kind that published models have, and a tokenizer that they are tokenized with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moe_watch.backends.engine import Messages
from moe_watch.backends.text.chat_template import ChatTemplate, TemplateError, awaits_answer
from moe_watch.backends.text.special_tokens import AddedTokens
from moe_watch.backends.text.template_renderer import rendered
from moe_watch.backends.text.tokenizer import TextCodec
from tests.backends.tiny import EOS, byte_tokenizer

GENERATION_PROMPT = "{% if add_generation_prompt %}<|assistant|>{% endif %}"

KEEPS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}" + GENERATION_PROMPT
"""Writes answers as they were generated."""

INST = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m.role == 'user' %}[INST] {{ system if loop.first }}{{ m.content }} [/INST]"
    "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
"""Mistral's kind, with the system prompt in the first turn."""

DROPS_THOUGHTS = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    "{% else %}{{ m.content }}{% endif %}</s>{% endfor %}" + GENERATION_PROMPT
)
"""Qwen's kind: answers before the last turn lose their thoughts."""

NEVER_KEEPS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think></think>{% endif %}"
)
"""Writes something into the beginning of an answer that it does not write when the answer is past."""

NEEDS_TOOLS = "{% for t in tools %}{{ t.name }}{% endfor %}" + KEEPS
"""Iterates over tools without a check that there are some."""

GENERATION_TAG = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}</s>{% endgeneration %}"
    "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}" + GENERATION_PROMPT
)

REFUSES_SYSTEM = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}</s>{% endfor %}" + GENERATION_PROMPT
)
"""Gemma's kind, which trims texts as well."""

DROPS_SYSTEM = (
    "{% for m in messages %}{% if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}</s>{% endif %}{% endfor %}"
    + GENERATION_PROMPT
)

ALL = {
    "keeps": KEEPS,
    "inst": INST,
    "drops thoughts": DROPS_THOUGHTS,
    "never keeps": NEVER_KEEPS,
    "needs tools": NEEDS_TOOLS,
    "generation tag": GENERATION_TAG,
    "refuses system": REFUSES_SYSTEM,
    "drops system": DROPS_SYSTEM,
}

MARKERS = ["<|user|>", "<|assistant|>", "<|system|>"]


class ByteTokens:
    """Tokenizer with one token per byte, and special tokens for the markers of the templates.

    Args:
        adds_begin: put `<s>` in front of every text.
        special: texts of further special tokens.
    """

    has_chat_template = True

    def __init__(self, *, adds_begin: bool = True, special: list[str] | None = None) -> None:
        self.backend_tokenizer = byte_tokenizer()
        self.backend_tokenizer.add_special_tokens(MARKERS if special is None else special)
        self.eos_token_ids = {EOS}
        self._adds_begin = adds_begin

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens and self._adds_begin).ids)

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return str(self.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))


def variables() -> Mapping[str, object]:
    return {"bos_token": "<s>", "eos_token": "</s>", "tools": None, "documents": None}


class LocalTemplate(ChatTemplate):
    """Template rendered in this process, which is faster."""

    def render_each(self, conversations: Sequence[Messages]) -> list[str | TemplateError]:
        made: list[str | TemplateError] = []
        for messages in conversations:
            given = {**self.variables, "messages": messages, "add_generation_prompt": awaits_answer(messages)}
            try:
                made.append(rendered(self.source, given))
            except Exception as error:
                made.append(TemplateError(str(error)))
        return made


def codec(source: str, **options: Any) -> TextCodec:
    """Return a codec with this template."""
    tokens = ByteTokens(**options)
    template = LocalTemplate(source, variables())
    return TextCodec(tokens, "tiny", lambda: template, AddedTokens(tokens, variables))
