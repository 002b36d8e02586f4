"""Every published version is read, and means what it meant; newer ones are passed on, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import pytest
from msgspec import to_builtins

from moe_watch.routing.arrays import unpacked
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import SCHEMA, SCHEMA_BY_LAYER, SCHEMA_MINOR, Event, Header, Keyframe, to_json
from moe_watch.routing.header import experts_per_token
from moe_watch.routing.summary import Summary
from moe_watch.sessions.reading.reader import read_session
from moe_watch.sessions.reading.versions import PUBLISHED, is_newer, refusal
from moe_watch.sessions.verifying.file import verify
from moe_watch.sessions.verifying.salvage import salvage
from tests.sessions.kit import replayed

GOLDEN = Path(__file__).parents[2] / "golden"
FILES = {
    "1.0": GOLDEN / "golden-1.0.moe.jsonl",
    "1.1": GOLDEN / "golden-1.1.moe.jsonl",
    "1.2": GOLDEN / "golden-1.2.moe.jsonl",
    "2.2": GOLDEN / "golden-2.2.moe.jsonl",
    "1.3": GOLDEN / "golden-1.3.moe.jsonl",
    "2.3": GOLDEN / "golden-2.3.moe.jsonl",
    "1.4": GOLDEN / "golden.moe.jsonl",
    "2.4": GOLDEN / "golden-by-layer.moe.jsonl",
}
"""The same run as each version wrote it, byte for byte; never to be changed once the version is published. Those of
schema 2 are of a model whose second MoE layer selects one expert."""
OF_ONE_K = {name: path for name, path in FILES.items() if name.startswith("1.")}


def summary(path):
    folded = Summary()
    for item in replayed(path):
        folded.feed(item)
    return to_builtins(folded.result())


def versioned(path):
    header = json.loads(path.read_bytes().splitlines()[0])
    return f"{header['schema']}.{header['schema_minor']}"


def fields(kind, prefix):
    """Every field of an event, nested ones included."""
    for name, hint in get_type_hints(kind).items():
        yield f"{prefix}.{name}"
        for each in (hint, *get_args(hint)):  # a field that may be absent is a union
            if isinstance(each, type) and issubclass(each, msgspec.Struct):
                yield from fields(each, f"{prefix}.{name}")


def test_there_is_a_file_of_every_published_version():
    assert [str(version) for version in PUBLISHED] == list(FILES)
    assert {name: versioned(path) for name, path in FILES.items()} == {name: name for name in FILES}


def test_the_last_published_version_is_the_one_that_is_written():
    newest = {version.major: version.minor for version in PUBLISHED}
    assert newest == {SCHEMA: SCHEMA_MINOR, SCHEMA_BY_LAYER: SCHEMA_MINOR}


def test_a_file_has_the_older_schema_unless_layers_differ():
    model = read_session(FILES["2.4"]).header.model
    assert (model.experts_per_token, model.schema) == ([2, 1], SCHEMA_BY_LAYER)
    for given, k, schema in (([2, 2], 2, SCHEMA), ([1], 1, SCHEMA), ([2, 1], [2, 1], SCHEMA_BY_LAYER)):
        assert experts_per_token(given) == k
        assert msgspec.structs.replace(model, experts_per_token=k).schema == schema


def test_a_file_of_experts_by_layer_comes_to_what_its_rows_hold():
    found, other = summary(FILES["2.4"]), summary(FILES["1.4"])
    assert found["experts_per_token"] == [2, 1]
    assert found["usage"]["decode"]["counts"] == [other["usage"]["decode"]["counts"][0], [2, 1, 1, 2]]
    assert found["usage"]["decode"]["rows"] == [6, 6]
    assert found["churn"]["per_layer"][0] == other["churn"]["per_layer"][0]
    assert not {"chunks", "keyframes", "counts", "unreadable lines"} & {
        finding.check for finding in verify(FILES["2.4"]).findings
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema": 1}, "schema 1 allows only one number of experts per token"),
        ({"experts_per_token": [2]}, "experts per token of 1 layers instead of 2"),
        ({"experts_per_token": [2, 5]}, "5 of 4 experts per token is impossible"),
        ({"experts_per_token": [2, 0]}, "selects at least one expert per token"),
        ({"experts_per_token": [2, True]}, "not an event: "),
    ],
    ids=["schema-1", "a-layer-short", "more-than-there-are", "none", "no-number"],
)
def test_experts_by_layer_that_cannot_be(tmp_path, changes, reason):
    lines = FILES["2.4"].read_bytes().splitlines(keepends=True)
    header = json.loads(lines[0])
    (header if "schema" in changes else header["model"]).update(changes)
    path = tmp_path / "by-layer.moe.jsonl"
    path.write_bytes(b"".join([json.dumps(header).encode() + b"\n", *lines[1:]]))
    with pytest.raises(UserError, match=reason):
        read_session(path)


@pytest.mark.parametrize("path", OF_ONE_K.values(), ids=OF_ONE_K)
def test_each_is_read_and_comes_to_the_same(path):
    assert summary(path) == summary(FILES["1.4"])


def test_what_an_older_version_did_not_have_has_its_default():
    header = read_session(FILES["1.0"]).header
    assert isinstance(header, Header)
    assert (header.backend.settings, header.multistep, header.teacher, header.continues) == ({}, False, None, None)
    (keyframe,) = (event for event in read_session(FILES["1.0"]) if isinstance(event, Keyframe))
    assert keyframe.multistep is False


def test_every_addition_is_one_of_this_version():
    known = {kind.__struct_config__.tag: kind for kind in get_args(Event)}
    added = {field for version in PUBLISHED for field in version.fields | version.forms}
    assert {event for version in PUBLISHED for event in version.events} <= known.keys()
    assert added <= {field for name, kind in known.items() for field in fields(kind, name)}


def test_no_older_file_holds_what_came_later():
    for at, path in enumerate(FILES.values(), 1):
        later = frozenset().union(*(version.events for version in PUBLISHED[at:]))
        assert not later & {json.loads(line)["event"] for line in path.read_bytes().splitlines()}
    lines = [json.loads(line) for line in FILES["1.0"].read_bytes().splitlines()]
    assert "multistep" not in lines[0]
    assert "settings" not in lines[0]["backend"]


def test_a_value_written_another_way_is_the_same_value():
    older, newer = (
        next(event for event in read_session(FILES[name]) if isinstance(event, Keyframe)) for name in ("1.0", "1.1")
    )
    (version,) = (each for each in PUBLISHED if (each.major, each.minor) == (1, 1))
    for form in version.forms:
        name = form.removeprefix("keyframe.")
        assert isinstance(getattr(older, name), list)
        assert isinstance(getattr(newer, name), bytes)
        assert unpacked(getattr(older, name)).tobytes() == getattr(newer, name)


@pytest.mark.parametrize("path", FILES.values(), ids=FILES)
def test_a_rewritten_file_is_still_one_of_its_version(path, tmp_path):
    salvage(path, tmp_path / "copy.moe.jsonl")
    assert (tmp_path / "copy.moe.jsonl").read_bytes() == path.read_bytes()


def test_unknown_events_and_fields_of_a_newer_minor_version_survive_a_rewrite(tmp_path):
    lines = FILES["1.4"].read_bytes().splitlines(keepends=True)
    header = json.loads(lines[0]) | {"schema_minor": SCHEMA_MINOR + 1, "later": {"x": [1]}}
    newer = [json.dumps(header).encode() + b"\n", lines[1], b'{"event":"later","n":1}\n', *lines[2:]]
    path = tmp_path / "newer.moe.jsonl"
    path.write_bytes(b"".join(newer))
    assert b'{"event":"later","n":1}' in [to_json(event) for event in read_session(path)]
    salvage(path, tmp_path / "copy.moe.jsonl")
    assert (tmp_path / "copy.moe.jsonl").read_bytes() == path.read_bytes()


def test_a_newer_major_version_is_refused_with_both_numbers(tmp_path):
    path = tmp_path / "newer.moe.jsonl"
    path.write_bytes(b'{"event":"session","schema":7,"all":"else"}\n')
    with pytest.raises(
        UserError, match=f"schema 7, while this moe-watch reads up to schema {SCHEMA_BY_LAYER}: update moe-watch"
    ):
        read_session(path)


@pytest.mark.parametrize(
    ("major", "said"),
    [
        (SCHEMA, ""),
        (SCHEMA_BY_LAYER, ""),
        (SCHEMA_BY_LAYER + 1, "schema 3, while this moe-watch reads up to schema 2"),
        (0, "schema 0 does not exist"),
    ],
)
def test_major_versions(major, said):
    assert refusal(major) == said


def test_minor_versions():
    assert not is_newer(SCHEMA_MINOR)
    assert is_newer(SCHEMA_MINOR + 1)
