"""Process that renders conversations by one chat template: JSON on standard input, JSON on standard output.

`python -m moe_watch.backends.text.template_renderer SECONDS BYTES CHARACTERS PARENT`. The Jinja environment is the one
that `transformers` uses; llama-cpp-python follows it as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.utils
from jinja2 import nodes, parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

FIRST_SAFE = (3, 1, 6)
"""Earlier versions of jinja2 have known ways out of the sandbox."""
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Render the conversations from standard input, within limits."""
    seconds, memory, longest, parent = map(int, sys.argv[1:5])
    _end_with(parent)
    _limit(seconds, memory)
    request = json.load(sys.stdin)
    variables = [request["variables"] | case for case in request["cases"]]
    json.dump([_answer(request["template"], each, memory, longest) for each in variables], sys.stdout)


def _answer(template: str, variables: Mapping[str, object], memory: int, longest: int) -> dict[str, str]:
    try:
        text = rendered(template, variables)
    except MemoryError:
        return {"failed": f"it takes more than {memory >> 20:,} MiB of memory"}
    except Exception as error:  # a template is a program, and may raise anything
        return {"failed": next(iter(str(error).splitlines()), "") or type(error).__name__}
    if len(text) > longest:
        return {"failed": f"its text has {len(text):,} characters"}
    return {"text": text}


def rendered(template: str, variables: Mapping[str, object]) -> str:
    """Return the rendered text. A template that fails without tools is rendered with an empty list of them."""
    program = environment().from_string(template)
    try:
        return program.render(**variables)
    except TypeError:
        if variables.get("tools", ()) is not None:
            raise
        return program.render(**{**variables, "tools": []})


def _end_with(parent: int) -> None:
    """Make Linux kill this process when its parent ends. On other systems only the time limit ends it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # a C library may lack it
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _limit(seconds: int, memory: int) -> None:
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
    ):
        with contextlib.suppress(ValueError, OSError):  # macOS refuses some; the parent checks memory as well
            resource.setrlimit(kind, (limit, limit + 1 if kind == resource.RLIMIT_CPU else limit))


def environment() -> ImmutableSandboxedEnvironment:
    """Return the environment that chat templates are written for.

    Raises:
        RuntimeError: jinja2 is too old to be safe.
    """
    if tuple(int(part) for part in jinja2.__version__.split(".")[:3]) < FIRST_SAFE:
        raise RuntimeError(f"jinja2 {jinja2.__version__} is not safe: install jinja2 3.1.6 or newer")
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.globals.update(raise_exception=_raise, strftime_now=_now, dict=_Dict(), namespace=_Namespace)
    return made


class GenerationTag(jinja2.ext.Extension):
    """Tag `{% generation %}`, which marks the model's own text for training; it has no effect here."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: parser.Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Dict:
    """Substitute for `dict` without class attributes, through which a template could escape the sandbox."""

    def __call__(self, *values: Any, **named: Any) -> dict[Any, Any]:
        return dict(*values, **named)

    def fromkeys(self, *values: Any) -> dict[Any, Any]:
        return dict.fromkeys(*values)


class _Namespace(jinja2.utils.Namespace):
    """Namespace that refuses names with a leading underscore, and so all of Python's internal names."""

    def __init__(*values: Any, **named: Any) -> None:
        self, *rest = values
        attributes = dict(*rest, **named)
        for name in attributes:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"{name} is no name for a template's variable")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


if __name__ == "__main__":
    main()
