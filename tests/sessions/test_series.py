from __future__ import annotations

import json

import pytest
from msgspec import to_builtins

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Chunk, Keyframe, to_json
from moe_watch.routing.half_life.fit_json import fit_result
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.routing.summary import Summary
from moe_watch.sessions.fitting.file_fit import fit_file
from moe_watch.sessions.fitting.pressure_series import PressureSeries, parse_series
from tests.routing.planted import exponential
from tests.sessions.kit import HEADER, replayed, tokens

MID = [0.5, 0.45, 0.4, 0.38, 0.36, 0.35]
COLUMN = "\n".join(map(str, MID))


def parsed(text):
    return parse_series(text.encode() if isinstance(text, str) else text, "given")


def reference_json(**more):
    trajectory = {"chunk_indices": list(range(6)), "mid_pressures": MID, "entropies": [0.9, 0.8, 0.7, 0.6, 0.6, 0.5]}
    return {"protocol": "natural_decay", "trajectory": trajectory, "analysis": {}, **more}


class TestForms:
    @pytest.mark.parametrize(
        "text",
        [
            json.dumps(MID),
            f"\ufeff{json.dumps(MID)}\n",
            COLUMN,
            f"mid\n{COLUMN}\n",
            f"p_of_some_kind\n{COLUMN}\n",
            f"# a remark\n\nMid_Pressure\n{COLUMN}\n",
            COLUMN.replace("\n", "\r\n"),
        ],
    )
    def test_values_alone(self, text):
        assert parsed(text) == PressureSeries(MID)

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_named_columns_in_any_order(self, delimiter):
        lines = ["net,mid,Chunk,note", *(f"0.1,{mid},{10 + at},x" for at, mid in enumerate(MID))]
        assert parsed("\n".join(lines).replace(",", delimiter)) == PressureSeries(MID, [10, 11, 12, 13, 14, 15])

    def test_two_columns_without_names(self):
        lines = [f"{at * 2}, {mid}" for at, mid in enumerate(MID)]
        assert parsed("\n".join(lines)) == PressureSeries(MID, [0, 2, 4, 6, 8, 10])

    def test_warm_up_and_partial_chunks_are_left_out(self):
        rows = ["chunk,mid,warm_up,partial", "0,0.9,true,false", "1,0.8,1,0", "2,0.5,false,false", "3,0.1,0,True"]
        assert parsed("\n".join([*rows, "4,0.45,,"])) == PressureSeries([0.5, 0.45], [2, 4])

    def test_the_reference_format(self):
        found = parsed(json.dumps(reference_json()))
        assert found == PressureSeries(MID, list(range(6)), "chronomoe-v1", [0.9, 0.8, 0.7, 0.6, 0.6, 0.5])

    def test_the_mode_is_known_from_who_measured(self):
        """ChronoMoE computes pressure in one way, and names none; our own measurement names it beside all runs."""
        own = reference_json()
        own["trajectory"]["session_chunks"] = list(range(10, 16))
        assert parsed(json.dumps(own)).mode is None
        unknown = reference_json()
        del unknown["protocol"]
        assert parsed(json.dumps(unknown)).mode is None

    def test_a_mode_that_the_file_names(self):
        assert parsed(json.dumps(reference_json(pressure="measured-v1"))).mode == "measured-v1"

    def test_indices_and_entropies_that_do_not_fit_are_left_out(self):
        odd = reference_json()
        odd["trajectory"] |= {"chunk_indices": [0, 1, 1, 2, 3, 4], "entropies": [0.9, None, 0.7, 0.6, 0.6, 0.5]}
        assert parsed(json.dumps(odd)) == PressureSeries(MID, mode="chronomoe-v1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "given: the file is empty"),
        ("  \n", "given: the file is empty"),
        ("[]", "given: the series is empty: a fit needs at least 5 chunks"),
        ("mid\n", "given: the series is empty"),
        ("# nothing\n", "given: no number in it: give a session"),
        ("Title\n", "given: no number in it: give a session"),
        ('{"trajectory": {"mid_pressures": []}}', "given, trajectory.mid_pressures: the series is empty"),
        ("[0.5, null, 0.5]", "given, value 2 is null"),
        ("[0.5, NaN, 0.5]", "given, value 2 is nan: every chunk needs a finite number"),
        ("[0.5, true]", "given, value 2 is true"),
        (f"[0.5, 1{'0' * 400}]", "given, value 2 is inf"),
        ("[0.5, 1e200]", "given, value 2 is 1e+200"),
        ('[0.5, "a"]', 'given, value 2 is "a"'),
        ("mid\n0.5\nnan\n", "given, line 3 is nan"),
        ("mid\n0.5\nhello\n", "given, line 3: 'hello' is not a number"),
        ("mid,x\n0.5,1\n,2\n", "given, line 3: '' is not a number"),
        ("fast,slow\n0.5,1\n", "given, line 1: no column called `mid` among fast, slow"),
        ("1,2,3\n4,5,6\n", "given: 3 columns without names: name one of them `mid`"),
        ("0.5,0.4\n0.4,0.3\n", "given: 2 columns without names"),
        ("[0.5, 0.4", "given: not JSON: "),
        ("[" * 100_000, "given: not JSON: "),
        ('{"a": 1}', "given: JSON without a series"),
        ('{"trajectory": [1]}', "given: JSON without a series"),
        ('{"runs": [{}]}', "given: a measurement of many runs"),
        ("Once upon a time there was a model.", "given, line 1: no column called `mid`"),
        (b"\x89PNG\r\n\x1a\n\x00", "given: neither a session nor text (byte 0)"),
        (b"GGUF\x03\x00", "given: neither a session nor text (byte 5)"),
        (b" " * (16 * 1024 * 1024 + 1), "given: larger than 16 MB"),
    ],
)
def test_bad_files_are_refused_in_one_line(text, said):
    with pytest.raises(UserError) as caught:
        parsed(text)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


