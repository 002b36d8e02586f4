from __future__ import annotations

import base64
import json
import os
import re
import struct

import msgspec
import pytest
import zstandard

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Header, Keyframe, Token, Unknown, from_json, to_json
from moe_watch.sessions.reading import line_reader as session_lines
from moe_watch.sessions.reading.reader import read_session
from tests.sessions.kit import HEADER, tokens


@pytest.fixture
def lines(golden_path):
    return golden_path.read_bytes().splitlines()


@pytest.fixture
def write(tmp_path):
    path = tmp_path / "session.moe.jsonl"

    def write_lines(lines, end=b"\n"):
        path.write_bytes(b"\n".join(lines) + end)
        return path

    return write_lines


def changed(line, **fields):
    return json.dumps(json.loads(line) | fields).encode()


def changed_model(line, **fields):
    header = json.loads(line)
    return changed(line, model=header["model"] | fields)


def first_of(lines, event):
    return next(at for at, line in enumerate(lines) if json.loads(line)["event"] == event)


def refusal(path):
    with pytest.raises(UserError) as caught:
        list(read_session(path))
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    return text.removeprefix(str(path))


def test_reads_every_line_of_the_golden_session(golden_path, lines):
    session = read_session(golden_path)
    events = list(session)
    assert session.torn == ""
    assert session.header == events[0]
    assert isinstance(events[0], Header)
    assert [json.loads(to_json(event)) for event in events[1:]] == [json.loads(line) for line in lines[1:]]


def test_reads_no_further_than_asked(write, lines):
    events = iter(read_session(write([*lines[:3], b"garbage", *lines[3:]])))
    assert [type(next(events)) for _ in range(3)] == [Header, Token, Token]


def test_blank_lines_and_carriage_returns_do_no_harm(write, lines):
    spaced = [part for line in lines for part in (line + b"\r", b"", b"  ")]
    assert list(read_session(write(spaced))) == list(read_session(write(lines)))


