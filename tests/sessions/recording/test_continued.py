"""A run whose recording goes on in further files is one recording, for whoever reads it."""

from __future__ import annotations

import json
import shutil
from contextlib import closing

import msgspec
import numpy as np
import pytest
import zstandard

import moe_watch
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Chunk, Token, from_json, to_json
from moe_watch.routing.half_life.fit import fit_half_life
from moe_watch.sessions.comparing.sources import read_source
from moe_watch.sessions.comparing.tokens import compare_tokens
from moe_watch.sessions.export.exporter import ExportPlan, export_session
from moe_watch.sessions.fitting.file_fit import RecordedSeries, fit_file, session_series
from moe_watch.sessions.reading.multipart import RunReader
from moe_watch.sessions.reading.token_arrays import TokenBatches
from tests.routing.planted import cliff, constant, exponential, noise
from tests.sessions.continued import (
    FIRST_END,
    LITTLE_ROOM,
    MEASURED,
    SECOND_END,
    TOKENS,
    change,
    copied,
    in_words,
    keyframe_of,
    lost_chunks,
    opened,
    part,
    record,
)
from tests.sessions.kit import HEADER, make_token, tokens
from tests.sessions.made_sessions import write_session
from tests.sessions.recording.test_durability import linux

pytestmark = linux

ARRAYS = ("experts", "weights", "entropy", "margin", "churn")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run in one file."""
    return record(tmp_path_factory.mktemp("whole"), full=False)


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """The same run in three files, the first one's path; nothing is missing."""
    return record(tmp_path_factory.mktemp("joined"), full=True)


@pytest.fixture(scope="module")
def lossy(tmp_path_factory):
    """The same run in three files, between which tokens are missing."""
    return record(tmp_path_factory.mktemp("lossy"), full=True, room=LITTLE_ROOM)


@pytest.fixture
def spoilt(joined, tmp_path):
    """The three files, to be spoilt."""
    return copied(joined, tmp_path / "spoilt")


def observed(first):
    """Measured chunks of a run of three files, of those that are in one."""
    lost = {index for gap in lost_chunks(first) for index in gap}
    return [index for index in MEASURED if index not in lost]


