"""Chat templates as GGUF files in the field have them: they make a turn, or a line says why not."""

from __future__ import annotations

import pathlib

import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.routing.errors import UserError
from tests.backends import llama_files, pocket_variants
from tests.backends.pocket_variants import text

KEY = "tokenizer.chat_template"
PLAIN = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"

MAKE_A_TURN = {
    "plain": (PLAIN, "<user>hello"),
    "a tag for training": (
        "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}",
        "hello",
    ),
    "the year": ("{{ strftime_now('%Y')[:2] }}" + PLAIN, "20<user>hello"),
    "a break": (
        "{% for m in messages %}{% if loop.index > 3 %}{% break %}{% endif %}{{ m['content'] }}{% endfor %}",
        "hello",
    ),
    "JSON": ("{% for m in messages %}{{ m['content'] | tojson(ensure_ascii=False) }}{% endfor %}", '"hello"'),
}

REFUSED = {
    "raises": ("{{ raise_exception('System role not supported') }}", "System role not supported"),
    "is no template": ("{% for m in messages %}{{ m['content'] }", "unexpected '}'"),
    "is Go's": ("{{- if .System }}{{ .System }}{{ end }}", "unexpected '.'"),
}


@pytest.mark.parametrize("case", MAKE_A_TURN)
def test_a_template_makes_a_turn(case: str, tmp_path: pathlib.Path) -> None:
    template, expected = MAKE_A_TURN[case]
    with llama_files.opening() as load_path:
        engine = load_path(pocket_variants.write(tmp_path / "m.gguf", {KEY: text(template)}))
        assert engine.has_chat_template
        detokenizer = engine.detokenizer()
        turn = "".join(detokenizer.add(token) for token in engine.encode("hello", turn=True, first=True))
    assert turn == expected


@pytest.mark.parametrize("case", REFUSED)
def test_a_template_that_fails_is_named(case: str, tmp_path: pathlib.Path) -> None:
    template, reason = REFUSED[case]
    with llama_files.opening() as load_path:
        engine = load_path(pocket_variants.write(tmp_path / "m.gguf", {KEY: text(template)}))
        with pytest.raises(UserError) as caught:
            engine.encode("hello", turn=True, first=True)
    assert str(caught.value) == f"the chat template of m fails ({reason}): use --raw"


def test_an_empty_template_is_none(tmp_path: pathlib.Path) -> None:
    with llama_files.opening() as load_path:
        engine = load_path(pocket_variants.write(tmp_path / "m.gguf", {KEY: text("")}))
        assert not engine.has_chat_template
