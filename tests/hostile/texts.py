"""Texts that try to do something to whoever shows them, and how to tell that they did."""

from __future__ import annotations

import unicodedata

from moe_watch.routing.events import (
    BackendInfo,
    Header,
    Marker,
    MemoryPressure,
    ModelInfo,
    Perturbation,
    Refused,
    RunWarning,
    Sampling,
    State,
    Temperature,
    Token,
    Vitals,
)

SEEN = "Zq7"
"""In every text, so that a test can tell that it was shown at all."""

TEXTS = {
    "colours": f"{SEEN}\x1b[31mred\x1b[0m",
    "clears the screen": f"{SEEN}\x1b[2J\x1b[H\x1b[3J",
    "C1 controls": f"{SEEN}\x9b2J\x9d0;owned\x9c\x90q\x9c",
    "sets the title": f"{SEEN}\x1b]0;owned\x07\x1b]2;owned\x1b\\",
    "links": f"{SEEN}\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",
    "writes the clipboard": f"{SEEN}\x1b]52;c;cm0gLXJmIH4K\x07",
    "device control": f'{SEEN}\x1bP$q"p\x1b\\\x1b_Gf=100;AAAA\x1b\\\x1b^x\x1b\\',
    "answers back": f"{SEEN}\x1b[6n\x1b[c\x1b[>q\x05\x1bZ",
    "mouse and paste": f"{SEEN}\x1b[?1000h\x1b[?2004h\x1b[?1049l\x1bc",
    "backspaces": f"{SEEN}safe\b\b\b\bevil\r{SEEN}over\x7f\x0b\x0c\x0e\x0f",
    "bidirectional": f"{SEEN}\u202etxet\u202c\u2066\u2067\u2068\u2069\u200e\u200f\u061c",
    "invisible": f"{SEEN}a\u200bb\u200cc\u200dd\u2060e\ufefff\u00adg\u180eh\u3164i",
    "tags": f"{SEEN}\U000e0041\U000e0042\U000e007f\ufe0f\U000e0100",
    "separators": f"{SEEN}one\u2028two\u2029three\x85four\x1cfive",
    "NUL": f"{SEEN}\x00a\x00\x00",
    "combining": f"{SEEN}e" + "\u0301\u0489" * 40,
    "rich markup": f"{SEEN}[bold red]x[/bold red][link=http://evil]y[/link][/]",
    "textual markup": f"{SEEN}[@click=app.quit]quit[/][$primary]z[/unclosed [on red",
    "emoji codes": f"{SEEN}:warning: :boom: [not a tag] \\[x]",
    "private use": f"{SEEN}\ue000\uf8ff\U000f0000\ufffe\uffff",
}
"""By what they try."""

TOGETHER = "".join(TEXTS.values())

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})
_INVISIBLE = frozenset("\u3164\u115f\u1160\uffa0\u034f\ufe0f")


def acting(text: str, *, allowed: str = "") -> set[str]:
    """Characters in what is shown that a terminal obeys, or that make it read as what it is not."""
    return {each for each in set(text) - set(allowed) if unicodedata.category(each) in _HIDDEN or each in _INVISIBLE}


def header(text: str, **changes: object) -> Header:
    """A header with this text wherever there can be one."""
    model = ModelInfo(
        name=text,
        architecture=text,
        layers=[0, 1],
        experts=4,
        experts_per_token=2,
        gate=text,
        quantization=text,
        fingerprint=text,
    )
    fields = {
        "created": text,
        "moe_watch": text,
        "model": model,
        "backend": BackendInfo(name=text, version=text, device=text, tap=text, dtype=text, settings={text: text}),
        "sampling": Sampling(seed=7),
        "prompt": text,
        "template": text,
        "chunk_size": 2,
        "capture": ["experts", text],
        "warnings": [text],
    }
    return Header(**{**fields, **changes})


def run(text: str, tokens: int = 6) -> list:
    """A run with this text wherever there can be one."""
    items = [header(text), _token(0, text, "prompt"), *(_token(i, text, "generated") for i in range(1, tokens))]
    items += [
        Perturbation(i=tokens, t=1.0, text=text, ids=[3], form="raw", source="key"),
        _token(tokens, text, "injected"),
        Marker(i=tokens + 1, t=1.0, note=text),
        Refused(i=tokens + 1, t=1.0, command=text, why=text),
        RunWarning(i=tokens + 1, t=1.0, text=text),
        vitals(text),
        State(state="paused", i=tokens + 1, t=1.0, why=text, message=text),
        State(state="resumed", i=tokens + 1, t=1.0, why=text, message=text),
        _token(tokens + 1, text, "generated"),
    ]
    return items


def ending(text: str, state: str, i: int = 8) -> State:
    """The end of `run`."""
    return State(state=state, i=i, t=2.0, why=text, message=text)


def vitals(text: str) -> Vitals:
    """A reading of the machine."""
    return Vitals(
        t=1.0,
        memory_total=4,
        memory_used=2,
        pressure=MemoryPressure(level="ok", source=text, stalled=0.1),
        temperatures=[Temperature(sensor=text, celsius=40.0, high=90.0)],
        unavailable={text: text, "throttling": text},
    )


def _token(i: int, text: str, source: str) -> Token:
    return Token(
        i=i,
        t=0.1 * i,
        phase="decode" if source == "generated" else "prefill",
        source=source,
        id=3 if source == "injected" else i,
        text=text,
        logprob=-1.0 if source == "generated" else None,
        experts=[i % 4, (i + 1) % 4, 2, 3],
    )
