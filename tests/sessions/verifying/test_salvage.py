"""The readable lines of a damaged file become a clean one; every loss is reported, and no file is overwritten."""

from __future__ import annotations

import json

import pytest
import zstandard

from moe_watch.commands.app import run
from moe_watch.routing.contexts import ContextNumbers
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Chunk, Keyframe, State, Token, from_json
from moe_watch.sessions.reading import line_reader as session_lines
from moe_watch.sessions.verifying.file import verify
from moe_watch.sessions.verifying.salvage import REASONS_KEPT, LeftOut, salvage
from tests.routing.test_contexts import two_contexts
from tests.sessions.faults import path_of, recorded, with_keyframe, write
from tests.sessions.kit import replayed
from tests.sessions.reading.test_contexts import write as write_contexts


@pytest.fixture
def whole():
    """A real recording's lines."""
    return path_of("mlx").read_bytes().splitlines(keepends=True)


@pytest.fixture
def damaged(tmp_path):
    path = tmp_path / "damaged.moe.jsonl"

    def write_lines(lines):
        path.write_bytes(b"".join(lines))
        return path

    return write_lines


@pytest.fixture
def copy(tmp_path):
    return tmp_path / "copy.moe.jsonl"


def kinds(lines, kind):
    return [at for at, line in enumerate(lines) if isinstance(from_json(line), kind)]


def test_a_file_that_is_well_is_copied_as_it_stands(whole, damaged, copy):
    saved = salvage(damaged(whole), copy)
    assert copy.read_bytes() == b"".join(whole)
    assert (saved.lines, saved.tokens, saved.left_out, saved.missing_tokens) == (165, 145, [], 0)
    assert copy.stat().st_mode & 0o777 == 0o600


def test_lines_that_tell_of_no_token_are_left_out_and_nothing_else_changes(whole, damaged, copy):
    broken = [*whole[:30], b"garbage\n", b"\xff\n", b"{}\n", *whole[30:]]
    saved = salvage(damaged(broken), copy)
    assert copy.read_bytes() == b"".join(whole)
    assert [each.line for each in saved.left_out] == [31, 32, 33]
    assert saved.left_out[1] == LeftOut(32, "not UTF-8 at byte 0")
    assert verify(copy).fine


def test_a_torn_end_is_left_out(whole, damaged, copy):
    saved = salvage(damaged([*whole[:-1], whole[-1][:20]]), copy)
    assert saved.left_out == [LeftOut(165, "cut off")]
    assert copy.read_bytes() == b"".join(whole[:-1])


def test_a_chunk_whose_line_is_lost_is_written_from_its_tokens(whole, damaged, copy):
    at = kinds(whole, Chunk)[2]
    saved = salvage(damaged([*whole[:at], whole[at][:40] + b"\n", *whole[at + 1 :]]), copy)
    assert saved.left_out_lines == 1
    assert saved.missing_tokens == saved.computed == 0
    assert verify(copy).fine
    assert len(replayed(copy)) == len(replayed(path_of("mlx")))


class TestMissingTokens:
    @pytest.fixture
    def saved(self, tmp_path, damaged, copy):
        lines = write(tmp_path / "framed", with_keyframe(recorded(), after=100)).read_bytes().splitlines(keepends=True)
        at = kinds(lines, Token)[50]
        lines[at : at + 2] = [b'{"event":"token","i":\n', b"\x00\x00\n"]
        return salvage(damaged(lines), copy)

    def test_they_are_counted_and_said_where_they_were(self, saved, copy):
        assert saved.missing_tokens == 2
        events = [from_json(line) for line in copy.read_bytes().splitlines()]
        dropped = next(at for at, event in enumerate(events) if isinstance(event, State) and event.state == "dropped")
        assert events[dropped].count == 2
        assert events[dropped].i == 50
        assert events[dropped - 1].i == 49
        assert events[dropped + 1].i == 52

    def test_what_follows_is_computed_from_those_that_are_left(self, saved, copy):
        assert saved.computed > 5
        assert {finding.check for finding in verify(copy).findings} == {"dropped", "missing tokens"}
        items = replayed(copy)
        assert sum(isinstance(item, Chunk) for item in items) > 5

    def test_a_recorded_keyframe_that_counted_them_is_not_kept(self, saved, copy):
        assert not any(isinstance(from_json(line), Keyframe) for line in copy.read_bytes().splitlines())


