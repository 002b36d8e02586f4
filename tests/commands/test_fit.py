from __future__ import annotations

import json
import re

import pytest
from msgspec import to_builtins

from moe_watch.commands.app import run
from moe_watch.routing.half_life.fit import VERDICTS, fit_half_life
from moe_watch.routing.half_life.fit_json import fit_result
from tests.routing.planted import cliff, constant, exponential, linear, plant, rising


@pytest.fixture
def series(tmp_path):
    """Return a writer of series to a CSV file."""

    def write(values):
        path = tmp_path / "series.csv"
        path.write_text("mid\n" + "\n".join(map(repr, map(float, values))))
        return str(path)

    return write


def fit_of(capsys, *arguments):
    """Return the output of `fit … --json`."""
    assert run(["fit", *arguments, "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert len(shown.out.splitlines()) == 1
    return json.loads(shown.out)


def complaint(capsys, *arguments):
    assert run(["fit", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_json_has_the_names_that_others_rely_on(capsys, series):
    found = fit_of(capsys, series(exponential(0.6, 0.1, 12).curve()), "--pressure", "measured-v1")
    assert found["verdict"] == "exponential"
    assert found["half_life"] == pytest.approx(15.863, abs=1e-3)
    assert len(found["interval"]) == 2
    assert found["censored"] is False
    assert found["mode"] == "measured-v1"
    assert (found["p"], found["p_sequential"], found["looks"]) == (0.0005, 0.0075, 11)
    assert found["crossing"] == {"chunk": 16}
    assert [each["shape"] for each in found["candidates"]] == ["constant", "linear", "exponential", "cliff"]
    assert all({"aicc", "weight", "parameters"} <= each.keys() for each in found["candidates"])
    assert {"linear_slope", "exponential_tau", "max_single_drop", "max_drop_at_chunk"} <= found["reference"].keys()


@pytest.mark.parametrize(
    ("planted", "verdict"),
    [
        (constant(0.45), "stable"),
        (rising(0.4, 0.004), "rising"),
        (linear(0.6, -0.01), "linear"),
        (exponential(0.6, 0.1, 12), "exponential"),
        (cliff(0.6, 0.25), "cliff"),
    ],
)
def test_every_verdict(capsys, series, planted, verdict):
    (made,) = plant(planted, 0.2, range(1))
    assert verdict in VERDICTS
    assert fit_of(capsys, series(made.mid))["verdict"] == verdict


def test_unreachable_needs_a_mode(capsys, series):
    path = series([0.6403] * 50)
    assert fit_of(capsys, path)["verdict"] == "stable"
    found = fit_of(capsys, path, "--pressure", "chronomoe-v1")
    assert (found["verdict"], found["half_life"]) == ("unreachable", None)
    assert found["reach"] == pytest.approx({"floor": 0.33566, "half": 0.32015}, abs=1e-5)


def test_infinite_is_null(capsys, series):
    found = fit_of(capsys, series([0.5, 0.45, 0.4, 0.35, 0.3]))
    assert found["candidates"][2]["aicc"] is None
    assert found["half_life"] == pytest.approx(5)


def test_golden_shape_of_a_censored_fit():
    found = to_builtins(fit_result(fit_half_life(linear(0.6, -0.003).curve())))
    assert found["censored"] is True
    assert found["half_life"] is None
    assert found["words"] == "linear, half-life > 50 chunks: not reached in what was observed"
    assert json.loads(json.dumps(found, allow_nan=False))["words"] == found["words"]


def test_the_same_file_prints_the_same_fit(capsys, series):
    (made,) = plant(exponential(0.6, 0.1, 12), 0.3, range(1))
    path = series(made.mid)
    assert fit_of(capsys, path) == fit_of(capsys, path)


def test_text_for_people(capsys, series):
    (made,) = plant(exponential(0.6, 0.1, 12), 0.3, range(1))
    assert run(["fit", series(made.mid)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("exponential, half-life 1")
    assert "(95 %: " in lines[0]
    assert any(line.startswith("exponential ") and line.endswith("← chosen") for line in lines)
    assert any("entropy collapse n/a" in line for line in lines)
    (chosen,) = (line for line in lines if line.endswith("← chosen"))
    assert re.search(r"^exponential +\d+\.\d %  ", chosen)


def test_one_look_is_not_called_times(capsys, series):
    assert run(["fit", series([0.5, 0.49, 0.51, 0.5, 0.5])]) == 0
    assert ", 1 for 1 sequential look\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("0.5\n0.4\n", "2 measured chunks, and a fit needs at least 5: 3 more: measure a longer run"),
        ("mid\n0.5\nnan\n0.5\n0.5\n0.5\n", "line 3 is nan: every chunk needs a finite number"),
        ("", "the file is empty"),
        ("mid\n", "the series is empty"),
        ("Title\n", "no number in it: give a session, a CSV column"),
        ("[]", "the series is empty"),
        ("GGUF\0\0", "neither a session nor text"),
        ("A text, and no numbers.", "no column called `mid`"),
    ],
)
def test_bad_files(capsys, tmp_path, content, said):
    path = tmp_path / "given"
    path.write_text(content)
    assert said in complaint(capsys, str(path))


def test_other_bad_input(capsys, tmp_path, series):
    path = series([0.5] * 10)
    assert "no pressure mode called 'v2': use measured-v2, measured-v1 or chronomoe-v1" in complaint(
        capsys, path, "--pressure", "v2"
    )
    assert "no such file" in complaint(capsys, str(tmp_path / "nowhere.csv"))
    assert "a folder" in complaint(capsys, str(tmp_path))
    assert "Missing argument 'FILE'" in complaint(capsys)


def test_a_session_in_its_warm_up(capsys, golden_path):
    assert "no measured chunk, and a fit needs at least 5: 5 more" in complaint(capsys, str(golden_path))


def test_help(capsys):
    assert run(["fit", "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: moe-watch fit")
