"""Foreign files of every format, changed in random places: read as routing of the model, or refused in one line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.importer import read_trace
from moe_watch.sessions.imports.traces import CountedTrace, ImportOptions, RoutedTrace, Trace
from tests.sessions.imports.foreign_files import EXAMPLES, EXPERTS, Example

OPTIONS = ImportOptions(experts=EXPERTS, experts_per_token=2)
IN_MEMORY = {name: each for name, each in EXAMPLES.items() if not callable(each.content)}
WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 1, 1.5, 255, 1 << 31, 1 << 63, 1 << 70, float("nan"), "", "x", [], [[]], [[[]]], {}, [None], [1],
)  # fmt: skip

freely = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def outcome(path: Path, content: bytes, options: ImportOptions = OPTIONS) -> Trace | None:
    """The trace in a file, which must be one of the model, or None if it is refused in a line."""
    path.write_bytes(content)
    refusal, found = "", None
    try:
        found = read_trace(path, options)
    except UserError as error:
        refusal = str(error)
    if found is None:
        assert len(refusal.splitlines()) == 1
        assert len(refusal) < 700
        return None
    if isinstance(found, RoutedTrace):
        assert found.experts.max() < found.shape.experts
        whole = found.experts[(found.experts >= 0).all(-1)]
        assert (np.diff(np.sort(whole, -1), axis=-1) > 0).all()
        assert 0 <= found.prompt_tokens <= len(found.experts)
    else:
        assert (found.counts >= 0).all()
        assert (found.counts.sum(-1) == found.rows * found.shape.experts_per_token).all()
    return found


def content_of(example: Example) -> bytes:
    assert not callable(example.content)
    return example.content.encode() if isinstance(example.content, str) else example.content


@pytest.mark.parametrize("example", IN_MEMORY.values(), ids=IN_MEMORY.keys())
@given(data=st.data())
@freely
def test_changed_bytes(example: Example, tmp_path: Path, data: st.DataObject) -> None:
    content = content_of(example)
    at = data.draw(st.integers(0, len(content) - 1))
    length = data.draw(st.integers(0, 6))
    put = data.draw(
        st.one_of(st.binary(max_size=6), st.sampled_from([b"0", b"-", b",", b"\n", b"9999999999", b"]", b"}"]))
    )
    outcome(
        tmp_path / "trace",
        content[:at] + put + content[at + length :],
        data.draw(st.sampled_from([OPTIONS, example.options])),
    )


@pytest.mark.parametrize("example", IN_MEMORY.values(), ids=IN_MEMORY.keys())
@given(part=st.floats(0, 1))
@freely
def test_files_that_are_cut_off(example: Example, tmp_path: Path, part: float) -> None:
    content = content_of(example)
    outcome(tmp_path / "trace", content[: int(part * len(content))] or b"{", example.options)


OF_JSON = {name: each for name, each in IN_MEMORY.items() if content_of(each)[:1] in (b"{", b"[")}


@pytest.mark.parametrize("example", OF_JSON.values(), ids=OF_JSON.keys())
@given(data=st.data())
@freely
def test_values_of_other_types(example: Example, tmp_path: Path, data: st.DataObject) -> None:
    records = [json.loads(line) for line in content_of(example).decode().splitlines()]
    changed = copy.deepcopy(records)
    for _ in range(data.draw(st.integers(1, 2))):
        holder: Any = changed
        key: Any = data.draw(st.integers(0, len(changed) - 1))
        while isinstance(holder[key], dict | list) and holder[key] and data.draw(st.integers(0, 5)):
            holder = holder[key]
            keys = sorted(holder) if isinstance(holder, dict) else range(len(holder))
            key = data.draw(st.sampled_from(keys))
        holder[key] = copy.deepcopy(data.draw(st.sampled_from(WRONG)))
    text = "".join(json.dumps(each) + "\n" for each in changed)
    outcome(tmp_path / "trace", text.encode(), data.draw(st.sampled_from([OPTIONS, example.options])))


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_what_is_not_changed_is_as_before(example: Example, tmp_path: Path) -> None:
    """The checks above would hold of files that are all refused."""
    if callable(example.content):
        pytest.skip("written by a library")
    for name, text in example.beside.items():
        (tmp_path / name).write_text(text)
    found = outcome(tmp_path / "trace", content_of(example), example.options)
    kinds = {"tokens": RoutedTrace, "counts": CountedTrace, "refused": type(None)}
    assert isinstance(found, kinds[example.holds])