class TestFiles:
    def test_missing(self, tmp_path):
        assert refusal(tmp_path / "none.moe.jsonl") == ": no such file: check the path"

    def test_folder(self, tmp_path):
        assert refusal(tmp_path).startswith(": a folder, not a session file: ")

    def test_named_pipe(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        assert refusal(tmp_path / "pipe").startswith(": not a regular file: ")

    def test_path_through_a_file(self, tmp_path):
        (tmp_path / "file").touch()
        assert refusal(tmp_path / "file" / "x.moe.jsonl").startswith(": Not a directory: ")

    def test_empty(self, write):
        assert refusal(write([b""], end=b"")).startswith(": the file is empty: ")

    def test_only_blank_lines(self, write):
        assert refusal(write([b"", b" "])).startswith(": the file is empty: ")

    def test_binary(self, write):
        assert refusal(write([b"\x89PNG\r\n\x1a\n"])).startswith(", line 1: no session header, not UTF-8 at byte 0: ")

    def test_text(self, write):
        assert refusal(write([b"Dear diary"])).startswith(", line 1: no session header, not JSON (")

    def test_compressed_whatever_its_name(self, tmp_path, golden_path, golden_events):
        path = tmp_path / "any.name"
        path.write_bytes(zstandard.compress(golden_path.read_bytes()))
        assert list(read_session(path)) == golden_events

    def test_compressed_in_many_frames(self, tmp_path, lines, golden_events):
        path = tmp_path / "session.moe.jsonl.zst"
        path.write_bytes(b"".join(zstandard.compress(line + b"\n") for line in lines))
        assert list(read_session(path)) == golden_events

    def test_compressed_and_cut_off(self, tmp_path, lines, golden_events):
        path = tmp_path / "session.moe.jsonl.zst"
        packed = b"".join(zstandard.compress(line + b"\n") for line in lines)
        path.write_bytes(packed[:-5])
        assert list(read_session(path)) == golden_events[:-1]

    def test_compressed_and_damaged(self, write):
        text = refusal(write([b"\x28\xb5\x2f\xfd" + b"garbage" * 10]))
        assert text.endswith(": the compressed data is damaged")


HEADER_FAULTS = {
    "another event": (lambda line: b'{"event":"token"}', "the first event is 'token' instead of 'session'"),
    "a number": (lambda line: b"17", r"not an event: Expected `object`, got `int`"),
    "no event name": (lambda line: b'{"schema":1}', "not an event: Object missing required field `event`"),
    "no schema": (lambda line: b'{"event":"session"}', "schema 0 does not exist"),
    "no model": (
        lambda line: changed(line, model=None),
        r"not an event: Expected `object`, got `null` - at `\$.model`",
    ),
    "cut off": (lambda line: line[:-30], r"not JSON \(Input data was truncated\)"),
    "deep": (lambda line: b'{"event":"session","schema":1,"x":' + b"[" * 100_000, "nested too deeply"),
    "layers unordered": (lambda line: changed_model(line, layers=[2, 1]), "the model's layers are not in ascending"),
    "layer twice": (lambda line: changed_model(line, layers=[1, 1]), "the model's layers are not in ascending order"),
    "layer negative": (lambda line: changed_model(line, layers=[-1, 1]), "a layer index is negative"),
    "too many experts": (lambda line: changed_model(line, experts=10**12), "2 layers × 1000000000000 experts is imp"),
    "more than all": (lambda line: changed_model(line, experts_per_token=5), "5 of 4 experts per token is impossible"),
    "none": (lambda line: changed_model(line, experts_per_token=0), "selects at least one expert per token"),
    "chunk of none": (lambda line: changed(line, chunk_size=0), "a chunk size of 0 is impossible"),
    "no unit": (lambda line: changed(line, units={"weights": 0.0}), "a unit of 0.0 for weights is impossible"),
    "negative seed": (
        lambda line: changed(line, sampling={"seed": -1}),
        "a seed of -1 is impossible",
    ),
    "unknown mode": (lambda line: changed(line, pressure="guessed-v9"), "pressure mode 'guessed-v9' is not one of"),
}


@pytest.mark.parametrize(("spoil", "reason"), HEADER_FAULTS.values(), ids=HEADER_FAULTS)
def test_header_that_cannot_be(write, lines, spoil, reason):
    text = refusal(write([spoil(lines[0]), *lines[1:]]))
    assert text.startswith(", line 1: no session header, ")
    assert re.search(reason, text)
    assert text.endswith(": this is not a moe-watch session")


def test_newer_major_version_is_refused_with_both_numbers(write, lines):
    newer = b'{"event":"session","schema":3,"nothing":"as before"}'
    assert refusal(write([newer, *lines[1:]])) == (
        ", line 1: schema 3, while this moe-watch reads up to schema 2: update moe-watch to read it"
    )


TOKEN_FAULTS = {
    "expert out of range": ({"experts": [4, 1, 3, 0]}, "layer 1 selects expert 4 of 4"),
    "expert negative": ({"experts": [0, 1, -1, 0]}, "layer 2 selects expert -1"),
    "expert twice": ({"experts": [0, 1, 3, 3]}, "layer 2 selects an expert twice"),
    "half a row": ({"experts": [0, 1, None, 3]}, "layer 2 is partly null"),
    "too few experts": ({"experts": [0, 1, 2]}, "experts holds 3 values instead of 4"),
    "no experts": ({"experts": []}, "experts holds 0 values instead of 4"),
    "weights too long": ({"weights": [1, 2, 3, 4, 5]}, "weights holds 5 values instead of 4"),
    "weight negative": ({"weights": [1, 2, 3, -4]}, "weights holds -4, which is negative"),
    "weight too large for any array": ({"weights": [1, 2, 3, 1 << 70]}, "weights holds 1180591620717411303424, above"),
    "entropy too short": ({"entropy": [1]}, "entropy holds 1 values instead of 2"),
    "entropy above 1": ({"entropy": [1, 10001]}, "entropy holds 10001, above the maximum of 10000"),
    "margin too short": ({"margin": []}, "margin holds 0 values instead of 2"),
    "probabilities too short": ({"probs": [1]}, "probs holds 1 values instead of 8"),
    "index before": ({"i": 0}, "token 0 is out of order; the previous token is 1"),
    "index twice": ({"i": 1}, "token 1 is repeated; the previous token is 1"),
    "index negative": ({"i": -1}, "a token index of -1 is impossible"),
    "index huge": ({"i": 1 << 60}, "a token index of 1152921504606846976 is impossible"),
    "time negative": ({"t": -0.5}, "a time of -0.5 s is impossible"),
    "time missing": ({"t": None}, r"not an event: Expected `float`, got `null` - at `\$.t`"),
    "phase unknown": ({"phase": "sleep"}, "not an event: Invalid enum value 'sleep'"),
    "event unknown": ({"event": "tokn"}, "not an event: Invalid value 'tokn'"),
}


@pytest.mark.parametrize(("fields", "reason"), TOKEN_FAULTS.values(), ids=TOKEN_FAULTS)
def test_token_that_cannot_be(write, lines, fields, reason):
    lines[3] = changed(lines[3], **fields)
    text = refusal(write(lines))
    assert text.startswith(", line 4: ")
    assert re.search(reason, text)
    assert text.endswith("the file is damaged; `moe-watch verify --salvage` copies its readable part to a new file")


def test_what_comes_before_a_bad_line_is_given_first(write, lines):
    path = write([*lines[:5], b"{}", *lines[5:]])
    events = iter(read_session(path))
    assert [type(next(events)) for _ in range(5)] == [Header, Token, Token, Token, Token]
    with pytest.raises(UserError, match="line 6: not an event: Object missing required field `event`"):
        next(events)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity"])
def test_numbers_that_json_does_not_have(write, lines, number):
    lines[3] = lines[3].replace(b'"logprob":-0.25', b'"logprob":' + number)
    assert f", line 4: not JSON ({number.decode().strip('-')} is not a JSON number): " in refusal(write(lines))


def test_number_too_large_for_a_float(write, lines):
    lines[3] = lines[3].replace(b'"logprob":-0.25', b'"logprob":1e999')
    assert ", line 4: not an event: Number out of range" in refusal(write(lines))


@pytest.mark.parametrize("number", [b"0.0001", b"7"])
def test_log_probability_above_zero(write, lines, number):
    lines[3] = lines[3].replace(b'"logprob":-0.25', b'"logprob":' + number)
    assert f", line 4: a log-probability of {float(number)} is impossible: " in refusal(write(lines))


@pytest.mark.parametrize("number", [b"0", b"-0.0"])
def test_certain_token(write, lines, number):
    lines[3] = lines[3].replace(b'"logprob":-0.25', b'"logprob":' + number)
    assert len(list(read_session(write(lines)))) == len(lines)


def test_second_header(write, lines):
    assert ", line 4: a second header; a session file holds one run: " in refusal(write([*lines[:3], *lines]))


def test_garbage_in_the_middle(write, lines):
    assert ", line 4: not JSON (" in refusal(write([*lines[:3], b"\x00\x00\x00", *lines[3:]]))


def test_invalid_utf8_in_the_middle(write, lines):
    lines[3] = lines[3].replace(b'"("', b'"\xff"')
    assert ", line 4: not UTF-8 at byte " in refusal(write(lines))


@pytest.mark.parametrize("half", [rb"\ud800", rb"\udc00", rb"\ud800\u0041"])
def test_half_a_surrogate_pair_is_refused(write, lines, half):
    lines[3] = lines[3].replace(b'"("', b'"' + half + b'"')
    said = refusal(write(lines))
    assert re.search(r", line 4: not JSON \(.*utf-16 surrogate.* at byte \d+\): ", said)


def test_a_whole_surrogate_pair_is_one_character(write, lines):
    lines[3] = lines[3].replace(b'"("', rb'"\ud83d\ude00"')
    assert list(read_session(write(lines)))[3].text == "😀"


def test_line_without_end_is_not_read_into_memory(write, lines, monkeypatch):
    monkeypatch.setattr(session_lines, "MAX_LINE", 1 << 20)
    path = write([*lines[:3]], end=b"\n")
    with path.open("ab") as file:
        file.truncate(1 << 33)
    assert ", line 4: longer than 1 MB: " in refusal(path)


def test_longest_line_allowed(write, lines, monkeypatch):
    longest = max(map(len, lines))
    monkeypatch.setattr(session_lines, "MAX_LINE", longest)
    assert len(list(read_session(write(lines)))) == len(lines)
    monkeypatch.setattr(session_lines, "MAX_LINE", longest - 1)
    assert f", line {1 + [len(line) for line in lines].index(longest)}: longer than" in refusal(write(lines))


NO_NUMBERS = struct.pack("<8d", *[1.0] * 7, float("nan"))
KEYFRAME_FAULTS = {
    "other index": ({"i": 6}, "a keyframe after 6 tokens instead of 7"),
    "layers": ({"rows_decode": [1]}, "keyframe rows holds 1 values instead of 2"),
    "experts": ({"counts_prefill": [[1, 3, 1], [1, 0, 1]]}, "keyframe table holds 3 values instead of 4"),
    "negative": ({"counts_decode": [[-1, 2, 2, 2], [3, 1, 2, 2]]}, "keyframe table holds -1"),
    "last experts": ({"last_experts": [[3, 1], [0, 9]]}, "layer 2 selects expert 9 of 4"),
    "empty row": ({"last_experts": [[3, 1], []]}, "last_experts holds 0 values instead of 2"),
    "packed table": ({"phases": "AAAA"}, "keyframe table holds 3 bytes instead of 64"),
    "packed numbers": (
        {"phases": base64.b64encode(NO_NUMBERS).decode()},
        "keyframe table holds a number out of range",
    ),
    "packed badly": ({"phases": "no base64"}, "not an event: Invalid base64 encoded string"),
    "chunks": ({"complete_chunks": 3}, "a keyframe with an impossible number of chunks"),
    "more rows than tokens": ({"rows_decode": [8, 4]}, "keyframe rows holds 8"),
    "an average above all": ({"average_meso": [[0.1, 0.1, 0.1, 1.5], [0.1] * 4]}, "keyframe table holds 1.5"),
    "packed average above all": (
        {"average_macro": base64.b64encode(struct.pack("<8d", *[1.5] * 8)).decode()},
        "keyframe table holds a number out of range",
    ),
    "residual": ({"residual": 7.0}, "residual is 7.0, outside 0 to 1"),
    "coherence": ({"coherence": -0.5}, "coherence is -0.5, outside 0 to 1"),
}


@pytest.mark.parametrize(("fields", "reason"), KEYFRAME_FAULTS.values(), ids=KEYFRAME_FAULTS)
def test_keyframe_that_cannot_be(write, lines, fields, reason):
    at = first_of(lines, "keyframe")
    lines[at] = changed(lines[at], **fields)
    assert f", line {at + 1}: {reason}" in refusal(write(lines))


OPEN_CHUNK = {
    "first": 5,
    "last": 5,
    "tokens": 1,
    "sums": dict.fromkeys(("router_entropy", "router_margin", "top_margin", "overlap"), 0.5),
    "observed": dict.fromkeys(("router_entropy", "router_margin", "top_margin", "overlap"), 1),
    "counts": [[1, 1, 0, 0], [0, 0, 1, 1]],
    "start_rows": [3, 3],
    "start_meso": [[0.1] * 4] * 2,
    "start_macro": [[0.1] * 4] * 2,
}
OPEN_CHUNK_FAULTS = {
    "full": ({"tokens": 2}, "an open chunk of 2 tokens is impossible"),
    "sums": ({"sums": {}}, "an open chunk with unknown sums"),
    "table": ({"counts": [[1, 1, 0, 0]]}, "open_chunk table holds 1 values instead of 2"),
    "rows": ({"start_rows": []}, "open_chunk start_rows holds 0 values instead of 2"),
    "more rows than tokens": ({"start_rows": [9, 3]}, "open_chunk start_rows holds 9"),
    "more selections than tokens": ({"counts": [[2, 0, 0, 0], [0, 0, 1, 1]]}, "open_chunk table holds 2"),
    "more values than rows": ({"observed": OPEN_CHUNK["observed"] | {"overlap": 3}}, "an open chunk holds 3"),
    "a sum above all": ({"sums": OPEN_CHUNK["sums"] | {"top_margin": 2.5}}, "an open chunk holds 2.5"),
    "a sum of steps above all": (
        {"sums": OPEN_CHUNK["sums"] | {"router_entropy": 20_001}},
        "an open chunk holds 20001",
    ),
}


def test_keyframe_with_an_open_chunk(write, lines):
    at = first_of(lines, "keyframe")
    lines[at] = changed(lines[at], open_chunk=OPEN_CHUNK)
    assert len(list(read_session(write(lines)))) == len(lines)


def test_open_chunk_with_packed_tables(write, lines):
    at = first_of(lines, "keyframe")
    packed = base64.b64encode(struct.pack("<8d", *[0.1] * 8)).decode()
    lines[at] = changed(lines[at], open_chunk=OPEN_CHUNK | {"start_meso": packed, "start_macro": packed})
    assert len(list(read_session(write(lines)))) == len(lines)


@pytest.mark.parametrize(("fields", "reason"), OPEN_CHUNK_FAULTS.values(), ids=OPEN_CHUNK_FAULTS)
def test_open_chunk_that_cannot_be(write, lines, fields, reason):
    at = first_of(lines, "keyframe")
    lines[at] = changed(lines[at], open_chunk=OPEN_CHUNK | fields)
    assert f", line {at + 1}: {reason}" in refusal(write(lines))


class TestTornEnd:
    def test_wherever_a_file_is_cut(self, write, lines):
        whole = b"\n".join(lines) + b"\n"
        ends = [at for at, byte in enumerate(whole) if byte == ord("\n")]
        path = write(lines)
        around_ends = {end + step for end in ends for step in (-1, 0, 1, 2)} - {len(lines[0]) - 1}
        for size in sorted(around_ends | set(range(len(lines[0]), len(whole), 97))):
            path.write_bytes(whole[:size])
            session = read_session(path)
            events = list(session)
            at_end_of_line = size in ends or size - 1 in ends or size > len(whole)
            assert len(events) == sum(end <= size for end in ends), size
            assert bool(session.torn) != at_end_of_line, size

    def test_says_up_to_where(self, write, lines):
        path = write(lines[:5], end=b'\n{"event":"tok')
        session = read_session(path)
        assert len(list(session)) == 5
        assert session.torn == f"{path}: the last line is cut off; read up to line 5"

    def test_zeros_that_a_power_cut_leaves(self, write, lines):
        session = read_session(write(lines, end=b"\n" + bytes(4096)))
        assert len(list(session)) == len(lines)
        assert session.torn

    def test_half_a_character(self, write, lines):
        session = read_session(write(lines, end=b'\n{"event":"marker","note":"\xc3'))
        assert len(list(session)) == len(lines)
        assert session.torn

    def test_newline_missing_after_a_whole_line(self, write, lines):
        session = read_session(write(lines, end=b""))
        assert len(list(session)) == len(lines)
        assert not session.torn

    def test_whole_last_line_that_cannot_be_is_refused(self, write, lines):
        assert f", line {len(lines) + 1}: not an event: " in refusal(write([*lines, b"{}"], end=b""))


class TestNewerMinorVersion:
    def test_unknown_events_are_kept_as_they_stand(self, write, lines):
        later = b'{"event":"cache","hits":[1, 2],  "deep":{"x":null}}'
        header = changed(lines[0], schema_minor=99)
        events = list(read_session(write([header, *lines[1:3], later, *lines[3:]])))
        assert events[3] == Unknown("cache", later)
        assert to_json(events[3]) == later
        assert len(events) == len(lines) + 1

    def test_unknown_fields_are_ignored(self, write, lines):
        known = list(read_session(write(lines)))
        more = [changed(line, invented={"by": "a later version"}) for line in lines]
        assert list(read_session(write(more))) == known

    def test_unknown_events_of_our_own_version_are_garbage(self, write, lines):
        assert ", line 4: not an event: Invalid value 'cache'" in refusal(
            write([*lines[:3], b'{"event":"cache"}', *lines[3:]])
        )

    def test_garbage_stays_garbage(self, write, lines):
        header = changed(lines[0], schema_minor=99)
        assert ", line 3: not JSON (" in refusal(write([header, lines[1], b"{", *lines[2:]]))


def test_gaps_between_tokens_are_accepted(write, lines):
    del lines[3:5]
    assert [event.i for event in read_session(write(lines)) if isinstance(event, Token)][:3] == [0, 1, 4]


def test_first_index_above_zero(write):
    few = list(tokens(3, first=500))
    assert list(read_session(write([to_json(HEADER), *map(to_json, few)])))[1:] == few


def test_keyframe_before_any_token(write, lines):
    at = first_of(lines, "keyframe")
    events = list(read_session(write([lines[0], lines[at], *lines[at + 1 :]])))
    assert isinstance(events[1], Keyframe)
    assert events[2].i == events[1].i


def test_dense_model(write):
    model = msgspec.structs.replace(HEADER.model, layers=[], experts=0, experts_per_token=0)
    token = from_json(b'{"event":"token","i":0,"t":0,"phase":"decode","source":"generated","id":1,"text":"a"}')
    path = write([to_json(msgspec.structs.replace(HEADER, model=model)), to_json(token)])
    assert list(read_session(path))[1] == token


class TestExamine:
    def test_every_line_with_its_place(self, golden_path, golden_events, lines):
        examined = list(read_session(golden_path).examine())
        assert [each.event for each in examined] == golden_events[1:]
        assert [each.line for each in examined] == list(range(2, len(lines) + 1))
        data = golden_path.read_bytes()
        assert all(data[each.offset :].startswith(lines[each.line - 1]) for each in examined)

    def test_goes_on_behind_an_error(self, write, lines):
        examined = list(read_session(write([*lines[:3], b"garbage", b"", *lines[3:]])).examine())
        bad = [each for each in examined if each.event is None]
        assert [(each.line, each.offset, each.torn) for each in bad] == [(4, sum(map(len, lines[:3])) + 3, False)]
        assert bad[0].problem.startswith("not JSON (")
        assert len(examined) == len(lines)

    def test_goes_on_behind_a_line_that_is_too_long(self, write, lines, monkeypatch):
        longest = max(map(len, lines))
        path = write([*lines[:3], b"x" * 100_000, *lines[3:]])
        monkeypatch.setattr(session_lines, "MAX_LINE", longest)
        examined = list(read_session(path).examine())
        assert [(each.line, each.problem) for each in examined if each.event is None] == [(4, "longer than 0 MB")]
        assert len(examined) == len(lines)

    def test_torn_end(self, write, lines):
        *_, last = read_session(write(lines[:5], end=b'\n{"event":"tok')).examine()
        assert (last.line, last.event, last.torn) == (6, None, True)

    def test_what_follows_from_an_error_is_found_too(self, write, lines):
        examined = list(read_session(write([*lines[:4], lines[2], *lines[4:]])).examine())
        assert [(each.line, each.problem) for each in examined if each.problem] == [
            (5, "token 1 is out of order; the previous token is 2")
        ]