class TestIndexTooLarge:
    """A token whose index was damaged to a larger one is possible on its own; those after it say that it is wrong."""

    def spoil(self, whole, *changes):
        """The lines with other indices at some tokens."""
        lines = list(whole)
        places = kinds(whole, Token)
        for before, after in changes:
            at = places[before]
            lines[at] = lines[at].replace(b'"i":%d,' % before, b'"i":%d,' % after, 1)
            assert lines[at] != whole[at]
        return lines

    @pytest.mark.parametrize("index", [58, 59, 61, 5700, 1 << 50])
    def test_it_alone_is_left_out(self, whole, damaged, copy, index):
        path = damaged(self.spoil(whole, (57, index)))
        saved = salvage(path, copy)
        line = kinds(whole, Token)[57] + 1
        reason = f"token {index} instead of token 57; the tokens after it continue from 57"
        assert saved.left_out == [LeftOut(line, reason)]
        assert (saved.tokens, saved.missing_tokens) == (144, 1)
        assert {finding.check for finding in verify(copy).findings} == {"dropped", "missing tokens"}
        found = {finding.check: finding for finding in verify(path).findings}
        assert (found["unreadable lines"].line, found["unreadable lines"].count) == (line, 1)
        assert found["unreadable lines"].text == reason
        assert found["missing tokens"].count == 1

    @pytest.mark.parametrize("changes", [[(57, 5700), (58, 5800)], [(57, 5800), (58, 5700)], [(0, 900), (60, 900)]])
    def test_several(self, whole, damaged, copy, changes):
        saved = salvage(damaged(self.spoil(whole, *changes)), copy)
        assert (saved.tokens, saved.missing_tokens, saved.left_out_lines) == (143, 2, 2)

    def test_one_token_after_it_is_enough(self, whole, damaged, copy):
        saved = salvage(damaged(self.spoil(whole, (143, 5700))), copy)
        assert (saved.tokens, saved.missing_tokens, saved.left_out_lines) == (144, 1, 1)

    @pytest.mark.parametrize("wrong", [[(58, 60)], [(58, 3), (59, 4)]])
    def test_a_token_behind_a_gap_is_not_given_up_for_damaged_ones_after_it(self, whole, damaged, copy, wrong):
        later = [(at, at + 5000) for at in range(57, 145) if at not in dict(wrong)]
        saved = salvage(damaged(self.spoil(whole, *later, *wrong)), copy)
        places = kinds(whole, Token)
        assert [each.line for each in saved.left_out] == [places[at] + 1 for at, _ in wrong]
        assert saved.missing_tokens == 5000 + len(wrong)

    def test_at_the_end_nothing_contradicts_it(self, whole, damaged, copy):
        saved = salvage(damaged(self.spoil(whole, (144, 5700))), copy)
        assert (saved.left_out, saved.tokens, saved.missing_tokens) == ([], 145, 5556)

    def test_tokens_that_are_really_missing_are_no_damage(self, whole, damaged, copy):
        later = [(at, at + 5000) for at in range(57, 145)]
        saved = salvage(damaged(self.spoil(whole, *later)), copy)
        assert (saved.left_out, saved.tokens, saved.missing_tokens) == ([], 145, 5000)


