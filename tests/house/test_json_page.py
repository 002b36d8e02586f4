"""docs/json.md is generated from the results' classes, and commands print what these say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from moe_watch.commands.app import cli, run
from moe_watch.commands.command_list import HEADINGS
from moe_watch.commands.measuring.bench import _report as cost_report
from moe_watch.commands.schema import printed_results
from moe_watch.commands.schema_page import MARKER, page
from moe_watch.routing.stats.ratios import Ratio
from moe_watch.routing.stats.timing_noise import Noise
from moe_watch.sessions.bench import BenchResult, VariantRates

PATH = Path(__file__).parents[2] / "docs" / "json.md"
PAGE = PATH.read_text(encoding="utf-8")
ROOT = PATH.parents[1]

MODEL = SimpleNamespace(
    model=SimpleNamespace(name="pocket", is_dense=False), backend=SimpleNamespace(name="mlx", device="CPU", version="1")
)


def test_the_page_is_generated():
    assert PAGE.count(MARKER) == 1
    assert page(PAGE) == PAGE, "run `python -m moe_watch.commands.schema_page docs/json.md`"


def structs_of(name: str) -> dict[str, dict[str, Any]]:
    """The schema of every object in a result, by class."""
    return dict(msgspec.json.schema(printed_results()[name].struct)["$defs"])


@pytest.mark.parametrize("name", printed_results())
def test_every_key_has_a_description(name):
    for struct, schema in structs_of(name).items():
        assert schema["description"], struct
        for key, value in schema["properties"].items():
            assert value.get("description", "").endswith("."), f"{struct}.{key}"


def test_no_link_of_the_page_leads_nowhere():
    headings = {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in re.findall(r"^#+ (.*)$", PAGE, re.M)}
    links = set(re.findall(r"\]\(#([\w-]+)\)", PAGE))
    assert len(links) > 30
    assert links <= headings


def keys_of(schema: dict[str, Any], defs: dict[str, Any], value: Any) -> None:
    """Assert that a value and all objects in it have the keys of a schema, in its order."""
    for option in schema.get("anyOf", [schema]):
        if "$ref" in option and isinstance(value, dict):
            found = defs[option["$ref"].rpartition("/")[2]]
            known = list(found["properties"])
            assert list(value) == [key for key in known if key in value]
            assert set(found["required"]) <= set(value)
            for key, each in value.items():
                keys_of(found["properties"][key], defs, each)
        elif "items" in option and isinstance(value, list):
            for each in value:
                keys_of(option["items"] or {}, defs, each)


def assert_printed_as_described(name: str, value: dict[str, Any]) -> None:
    """Assert that what a command printed follows its schema."""
    schema = msgspec.json.schema(printed_results()[name].struct)
    assert value
    keys_of(schema, schema["$defs"], value)
    decoded = msgspec.convert(value, printed_results()[name].struct, strict=True)
    assert json.loads(json.dumps(msgspec.to_builtins(decoded))) == value


@pytest.fixture
def printed(capsys):
    """Return the JSON object that a command prints."""

    def printed(*arguments: str, status: int = 0) -> dict[str, Any]:
        assert run([*arguments, "--json"]) == status
        return dict(json.loads(capsys.readouterr().out))

    return printed


@pytest.fixture
def series(tmp_path):
    path = tmp_path / "series.json"
    path.write_text(json.dumps([0.5, 0.4, 0.45, 0.3, 0.28, 0.27]))
    return str(path)


@pytest.mark.parametrize("name", ["golden", "golden-by-layer", "contexts"])
def test_a_run(printed, name):
    assert_printed_as_described("run", printed("replay", "--headless", str(ROOT / f"tests/golden/{name}.moe.jsonl")))


def test_a_fit(printed, series):
    assert_printed_as_described("fit", printed("fit", series))


def test_a_cost():
    rows = [VariantRates("decode", name, [100.0] * 6, Ratio(1.0, (1.0, 1.0))) for name in ("bare", "tap on")]
    found = json.loads(json.dumps(msgspec.to_builtins(cost_report(MODEL, 6, 20, BenchResult(rows, Noise(cores=2))))))
    assert_printed_as_described("cost", found)
    assert set(found["cost"]) == {"tap_off", "tap_on", "ratio", "interval"}


def test_a_comparison(printed, golden_path, series):
    assert_printed_as_described("comparison", printed("compare", str(golden_path), str(golden_path), series))


def test_recordings(printed, tmp_path, golden_path):
    folder = tmp_path / "sessions"
    folder.mkdir()
    (folder / "a.moe.jsonl").write_bytes(golden_path.read_bytes())
    (folder / "b.moe.jsonl").write_text("no session")
    found = printed("sessions", "--folder", str(folder))
    assert_printed_as_described("recordings", found)
    entry, unreadable = sorted(found["sessions"], key=lambda each: each["name"])
    assert set(unreadable) == {"condition", "problem", "name", "path", "run", "bytes", "modified"}
    run_of_it = printed("replay", "--headless", str(golden_path))
    for name in ("model", "backend", "layers", "experts", "experts_per_token"):  # one type wherever it is printed
        assert entry[name] == run_of_it[name]
    shown = printed("sessions", "--folder", str(folder), "show", "a")
    assert_printed_as_described("recording", shown)
    assert entry.items() <= shown.items()


def test_a_verification_and_a_salvage(printed, tmp_path, golden_path):
    damaged, unreadable = tmp_path / "damaged.moe.jsonl", tmp_path / "unreadable.moe.jsonl"
    lines = golden_path.read_bytes().splitlines(keepends=True)
    damaged.write_bytes(b"".join(lines[:4] + lines[5:]))
    unreadable.write_text("no session")
    found = printed("verify", str(golden_path), str(damaged), str(unreadable), status=2)
    assert_printed_as_described("verification", found)
    assert [each["status"] for each in found["files"]] == [1, 1, 2]
    assert set(found["files"][2]) == {"file", "status", "error"}
    assert_printed_as_described(
        "salvage", printed("verify", str(damaged), "--salvage", str(tmp_path / "copy.moe.jsonl"))
    )


def test_files(printed, tmp_path, golden_path):
    tables = tmp_path / "tables"
    assert_printed_as_described("export", printed("export", str(golden_path), "--to", "csv", "--output", str(tables)))
    imported = ("import", str(tables / "routing.csv"), "--experts", "4", "--output", str(tmp_path / "i.moe.jsonl"))
    assert_printed_as_described("import", printed(*imported))


def test_percent_is_written_in_one_way():
    """`90 %`, with a space, on every page."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    prose = {path.name: re.sub(r"`[^`]*`", "", path.read_text(encoding="utf-8")) for path in pages}
    assert {name: found for name, text in prose.items() if (found := re.findall(r".{0,20}\d%", text))} == {}


def test_every_command_with_json_has_a_result():
    names = [name for listed in HEADINGS.values() for name in listed]
    commands = {name: cli.get_command(None, name) for name in names}
    takes = {name for name, command in commands.items() if any(each.name == "as_json" for each in command.params)}
    assert len(takes) > 8
    assert takes == {command.split()[0] for result in printed_results().values() for command in result.commands}
