"""Chat templates: programs that come with a model, rendered within limits, and what they leave out."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

import psutil
import pytest

from moe_watch.backends.text import chat_template
from moe_watch.backends.text.chat_template import ChatTemplate, TemplateError
from moe_watch.backends.text.format_check import template_warnings
from moe_watch.backends.text.turn_check import contains
from moe_watch.backends.worker.main import _ready
from moe_watch.routing.errors import UserError
from tests.backends.conftest import OpenModel
from tests.processes import is_gone, wait_until

SAYS = [{"role": "user", "content": "hi <you> & \"me\"\nand 'them'"}]
TURNS = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
MULTIPLIES = "{{ 'x' * 3000000000 }}"
DOUBLES = "{% set n = namespace(t='x') %}{% for i in range(40) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}"
LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}x"
DROPS = "<|start|>assistant"


@pytest.mark.parametrize(
    "source",
    [
        TURNS,
        "  {% for m in messages %}\n  {{ m.content | tojson }}\n  {% endfor %}\n",
        "{{ messages | tojson(indent=2) }}",
        "{% for m in messages %}{% generation %}{{ m.content | upper }}{% endgeneration %}{% break %}{% endfor %}",
        "{% set n = namespace(a=1) %}{% set n.a = n.a + 1 %}{{ n.a }}{{ bos_token }}{{ tools is none }}",
        "{{ dict(a=1) | tojson }}{{ strftime_now('%Y') | length }}{{ enable_thinking }}",
        "",
    ],
    ids=["turns", "blocks", "json", "generation", "namespace", "globals", "empty"],
)
def test_a_template_renders_as_in_transformers(source: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    variables = {"bos_token": "<s>", "tools": None, "enable_thinking": False}
    [expected], _ = render_jinja_template(
        [SAYS], chat_template=source, add_generation_prompt=True, bos_token="<s>", enable_thinking=False
    )
    assert ChatTemplate(source, variables).render(SAYS) == expected


@pytest.mark.parametrize("source", [MULTIPLIES, DOUBLES, "{{ ('%2000000000d' % 1) | length }}"])
def test_a_template_that_takes_gigabytes_is_refused(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "SECONDS", 60)  # on a busy machine time would run out first
    with pytest.raises(TemplateError, match="takes more than 1,024 MiB of memory"):
        ChatTemplate(source).render(SAYS)
    children = resident_of_children()
    assert children == 0


def resident_of_children() -> int:
    return sum(child.memory_info().rss for child in psutil.Process().children())


def test_a_template_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "SECONDS", 1)
    with pytest.raises(TemplateError, match="takes more than 1 s"):
        ChatTemplate(LOOPS).render(SAYS)


def test_a_template_that_makes_too_long_a_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "LONGEST_TEXT", 1000)
    with pytest.raises(TemplateError, match="its text has 1,001 characters"):
        ChatTemplate("{{ 'x' * 1001 }}").render(SAYS)


def test_memory_is_watched_where_the_system_sets_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS the child's own limit does nothing, and this one is all there is."""
    monkeypatch.setattr(chat_template, "_resident", lambda pid: chat_template.MEMORY + 1)
    with pytest.raises(TemplateError, match="MiB of memory"):
        ChatTemplate(LOOPS).render(SAYS)
    assert psutil.Process().children() == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ raise_exception('no users here') }}", "no users here"),
        ("{{ m", "unexpected end of template"),
        ("{% for i in range(10**9) %}{% endfor %}x", "Range too big"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% set n = namespace() %}{% set n.__class__ = 1 %}", "no name for a template's variable"),
        ("{{- if .System }}{{ .System }}{{ end }}", "unexpected '.'"),
    ],
)
def test_a_template_that_fails_says_why(source: str, said: str) -> None:
    with pytest.raises(TemplateError, match=said):
        ChatTemplate(source).render(SAYS)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS ends it by its limit on time")
def test_rendering_ends_with_the_process_that_asked_for_it() -> None:
    code = (
        "from moe_watch.backends.text import chat_template\n"
        "chat_template.SECONDS = 10_000\n"  # so that nothing else ends it
        f"chat_template.ChatTemplate({LOOPS!r}).render([])"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=pathlib.Path(__file__).parents[3]) as asking:
        me = psutil.Process(asking.pid)
        wait_until(lambda: any("template_renderer" in " ".join(each.cmdline()) for each in me.children()), "a renderer")
        [child] = me.children()
        wait_until(lambda: child.cpu_times().user > 0.3, "it to render, with its parent's end watched for")
        os.kill(asking.pid, signal.SIGKILL)
    try:
        wait_until(lambda: is_gone(child.pid), "the renderer to leave")
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


@pytest.mark.parametrize("source", [MULTIPLIES, "{{ raise_exception('no users here') }}", "{{ m"])
def test_an_engine_refuses_a_turn_by_such_a_template(open_model: OpenModel, source: str) -> None:
    engine = open_model(source)
    with pytest.raises(UserError, match=r"^the chat template of m fails \(.+\): use --raw$"):
        engine.encode("hi", turn=True, first=True)
    assert _ready(engine).warnings == []  # a run may well be raw


@pytest.mark.parametrize(
    "source",
    [
        TURNS,
        "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}",
        "{{ strftime_now('%Y') }}" + TURNS,
        "{% for m in messages %}{% if loop.index > 3 %}{% break %}{% endif %}{{ m['content'] }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] | tojson(ensure_ascii=False) }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] | trim }}{% endfor %}",
    ],
    ids=["turns", "generation", "date", "break", "json", "trim"],
)
def test_a_template_that_says_what_the_user_says_is_no_warning(open_model: OpenModel, source: str) -> None:
    engine = open_model("{{ bos_token }}" + source)
    assert template_warnings(engine) == []
    text = " say \"é\"\n\tand 'more' \n"
    assert contains(engine, engine.encode(text, turn=True, first=True), text)


@pytest.mark.parametrize(
    "source", [DROPS, "{{ messages | length }}", "{{ messages[0].content[:4] }}"], ids=["drops", "counts", "cuts"]
)
def test_a_template_that_leaves_the_users_text_out_is_a_warning(open_model: OpenModel, source: str) -> None:
    engine = open_model(source)
    [warning] = [each for each in _ready(engine).warnings if "leaves out" in each]
    sent = {DROPS: DROPS}.get(source, "1" if "length" in source else "Name")
    assert warning.startswith(f"the chat template leaves out or changes the user's text: the model gets {sent!r}")
    assert "--raw" in warning