def test_fields_and_events_of_a_newer_version_are_passed_on_as_they_stand(whole, damaged, copy):
    header = json.loads(whole[0]) | {"schema_minor": 99, "invented": {"by": "a later version"}}
    token = json.loads(whole[20]) | {"invented": [1, 2]}
    newer = b'{"event":"cache",  "hits":[1, 2]}\n'
    lines = [json.dumps(header).encode() + b"\n", *whole[1:20], json.dumps(token).encode() + b"\n", newer, *whole[21:]]
    salvage(damaged([*lines[:40], b"garbage\n", *lines[40:]]), copy)
    assert copy.read_bytes() == b"".join(lines)


def test_line_ends_and_a_byte_order_mark_are_those_of_a_session(whole, damaged, copy):
    windows = [b"\xef\xbb\xbf" + whole[0], *whole[1:]]
    salvage(damaged([line[:-1] + b"\r\n" for line in windows]), copy)
    assert copy.read_bytes() == b"".join(whole)


def test_a_line_longer_than_any_may_be(whole, damaged, copy, monkeypatch):
    monkeypatch.setattr(session_lines, "MAX_LINE", 4096)
    saved = salvage(damaged([*whole[:20], b"x" * 10_000 + b"\n", *whole[20:]]), copy)
    assert [each.line for each in saved.left_out] == [21]
    assert "longer than" in saved.left_out[0].reason
    assert copy.read_bytes() == b"".join(whole)


def test_reasons_are_kept_for_so_many_lines_and_the_rest_counted(whole, damaged, copy):
    saved = salvage(damaged([whole[0], *[b"garbage\n"] * (REASONS_KEPT + 5), *whole[1:]]), copy)
    assert len(saved.left_out) == REASONS_KEPT
    assert saved.left_out_lines == REASONS_KEPT + 5


def test_a_compressed_file_to_a_compressed_copy(whole, damaged, tmp_path):
    packed = damaged([zstandard.compress(b"".join([*whole[:9], b"garbage\n", *whole[9:]]))])
    copy = tmp_path / "copy.moe.jsonl.zst"
    salvage(packed, copy)
    unpacked = zstandard.ZstdDecompressor().decompressobj().decompress(copy.read_bytes())
    assert unpacked == b"".join(whole)


class TestDamagedFreshContext:
    """The prompt is evaluated again only in a fresh context, so a damaged line before it was its state."""

    @pytest.fixture(params=["measured-v2", "measured-v1"])
    def lines(self, tmp_path, request):
        path = write_contexts(tmp_path / "contexts.moe.jsonl", two_contexts(14, 13, extra=2), request.param)
        return path.read_bytes().splitlines(keepends=True)

    def boundary(self, lines):
        return next(at for at in kinds(lines, State) if from_json(lines[at]).state == "fresh_context")

    def contexts_of(self, path):
        numbers = ContextNumbers()
        found = {}
        for item in replayed(path):
            numbers.feed(item)
            if isinstance(item, Chunk):
                found[item.index] = numbers.of(item)
        return found

    @pytest.mark.parametrize("damage", [b'{"event":"state","state":"fresh_co\n', b"\xff\n", None], ids=repr)
    def test_is_restored_at_its_place(self, lines, damaged, copy, tmp_path, damage):
        at = self.boundary(lines)
        saved = salvage(damaged([*lines[:at], damage or lines[at][:-9] + b"\n", *lines[at + 1 :]]), copy)
        assert (saved.restored_contexts, saved.merged_contexts, saved.computed) == (1, 0, 0)
        kept = copy.read_bytes().splitlines(keepends=True)
        assert (kept[:at], kept[at + 1 :]) == (lines[:at], lines[at + 1 :])
        state, before = from_json(kept[at]), from_json(lines[at])
        assert (state.state, state.i) == ("fresh_context", before.i)
        assert self.contexts_of(copy) == self.contexts_of(tmp_path / "contexts.moe.jsonl")

    def test_is_restored_beside_missing_tokens(self, lines, damaged, copy):
        at = self.boundary(lines)
        tokens = [each for each in kinds(lines, Token) if each > at]
        gone = {at, tokens[0]}
        broken = [b"garbage\n" if each in gone else line for each, line in enumerate(lines)]
        saved = salvage(damaged(broken), copy)
        assert (saved.restored_contexts, saved.missing_tokens) == (1, 1)
        assert set(self.contexts_of(copy).values()) == {0, 1}
        assert {finding.check for finding in verify(copy).findings} <= {"dropped", "missing tokens", "captured", "tap"}

    def test_a_lost_prompt_is_reported(self, tmp_path, damaged, copy):
        path = write_contexts(tmp_path / "contexts.moe.jsonl", two_contexts(14, 13, extra=2))
        lines = path.read_bytes().splitlines(keepends=True)
        at = self.boundary(lines)
        prompt = [each for each in kinds(lines, Token) if each > at and from_json(lines[each]).source == "prompt"]
        broken = [line for each, line in enumerate(lines) if each not in {at, *prompt}]
        saved = salvage(damaged(broken), copy)
        assert (saved.restored_contexts, saved.merged_contexts) == (0, 1)

    def test_no_state_is_invented(self, lines, damaged, copy):
        at = self.boundary(lines)
        whole = [*lines[:at], b"garbage\n", *lines[at : at + 2], b"garbage\n", *lines[at + 2 :]]
        saved = salvage(damaged(whole), copy)
        assert (saved.restored_contexts, saved.merged_contexts) == (0, 0)
        assert copy.read_bytes() == b"".join(lines)


