"""docs/json.md names every key that commands print, and none that they do not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moe_watch.commands.app import run
from moe_watch.commands.measuring.bench import _result as cost_result
from moe_watch.routing.stats.ratios import Ratio
from moe_watch.routing.stats.timing_noise import Noise
from moe_watch.sessions.bench import BenchResult, VariantRates

PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text(encoding="utf-8")

MODEL = SimpleNamespace(
    model=SimpleNamespace(name="pocket"), backend=SimpleNamespace(name="mlx", device="CPU", version="1")
)


def documented(name: str) -> set[str]:
    """The keys in the first column of a table."""
    [table] = re.findall(rf"<!-- keys: {name} -->\n((?:\|.*\n)+)", PAGE)
    rows = table.splitlines()[2:]
    return {key for row in rows for key in re.findall(r"`([a-z_]+)`", row.split("|")[1])}


@pytest.fixture
def printed(capsys, tmp_path, golden_path):
    """What a command prints of the golden session."""

    def printed(*arguments: str) -> dict[str, Any]:
        assert run([*arguments, "--json"]) == 0
        return dict(json.loads(capsys.readouterr().out))

    return printed


def test_a_run(printed, golden_path):
    assert documented("run") == set(printed("replay", "--headless", str(golden_path)))


def test_a_fit(printed, tmp_path):
    series = tmp_path / "series.json"
    series.write_text(json.dumps([0.5, 0.4, 0.45, 0.3, 0.28, 0.27]))
    assert documented("fit") == set(printed("fit", str(series)))


def test_a_cost():
    rows = [VariantRates("decode", name, [100.0] * 6, Ratio(1.0, (1.0, 1.0))) for name in ("bare", "tap on")]
    found = cost_result(MODEL, 6, 20, BenchResult(rows, Noise(cores=2)))
    assert documented("cost") == set(found)
    assert set(found["cost"]) == {"tap_off", "tap_on", "ratio", "interval"}


def test_recordings(printed, tmp_path, golden_path):
    folder = tmp_path / "sessions"
    folder.mkdir()
    (folder / "a.moe.jsonl").write_bytes(golden_path.read_bytes())
    found = printed("sessions", "--folder", str(folder))
    assert set(found) == {"folder", "sessions"}
    [entry] = found["sessions"]
    assert documented("sessions") == set(entry)
    run_of_it = printed("replay", "--headless", str(golden_path))
    for name in ("model", "backend", "layers", "experts", "experts_per_token"):  # one type wherever it is printed
        assert entry[name] == run_of_it[name]


def test_percent_is_written_in_one_way():
    """`90 %`, with a space, on every page."""
    root = Path(__file__).parents[2]
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    prose = {page.name: re.sub(r"`[^`]*`", "", page.read_text(encoding="utf-8")) for page in pages}
    assert {name: found for name, text in prose.items() if (found := re.findall(r".{0,20}\d%", text))} == {}


def test_files(printed, tmp_path, golden_path):
    tables = tmp_path / "tables"
    assert documented("export") == set(printed("export", str(golden_path), "--to", "csv", "--output", str(tables)))
    imported = ("import", str(tables / "routing.csv"), "--experts", "4", "--output", str(tmp_path / "i.moe.jsonl"))
    assert documented("import") == set(printed(*imported))


def test_every_command_with_json_is_on_the_page():
    from moe_watch.commands.app import cli

    takes = {name for name, command in cli.commands.items() if any(each.name == "as_json" for each in command.params)}
    assert len(takes) > 8
    assert takes <= set(re.findall(r"`([a-z]+)(?: [a-z-]+)*`", PAGE))