class TestOpen:
    def test_as_if_it_were_one_file(self, whole, joined):
        session, warned = opened(joined)
        expected = moe_watch.open(whole)
        assert warned == session.notes
        assert warned == [f"{joined}: 3 files are read as one session, up to {part(joined, 3).name}"]
        assert len(session) == TOKENS
        assert session.missing.tolist() == []
        for name, values in expected.tokens().items():
            np.testing.assert_array_equal(session.tokens()[name], values)
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(session, name)(), getattr(expected, name)())
        for name, values in expected.chunks().items():
            np.testing.assert_array_equal(session.chunks()[name], values)
        np.testing.assert_array_equal(session.counts("decode"), expected.counts("decode"))
        assert (session.fit().p, session.fit().start) == (expected.fit().p, expected.fit().start)

    def test_a_run_in_one_file_has_nothing_to_say_of_its_files(self, whole):
        assert opened(whole)[1] == []

    def test_what_is_in_no_file_is_absent_and_the_rest_is_what_it_was(self, whole, lossy):
        session, warned = opened(lossy)
        expected = moe_watch.open(whole)
        missing = [[FIRST_END, keyframe_of(part(lossy, 2)).i - 1], [SECOND_END, keyframe_of(part(lossy, 3)).i - 1]]
        assert all(last - first > 20 for first, last in missing)
        assert session.missing.tolist() == missing
        assert warned[1:] == [
            f"{lossy}: tokens {first} to {last} are missing before {part(lossy, number)}"
            for number, (first, last) in enumerate(missing, 2)
        ]
        there = session.tokens()["i"]
        assert len(there) == len(session) == TOKENS - sum(last - first + 1 for first, last in missing)
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(session, name)(), getattr(expected, name)()[there])

    def test_chunks_around_what_is_missing(self, whole, lossy):
        chunks, expected = opened(lossy)[0].chunks(), moe_watch.open(whole).chunks()
        index = chunks["index"]
        assert set(range(len(expected["index"]))) - set(index.tolist()) == set().union(*lost_chunks(lossy))
        for name, values in expected.items():
            np.testing.assert_array_equal(chunks[name], values[index])

    @pytest.mark.parametrize("phase", ["prefill", "decode"])
    def test_usage_over_the_whole_run_counts_what_is_missing(self, whole, lossy, phase):
        session = opened(lossy)[0]
        np.testing.assert_array_equal(session.counts(phase), moe_watch.open(whole).counts(phase))
        assert session.counts("decode", last=10**6).sum() < session.counts("decode").sum()

    def test_a_fit_warns_of_the_chunks_that_are_missing(self, lossy):
        session = opened(lossy)[0]
        said = f"chunks {in_words(lost_chunks(lossy))} are in no file: the curve is fitted around"
        with pytest.warns(UserWarning, match=said):
            assert session.fit().span == len(MEASURED)

    def test_a_later_part_says_where_the_run_is(self, spoilt):
        second = part(spoilt, 2)
        said = f"{second}: continuation file of {spoilt.name} from token {FIRST_END}, read alone; "
        session, warned = opened(second)
        assert warned == [f"{said}open {spoilt.name} for the whole run"]
        assert session.tokens()["i"].tolist() == list(range(FIRST_END, SECOND_END))
        spoilt.unlink()
        assert opened(second)[1] == [f"{said}{spoilt.name} is missing"]

    @pytest.mark.parametrize("name", ["../run.moe.jsonl", "/etc/passwd", "", "a\x1b[2J\n", "\0"])
    def test_the_name_of_a_first_file_is_not_trusted(self, spoilt, name):
        header = from_json(part(spoilt, 2).read_bytes().splitlines()[0])
        change(part(spoilt, 2), 0, continues=msgspec.structs.replace(header.continues, file=name))
        (warned,) = opened(part(spoilt, 2))[1]
        assert warned.endswith("is missing")
        assert warned.isprintable()

    def test_a_first_file_is_looked_for_in_the_same_folder_only(self, spoilt, tmp_path):
        header = from_json(part(spoilt, 2).read_bytes().splitlines()[0])
        change(part(spoilt, 2), 0, continues=msgspec.structs.replace(header.continues, file=f"../{spoilt.name}"))
        shutil.copy(spoilt, tmp_path / spoilt.name)
        (warned,) = opened(part(spoilt, 2))[1]
        assert warned.endswith(f"../{spoilt.name} is missing")

    def test_compressed(self, joined, tmp_path):
        for path in joined.parent.iterdir():
            data = path.read_bytes().replace(joined.name.encode(), joined.name.encode() + b".zst")
            (tmp_path / f"{path.name}.zst").write_bytes(zstandard.compress(data))
        session, warned = opened(tmp_path / f"{joined.name}.zst")
        assert len(session) == TOKENS
        assert len(warned) == 1


class TestChurn:
    def test_after_something_missing_it_is_known_by_the_keyframe_only(self):
        few = [make_token(i) for i in (0, 1, 5, 6)]
        arrays = [each for token in few for each in self.batches.feed(token)]
        arrays += self.batches.rest()
        churn = np.concatenate([each.churn for each in arrays])
        assert np.isnan(churn[:, 0]).tolist() == [True, False, True, False]

    def test_a_recording_that_begins_in_a_run_knows_what_came_before(self, joined):
        session = opened(part(joined, 2))[0]
        expected = opened(joined)[0].churn()[FIRST_END]
        np.testing.assert_array_equal(session.churn()[0], expected)
        assert not np.isnan(expected).any()

    @pytest.fixture(autouse=True)
    def set_up(self):
        self.batches = TokenBatches(HEADER)