class TestFiles:
    @pytest.fixture
    def session(self, tmp_path):
        """A session of 25 chunks of 4 tokens, with its derived events."""

        def write(chunks=25):
            instruments = Instruments(HEADER)
            events = [HEADER]
            for token in tokens(4 * chunks):
                events += [token, *instruments.feed(token)]
            path = tmp_path / "session.moe.jsonl"
            path.write_bytes(b"".join(to_json(event) + b"\n" for event in events))
            return path, [event for event in events if isinstance(event, Chunk)]

        return write

    def test_a_session_is_fitted_from_its_tokens(self, session):
        path, chunks = session()
        found = fit_file(path)
        measured = [chunk for chunk in chunks if not chunk.warm_up]
        assert (found.fit.chunks, found.fit.first, found.fit.mode) == (15, 10, "measured-v2")
        assert found.fit.reference.mean == pytest.approx(sum(each.pressures.mid for each in measured) / 15)
        entropies = [each.signals.router_entropy for each in measured]
        assert found.collapse.first_last == pytest.approx(entropies[0] - entropies[-1])

    def test_a_run_s_summary_carries_the_same_fit(self, session):
        path, _ = session()
        found = fit_file(path)
        summary = Summary()
        for item in replayed(path):
            summary.feed(item)
        pressure = to_builtins(summary.result())["pressure"]
        assert pressure["fit"] == to_builtins(fit_result(found.fit, found.collapse))
        assert pressure["fit_unavailable"] is None

    def test_a_summary_says_why_there_is_no_fit(self, session):
        path, _ = session(12)
        summary = Summary()
        for item in replayed(path):
            summary.feed(item)
        pressure = to_builtins(summary.result())["pressure"]
        assert pressure["fit"] is None
        assert pressure["fit_unavailable"] == "2 measured chunks, and a fit needs at least 5: 3 more"

    def test_what_the_file_says_of_its_chunks_is_not_trusted(self, session):
        path, _ = session()
        honest = fit_file(path).fit.reference
        lied = path.read_bytes().replace(b'"mid":0.', b'"mid":0.0')
        assert lied != path.read_bytes()
        path.write_bytes(lied)
        assert fit_file(path).fit.reference == honest

    def test_the_other_mode_is_computed_anew(self, session):
        path, _ = session()
        found = fit_file(path, "chronomoe-v1").fit
        assert (found.mode, found.verdict) == ("chronomoe-v1", "unreachable")
        assert found.reference.mean == pytest.approx(0.255, abs=0.02)

    @pytest.mark.parametrize(("chunks", "said"), [(0, "no measured chunk"), (12, "2 measured chunks"), (14, "1 more")])
    def test_a_short_session_says_how_many_chunks_are_missing(self, session, chunks, said):
        path, _ = session(chunks)
        with pytest.raises(UserError) as caught:
            fit_file(path)
        assert said in str(caught.value)
        assert "and a fit needs at least 5" in str(caught.value)

    def test_a_recording_that_begins_after_the_start_has_no_half_life(self, session, tmp_path):
        path, _ = session()
        instruments, events = Instruments(HEADER), [HEADER]
        for token in tokens(100):
            if token.i == 60:
                events.append(instruments.keyframe())
            derived = instruments.feed(token)
            events += [token, *derived] if token.i >= 60 else []
        assert isinstance(events[1], Keyframe)
        path.write_bytes(b"".join(to_json(event) + b"\n" for event in events))
        with pytest.raises(UserError, match="the recording begins at chunk 15, after the first measured one"):
            fit_file(path)

    def test_a_series_names_its_file_in_errors_of_the_fit(self, tmp_path):
        path = tmp_path / "short.csv"
        path.write_text("0.5\n0.4\n")
        with pytest.raises(UserError, match=r"short\.csv: 2 measured chunks, and a fit needs at least 5: 3 more"):
            fit_file(path)

    def test_a_mode_given_by_hand_comes_first(self, tmp_path):
        path = tmp_path / "toy.json"
        trajectory = {"mid_pressures": [0.6403] * 50}
        path.write_text(json.dumps({"pressure": "measured-v1", "trajectory": trajectory}))
        assert fit_file(path).fit.verdict == "stable"
        assert fit_file(path, "chronomoe-v1").fit.verdict == "unreachable"

    @pytest.mark.parametrize("form", ["csv", "json"])
    def test_a_planted_half_life_is_found(self, tmp_path, form):
        mid = exponential(0.6, 0.1, 12).curve().tolist()
        path = tmp_path / f"series.{form}"
        path.write_text(json.dumps(mid) if form == "json" else "mid\n" + "\n".join(map(repr, mid)))
        assert fit_file(path).fit.half_life == pytest.approx(15.863, abs=1e-3)