class TestNothingIsOverwritten:
    def test_a_file_that_is_there(self, whole, damaged, copy):
        copy.write_text("mine")
        with pytest.raises(UserError, match="exists already: choose another name for the copy"):
            salvage(damaged(whole), copy)
        assert copy.read_text() == "mine"

    def test_the_file_itself(self, whole, damaged):
        path = damaged(whole)
        with pytest.raises(UserError, match="exists already"):
            salvage(path, path)
        assert path.read_bytes() == b"".join(whole)

    def test_a_place_where_nothing_can_be(self, whole, damaged, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="cannot be written"):
            salvage(damaged(whole), tmp_path / "file" / "copy.moe.jsonl")

    @pytest.mark.parametrize("content", [b"", b"garbage\n", b'{"event":"session","schema":2}\n'])
    def test_no_copy_of_what_is_no_session(self, content, damaged, copy):
        with pytest.raises(UserError):
            salvage(damaged([content]), copy)
        assert not copy.exists()

    def test_no_half_a_copy(self, whole, damaged, copy):
        """An error of reading deletes the copy."""
        with pytest.raises(UserError, match="empty lines in a row"):
            salvage(damaged([*whole[:50], b"\n" * 20_000, *whole[50:]]), copy)
        assert not copy.exists()


class TestCommand:
    def test_says_what_it_left_out(self, whole, damaged, copy, capsys):
        path = damaged([*whole[:20], *[b"garbage\n"] * 30, *whole[20:]])
        assert run(["verify", "--salvage", str(copy), str(path)]) == 0
        out = capsys.readouterr().out.splitlines()
        assert out[0] == "left out line 21: not JSON (invalid character at byte 0)"
        assert out[-2] == "left out 10 more lines: --json lists them"
        assert out[-1] == f"165 lines with 145 tokens saved to {copy}"

    def test_json(self, whole, damaged, copy, capsys):
        del whole[kinds(whole, Token)[10]]
        assert run(["verify", "--json", "--salvage", str(copy), str(damaged(whole))]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["missing_tokens"] == 1
        assert result["output"] == str(copy)

    def test_one_file_at_a_time(self, copy, capsys):
        assert run(["verify", "--salvage", str(copy), "one", "two"]) == 2
        assert "--salvage with 2 files: salvage them one by one" in capsys.readouterr().err