class TestExport:
    @pytest.fixture
    def tables(self, tmp_path):
        def exported(path):
            folder = tmp_path / path.parent.name
            found = export_session(path, ExportPlan("json", folder))
            names = found.rows.keys() - {"vitals"}  # they are read by the clock
            return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}, found.warnings

        return exported

    def test_as_if_it_were_one_file(self, whole, joined, tables):
        found, said = tables(joined)
        assert found == tables(whole)[0]
        assert said == [f"{joined}: 3 files are read as one session, up to {part(joined, 3).name}"]

    def test_what_is_in_no_file_has_no_row(self, whole, lossy, tables):
        (found, said), (expected, _) = tables(lossy), tables(whole)
        there = {row["i"] for row in found["tokens"]}
        assert len(said) == 3
        assert there == set(opened(lossy)[0].tokens()["i"].tolist())
        assert found["tokens"] == [row for row in expected["tokens"] if row["i"] in there]
        assert found["routing"] == [row for row in expected["routing"] if row["i"] in there]
        assert found["usage"] == expected["usage"]
        assert [row["what"] for row in found["events"]].count("dropped") == 2


class TestFit:
    def test_as_if_it_were_one_file(self, whole, joined):
        found, expected = fit_file(joined), fit_file(whole)
        assert (found.fit.chunks, found.fit.p, found.fit.start) == (len(MEASURED), expected.fit.p, expected.fit.start)
        assert found.collapse == expected.collapse
        assert len(found.warnings) == 1
        assert expected.warnings == []

    @pytest.mark.parametrize("mode", ["measured-v1", "chronomoe-v1"])
    def test_missing_chunks_are_time_that_was_not_observed(self, whole, lossy, mode):
        found, expected = fit_file(lossy, mode), fit_file(whole, mode)
        assert (found.fit.chunks, found.fit.span, found.fit.first) == (len(observed(lossy)), len(MEASURED), 10)
        assert found.fit.chunks < expected.fit.chunks == len(MEASURED)
        assert f"chunks {in_words(lost_chunks(lossy))} are in no file" in found.warnings[-1]
        assert found.fit.reference.initial_pressure == expected.fit.reference.initial_pressure
        assert found.fit.reference.final_pressure == expected.fit.reference.final_pressure

    def test_a_start_that_is_in_no_file_is_not_made_up(self, spoilt):
        lines = spoilt.read_bytes().splitlines(keepends=True)
        chunks = [at for at, line in enumerate(lines) if b'"event":"chunk"' in line]
        spoilt.write_bytes(b"".join(lines[: chunks[6]]))
        with pytest.raises(UserError, match="the recording begins at chunk 24, after the first measured one"):
            fit_file(spoilt)

    def test_a_later_part_names_the_file_to_fit(self, joined):
        with pytest.raises(UserError, match=f"after the first measured one: fit {joined.name}, which it continues"):
            fit_file(part(joined, 2))

    @pytest.mark.parametrize(("mode", "taken"), [(None, True), ("chronomoe-v1", False)])
    def test_a_chunk_that_cannot_be_computed_is_taken_in_its_own_mode_only(self, whole, spoilt, mode, taken):
        """The chunk whose last token stands in the file before follows the keyframe that counts it."""
        second = part(spoilt, 2)
        frame = keyframe_of(second)
        (chunk,) = (
            line for line in whole.read_bytes().splitlines() if b'"chunk","index":%d,' % (frame.chunks - 1) in line
        )
        lines = second.read_bytes().splitlines()
        second.write_bytes(b"\n".join([*lines[:2], chunk, *lines[2:]]) + b"\n")
        positions = [*([frame.chunks - 1] if taken else []), *range(frame.chunks, (SECOND_END - 2) // 4)]
        assert read_source(second, mode).runs[0].positions == positions
        with closing(RunReader(second)) as reader:
            assert session_series(reader, mode).positions == positions

    @pytest.mark.parametrize("lost", [range(25, 50), range(10, 35)])
    def test_lost_chunks_cost_a_fit_nothing_but_their_number(self, lost):
        """Intervals cover as often as they say, and a constant is called stable: docs/session-format.md."""
        kept = [at for at in range(75) if at not in lost]
        planted = exponential(0.6, 0.1, 12)
        stable = covered = 0
        for seed in range(30):
            wander = noise(np.random.default_rng(seed), 0.3, chunks=75)
            fits = (
                fit_half_life((each.curve(chunks=75) + wander)[kept], positions=kept)
                for each in (constant(0.45), planted)
            )
            flat, falling = fits
            stable += flat.verdict == "stable"
            low, high = falling.interval
            covered += low <= planted.half_life <= high
        assert stable >= 28
        assert covered >= 26

    @pytest.mark.parametrize(
        ("planted", "missing", "said"),
        [
            (exponential(0.6, 0.1, 12), range(14, 19), ["half is reached between chunks 13 and 19", "from 14 to 19"]),
            (exponential(0.6, 0.1, 12), range(30, 40), []),
            (cliff(0.6, 0.25, at=20), range(15, 20), ["half is reached between chunks 14 and 20", "from 15 to 20"]),
            (cliff(0.6, 0.25, at=20), range(21, 30), []),
        ],
    )
    def test_a_half_life_among_missing_chunks_was_not_observed(self, tmp_path, planted, missing, said):
        series = RecordedSeries("measured-v1")
        kept = [at for at in range(50) if at not in missing]
        for at in kept:
            series.feed(Chunk(index=at, first=at, last=at, tokens=1, partial=False, warm_up=True, residual=0.0))
        fit = fit_half_life(planted.curve()[kept], positions=kept)
        assert fit.half_life is not None
        found = series.warnings(tmp_path, fit)
        assert f"chunks {missing[0]} to {missing[-1]} are in no file" in found[0]
        assert len(found) == 1 + len(said)
        for text, each in zip(said, found[1:], strict=True):
            assert text in each


class TestCompare:
    def test_as_if_it_were_one_file(self, whole, joined):
        source, expected = read_source(joined), read_source(whole)
        assert source.runs[0].summary == expected.runs[0].summary
        assert source.runs[0].positions == expected.runs[0].positions
        assert len(source.warnings) == 1
        found = compare_tokens(whole, joined)
        assert not isinstance(found, str)
        assert (found.tokens, found.ended) == (TOKENS, "")

    def test_what_is_missing_ends_it(self, whole, lossy):
        source = read_source(lossy)
        assert source.runs[0].positions == observed(lossy)
        assert len(source.warnings) == 4
        found = compare_tokens(whole, lossy)
        assert not isinstance(found, str)
        assert (found.tokens, found.ended) == (FIRST_END, f"the second lacks token {FIRST_END}")

    def test_another_pressure_is_that_of_all_chunks(self, lossy):
        run = read_source(lossy, "chronomoe-v1").runs[0]
        assert len(run.mid) == len(observed(lossy))
        assert max(run.mid) < 0.34


def test_damage_is_told_by_file_and_line(spoilt):
    second = part(spoilt, 2)
    lines = second.read_bytes().splitlines(keepends=True)
    second.write_bytes(b"".join([*lines[:9], b"garbage\n", *lines[9:]]))
    for read in (lambda: opened(spoilt)[0].tokens(), lambda: fit_file(spoilt), lambda: read_source(spoilt)):
        with pytest.raises(UserError) as caught:
            read()
        assert str(caught.value).startswith(f"{second}, line 10: not JSON")


def test_a_torn_end_of_a_part_is_left_out_and_of_the_last_one_said(spoilt):
    torn = b'{"event":"tok'
    for path in (spoilt, part(spoilt, 3)):
        with path.open("ab") as file:
            file.write(torn)
    with closing(RunReader(spoilt)) as reader:
        assert [event.i for event in reader if isinstance(event, Token)] == list(range(TOKENS))
        assert reader.warnings[1:] == [f"{part(spoilt, 3)}: the last line is cut off; read up to line 167"]


def test_a_file_of_another_writer_beside_it_is_left_alone(tmp_path):
    first = write_session(tmp_path / "run.moe.jsonl", 30)
    (tmp_path / "run.2.moe.jsonl").write_bytes(b"\n".join(map(to_json, [HEADER, *tokens(5)])) + b"\n")
    (tmp_path / "run.3.moe.jsonl").write_bytes(b"garbage")
    session, warned = opened(first)
    assert (len(session), warned) == (30, [])
