"""Faults between the files of a run are found where they meet."""

from __future__ import annotations

import msgspec
import pytest

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Continues, Sampling, from_json, to_json
from moe_watch.sessions.verifying.run_files import verify_runs, with_parts
from tests.sessions.continued import FIRST_END, LITTLE_ROOM, SECOND_END, TOKENS, change, copied, opened, part, record
from tests.sessions.recording.test_durability import linux

pytestmark = linux


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """A run in three files, the first one's path; nothing is missing."""
    return record(tmp_path_factory.mktemp("joined"), full=True)


@pytest.fixture
def spoilt(joined, tmp_path):
    """The three files, to be spoilt."""
    return copied(joined, tmp_path / "spoilt")


def report_of(first):
    (found,) = verify_runs([first])
    return found


def faults_of(first):
    return {finding.check: finding.text for finding in report_of(first).findings}


def test_files_that_fit_together(joined):
    found = report_of(joined)
    assert (found.findings, found.remarks, found.tokens) == ([], [], TOKENS)
    assert found.parts == [str(part(joined, number)) for number in (2, 3)]


def test_a_run_in_one_file_needs_no_report(golden_path):
    assert verify_runs([golden_path]) == []


def test_every_file_is_named_once(joined):
    files = [joined, part(joined, 2), part(joined, 3)]
    assert with_parts([joined, *files]) == files
    assert with_parts([part(joined, 3), joined]) == [part(joined, 3), joined, part(joined, 2)]


def test_a_missing_part(spoilt):
    part(spoilt, 2).unlink()
    (found,) = report_of(spoilt).findings
    assert (found.check, found.count) == ("missing tokens", SECOND_END - FIRST_END)
    assert found.text == f"tokens {FIRST_END} to {SECOND_END - 1} are missing before {part(spoilt, 3).name}"


def test_a_missing_first_file(spoilt):
    spoilt.unlink()
    found = verify_runs([part(spoilt, 2), part(spoilt, 3)])
    assert [finding.check for report in found for finding in report.findings] == ["missing file"] * 2
    assert found[0].findings[0].text == f"{spoilt.name}, which it continues from token {FIRST_END}, is missing"


def test_a_part_whose_first_file_is_there_is_judged_with_it(joined):
    assert verify_runs([part(joined, 2)]) == []


def test_another_seed(spoilt):
    change(part(spoilt, 2), 0, sampling=Sampling(seed=8))
    found = faults_of(spoilt)
    assert found["other header"] == f"{part(spoilt, 2).name} differs from {spoilt.name} in sampling"
    assert "missing before" in found["missing tokens"]
    assert opened(spoilt)[0].notes[1:] == [
        f"{part(spoilt, 2)}: skipped (header differs in sampling)",
        f"{spoilt}: tokens {FIRST_END} to {SECOND_END - 1} are missing before {part(spoilt, 3)}",
    ]


def test_another_model(spoilt):
    header = from_json(part(spoilt, 3).read_bytes().splitlines()[0])
    change(part(spoilt, 3), 0, model=msgspec.structs.replace(header.model, fingerprint="other"))
    assert faults_of(spoilt) == {"other header": f"{part(spoilt, 3).name} differs from {spoilt.name} in model"}
    assert len(opened(spoilt)[0]) == SECOND_END


def test_what_is_left_of_an_earlier_run_is_not_of_this_one(spoilt):
    for number in (2, 3):
        change(part(spoilt, number), 0, created="2020-01-01T00:00:00Z")
    found = report_of(spoilt)
    assert (found.fine, found.parts) == (True, [])
    assert found.remarks[0] == (
        f"{part(spoilt, 2).name} continues another run of this name, created 2020-01-01T00:00:00Z"
    )
    assert opened(spoilt)[1] == []


def test_a_forged_keyframe_is_found_where_the_files_meet(spoilt):
    change(part(spoilt, 2), 1, residual=0.25)
    assert faults_of(spoilt) == {
        "keyframes": f"the keyframe of {part(spoilt, 2).name} differs from the state after the files before it"
    }


def test_tokens_that_are_there_twice(spoilt):
    lines = part(spoilt, 2).read_bytes().splitlines(keepends=True)
    at = next(at for at, line in enumerate(lines) if b'"event":"token"' in line)
    with spoilt.open("ab") as file:
        file.write(lines[at])
    found = faults_of(spoilt)
    assert found["repeated tokens"] == (
        f"{part(spoilt, 2).name} repeats tokens {FIRST_END} to {FIRST_END} of the files before it"
    )


def test_a_header_and_a_keyframe_that_differ(spoilt):
    header = from_json(part(spoilt, 2).read_bytes().splitlines()[0])
    change(part(spoilt, 2), 0, continues=msgspec.structs.replace(header.continues, i=5))
    assert f"starts at token 5 by its header, at token {FIRST_END} by its keyframe" in faults_of(spoilt)["keyframes"]


def test_lost_tokens_are_found(tmp_path):
    lossy = record(tmp_path / "lossy", full=True, room=LITTLE_ROOM)
    (found,) = report_of(lossy).findings
    lost = TOKENS - len(opened(lossy)[0])
    assert (found.check, found.count) == ("missing tokens", lost)


def test_more_files_than_a_run_can_have_are_refused_without_reading_them(golden_path, tmp_path, monkeypatch):
    monkeypatch.setattr("moe_watch.sessions.reading.multipart.MAX_PARTS", 5)
    monkeypatch.setattr("moe_watch.sessions.verifying.run_files.MAX_PARTS", 5)
    first = tmp_path / "run.moe.jsonl"
    first.write_bytes(golden_path.read_bytes())
    header, *lines = golden_path.read_bytes().splitlines(keepends=True)
    later = msgspec.structs.replace(from_json(header), continues=Continues(file=first.name, i=9))
    for number in range(2, 9):
        part(first, number).write_bytes(to_json(later) + b"\n" + b"".join(lines))
    assert with_parts([first]) == [first]
    (found,) = report_of(first).findings
    assert found.check == "too many files"
    assert "more than 5 files continue it, by their headers: move files" in found.text
    with pytest.raises(UserError, match="more than 5 files"):
        opened(first)


def test_files_left_out_for_one_reason_are_one_note(golden_path, tmp_path):
    first = tmp_path / "run.moe.jsonl"
    first.write_bytes(golden_path.read_bytes())
    header, *lines = golden_path.read_bytes().splitlines(keepends=True)
    later = msgspec.structs.replace(from_json(header), continues=Continues(file=first.name, i=9))
    for number in range(2, 9):
        part(first, number).write_bytes(to_json(later) + b"\n" + b"".join(lines))
    (note,) = (note for note in opened(first)[0].notes if "skipped" in note)
    assert note.endswith("and 4 more files: skipped (does not continue after token 9)")
