"""Format check: each fault is a warning on both engines, and right prompts are none."""

from __future__ import annotations

from typing import Any

import pytest

from moe_watch.backends.engine import Engine
from moe_watch.backends.generation.start import first_tokens
from moe_watch.backends.run_spec import RunSpec
from moe_watch.backends.text.format_check import prompt_warnings, template_warnings
from moe_watch.backends.text.template_frame import TemplateFrame, frame_of
from moe_watch.backends.worker.main import _ready
from moe_watch.routing.errors import UserError
from tests.backends.conftest import OpenModel
from tests.backends.scripted import Session, start
from tests.backends.text.small_templates import (
    ALL,
    DROPS_SYSTEM,
    DROPS_THOUGHTS,
    INST,
    KEEPS,
    REFUSES_SYSTEM,
    codec,
)

BEGIN = "{{ bos_token }}"
CHATML = (
    BEGIN
    + "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def prompt(engine: Engine, text: str, **options: Any) -> list[str]:
    """The warnings about a prompt."""
    spec = RunSpec(prompt=text, **options)
    return prompt_warnings(engine, spec, first_tokens(engine, start(text, **options)))


def test_a_right_prompt_is_no_warning(open_model: OpenModel) -> None:
    engine = open_model(INST)
    assert template_warnings(engine) == []
    assert prompt(engine, "Hello.") == []
    assert prompt(engine, "Hello.", system="Be brief.") == []
    assert prompt(engine, "[INST] Hello. [/INST]", raw=True) == []
    assert prompt(engine, "What is <b> in HTML, and [0]?") == []


def test_a_base_model_takes_any_raw_prompt(open_model: OpenModel) -> None:
    engine = open_model("")
    assert template_warnings(engine) == []
    assert prompt(engine, "def f(x):") == []


def test_two_begin_of_text_tokens_are_a_warning(open_model: OpenModel) -> None:
    [said] = template_warnings(open_model(BEGIN + INST))
    assert said == "the chat template begins with <s> twice: the model was trained with one"
    assert prompt(open_model(BEGIN + INST), "Hello.") == []  # the fault of the template is said once
    raw = open_model(INST)
    assert prompt(raw, "<s>[INST] Hello. [/INST]", raw=True) == [
        "the prompt begins with <s> twice: the model was trained with one"
    ]


def test_a_missing_begin_of_text_token_is_a_warning(open_model: OpenModel) -> None:
    [said] = template_warnings(open_model(INST.replace(BEGIN, "")))
    assert said == "the chat template does not begin with <s>, which the tokenizer puts before every text"


def test_a_raw_prompt_without_the_markers_of_the_template_is_a_warning(open_model: OpenModel) -> None:
    said = (
        "the raw prompt has none of the turn markers that this model was trained with ([INST], [/INST]): "
        "leave out --raw to have them written"
    )
    assert prompt(open_model(INST), "Hello.", raw=True) == [said]


def test_the_markers_of_another_family_are_a_warning(open_model: OpenModel) -> None:
    found = prompt(open_model(INST), "<|im_start|>user\nHello.<|im_end|>\n", raw=True)
    assert found[0] == (
        "the prompt has <|im_start|>, a turn marker of ChatML, which is plain text of 12 tokens for this model"
    )
    assert "[INST]" in found[1]
    assert prompt(open_model(INST), "<|im_start|>Hello.")[0] == found[0]
    assert prompt(open_model(""), "<|im_start|>Hello.") == [found[0]]


def test_a_prompt_with_the_markers_of_the_template_has_them_twice(open_model: OpenModel) -> None:
    assert prompt(open_model(INST), "[INST] Hello. [/INST]") == [
        "the prompt has turn markers ([INST], [/INST]), and the chat template adds them again: give --raw"
    ]


def test_an_end_of_turn_that_does_not_end_a_run_is_a_warning(open_model: OpenModel) -> None:
    assert template_warnings(open_model(CHATML)) == [
        "the chat template ends an answer with <|im_end|> (plain text of 10 tokens), and a run stops at </s>: "
        "answers may run on"
    ]


def test_a_marker_that_ends_an_answer_but_no_run_is_named() -> None:
    """With `<|im_end|>` as a special token that is no end of text."""
    engine = _TextOnly(codec(CHATML, special=["<|im_start|>", "<|im_end|>"]))
    assert template_warnings(engine) == [
        "the chat template ends an answer with <|im_end|>, and a run stops at </s>: answers may run on"
    ]


class _TextOnly(Engine):
    """Engine without a model."""

    def __init__(self, of: Any) -> None:
        self.codec = of

    def encode(self, text: str, *, turn: bool, first: bool) -> list[int]:
        return self.codec.encode(text, first=first)

    def detokenizer(self) -> Any:
        return self.codec.detokenizer()


_TextOnly.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


def test_a_system_prompt_that_is_dropped_is_a_warning(open_model: OpenModel) -> None:
    engine = open_model(BEGIN + DROPS_SYSTEM)
    assert prompt(engine, "Hello.") == []
    assert prompt(engine, "Hello.", system="Be brief.") == [
        "the chat template leaves out the system prompt: put its text at the beginning of the prompt"
    ]


def test_a_system_prompt_that_is_refused_ends_the_run_before_it_begins(open_model: OpenModel) -> None:
    engine = open_model(REFUSES_SYSTEM)
    session = Session(engine).run(start("Hello.", system="Be brief.", tokens=5))
    assert session.tokens == []
    [(state, _, _)] = session.states
    assert state == "error"
    message = next(item.message for item in session.items if hasattr(item, "message"))
    assert message == (
        "the chat template of m refuses a system prompt (System role not supported): "
        "put its text at the beginning of the prompt, and leave out --system"
    )
    assert Session(engine).run(start("Hello.", tokens=5)).states[-1][:2] == ("finished", "length")


def test_a_model_without_a_template_takes_no_system_prompt(open_model: OpenModel) -> None:
    with pytest.raises(UserError, match=r"^m has no chat template, so it takes no system prompt: .*--template"):
        first_tokens(open_model(""), start("Hello.", system="Be brief."))


def test_a_raw_prompt_takes_no_system_prompt(open_model: OpenModel) -> None:
    with pytest.raises(UserError, match=r"^a raw prompt takes no system prompt"):
        first_tokens(open_model(KEEPS), start("Hello.", system="Be brief.", raw=True))


def test_a_template_of_the_user_replaces_that_of_the_model(open_model: OpenModel) -> None:
    for own in ("", KEEPS):
        engine = open_model(own)
        engine.codec.replace_template(INST, "inst.jinja")
        assert engine.has_chat_template
        ids = first_tokens(engine, start("Hello.", system="Be brief."))
        assert engine.codec.decode(ids) == "<s>[INST] Be brief.\n\nHello. [/INST]"
        source = _ready(engine).template_source
        assert source is not None
        assert (source.origin, source.name) == ("file", "inst.jinja")
        assert _ready(engine).template == "chat"


def test_the_origin_of_a_models_template_is_recorded_with_its_digest(open_model: OpenModel) -> None:
    import hashlib

    source = _ready(open_model(KEEPS)).template_source
    assert source is not None
    assert (source.origin, source.name) == ("model", None)
    assert source.sha256 == hashlib.sha256(KEEPS.encode()).hexdigest()
    assert _ready(open_model("")).template_source is None


@pytest.mark.parametrize("template", ALL.values(), ids=ALL)
def test_the_frame_of_a_template_has_its_markers_and_its_end(template: str) -> None:
    frame = frame_of(codec(template))
    assert frame is not None
    assert frame.end_marker == "</s>"
    user = "[INST]" if template == INST else "<|user|>"
    assert frame.markers[0] == user
    assert "<s>" not in frame.markers
    assert "</s>" not in frame.markers


def test_a_template_without_brackets_is_known_by_the_words_beside_the_text() -> None:
    frame = TemplateFrame("USER: Name a colour, please.\nASSISTANT:", "\n", frozenset())
    assert frame.markers == ("USER:", "ASSISTANT:")
    assert frame.end_marker == ""


@pytest.mark.parametrize("template", [INST, BEGIN + DROPS_THOUGHTS, BEGIN + KEEPS])
def test_the_warnings_of_a_prompt_are_events_of_the_run(open_model: OpenModel, template: str) -> None:
    engine = open_model(template)
    assert Session(engine).run(start("Hello.", tokens=3)).warnings == []
    [said] = Session(engine).run(start("Hello.", raw=True, tokens=3)).warnings
    assert "none of the turn markers" in said
