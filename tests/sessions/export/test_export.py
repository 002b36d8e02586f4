from __future__ import annotations

import csv
import json
import os
import pathlib
import re
import stat
import sys
from itertools import pairwise

import msgspec
import numpy as np
import pytest

import moe_watch
from moe_watch.backends.optional_packages import install_command
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Change, Chunk, Fork, Header, Sampling, Token, from_json
from moe_watch.sessions.export.exporter import DESCRIPTION, ExportPlan, export_session
from moe_watch.sessions.export.tables import TOKENS, routing_table, tables
from moe_watch.sessions.export.writers import FORMS
from tests.sessions.kit import EXPERTS, HEADER, LAYERS, K
from tests.sessions.made_sessions import bare, made_tokens, write_session

DOCUMENTATION = pathlib.Path(__file__).parents[3] / "docs" / "data.md"


@pytest.fixture
def exported(golden_path, tmp_path):
    """Exports the golden session, or another one, and gives the folder."""

    def run(form, path=golden_path, **options):
        output = tmp_path / f"out-{form}"
        export_session(path, ExportPlan(form, output, **options))
        return output

    return run


def golden(golden_path, kind):
    return [event for line in golden_path.read_bytes().splitlines() if isinstance(event := from_json(line), kind)]


# -- what is in them


def test_parquet_is_read_by_pandas_polars_and_duckdb(exported, golden_path):
    import duckdb
    import pandas
    import polars

    folder = exported("parquet")
    tokens = golden(golden_path, Token)
    by_pandas = pandas.read_parquet(folder / "tokens.parquet")
    by_polars = polars.read_parquet(folder / "tokens.parquet")
    by_duckdb = duckdb.sql(f"select * from '{folder}/tokens.parquet'")
    assert [*by_pandas.columns] == by_polars.columns == by_duckdb.columns == [column.name for column in TOKENS.columns]
    texts = [token.text for token in tokens]
    assert by_pandas["text"].tolist() == by_polars["text"].to_list() == texts
    assert [row[0] for row in by_duckdb.select("logprob").fetchall()] == [token.logprob for token in tokens]
    assert by_polars["logprob"].null_count() == by_pandas["logprob"].isna().sum() == 3
    shares = duckdb.sql(f"select sum(share) from '{folder}/usage.parquet' group by phase, l").fetchall()
    assert [round(share, 12) for (share,) in shares] == [1.0] * 4


def test_csv_and_json_are_read_by_pandas_polars_and_duckdb(exported, golden_path):
    import duckdb
    import pandas
    import polars

    csv_folder, json_folder = exported("csv"), exported("json")
    chunks = golden(golden_path, Chunk)
    mids = pytest.approx([chunk.pressures.mid for chunk in chunks], abs=1e-9)
    assert pandas.read_csv(csv_folder / "chunks.csv")["mid"].tolist() == mids
    assert polars.read_csv(csv_folder / "chunks.csv")["mid"].to_list() == mids
    assert [row[0] for row in duckdb.sql(f"select mid from '{csv_folder}/chunks.csv'").fetchall()] == mids
    assert pandas.read_json(json_folder / "chunks.json")["mid"].tolist() == mids
    assert polars.read_json(json_folder / "chunks.json")["mid"].to_list() == mids
    assert [row[0] for row in duckdb.sql(f"select mid from '{json_folder}/chunks.json'").fetchall()] == mids
    texts = [token.text for token in golden(golden_path, Token)]
    assert duckdb.sql(f"select text from '{csv_folder}/tokens.csv'").fetchall() == [(text,) for text in texts]


def test_routing_has_a_row_for_each_token_and_layer_in_natural_units(exported):
    rows = json.loads((exported("json") / "routing.json").read_text())
    assert len(rows) == 18
    assert rows[0] == {
        "i": 0, "phase": "prefill", "l": 0, "layer": 1, "expert_1": 0, "expert_2": 1, "weight_1": 0.6, "weight_2": 0.4,
        "router_entropy": 0.5, "router_margin": 0.2, "churn": None,
    }  # fmt: skip
    absent = rows[1]
    assert (absent["layer"], absent["phase"]) == (2, "prefill")
    assert {absent[name] for name in ("expert_1", "expert_2", "weight_1", "weight_2", "router_entropy")} == {None}


def test_every_format_holds_the_same(exported):
    import pyarrow.parquet

    folders = {form: exported(form) for form in FORMS}
    for name in ("tokens", "routing", "chunks", "usage", "events", "vitals"):
        rows = pyarrow.parquet.read_table(folders["parquet"] / f"{name}.parquet").to_pylist()
        assert rows
        assert json.loads((folders["json"] / f"{name}.json").read_text()) == rows
        with (folders["csv"] / f"{name}.csv").open(newline="") as file:
            written = list(csv.DictReader(file))
        assert [{key: _as_csv(value) for key, value in row.items()} for row in rows] == written


def _as_csv(value):
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else repr(value)


def test_npz_has_an_array_for_each_column(exported, golden_path):
    with np.load(exported("npz") / "tokens.npz") as arrays:
        found = dict(arrays)
    tokens = golden(golden_path, Token)
    assert found["phase"].tolist() == [token.phase for token in tokens]
    assert np.isnan(found["logprob"]).sum() == 3
    assert found["would_stop"].tolist() == [0] * 9
    starts = [0, *found["text_end"]]
    data = found["text"].tobytes()
    assert [data[a:b].decode() for a, b in pairwise(starts)] == [token.text for token in tokens]
    with np.load(exported("npz", force=True) / "routing.npz") as arrays:
        np.testing.assert_array_equal(arrays["expert_1"].reshape(9, 2), moe_watch.open(golden_path).experts()[:, :, 0])


def test_events_forks_and_changes_have_rows(tmp_path):
    fork = Fork(i=6, t=0.3, arm="text", replicate=1, seed=9, text=" go on", injected=[1, 2], generated=[3, 4, 5])
    change = Change(i=6, t=0.3, tap=False, sampling=Sampling(seed=1, temperature=0.5))
    first, rest = made_tokens(12)[:6], made_tokens(12)[6:]
    path = write_session(tmp_path / "rich.moe.jsonl", events=[*first, fork, change, *rest])
    export_session(path, ExportPlan("json", tmp_path / "out"))
    (row,) = json.loads((tmp_path / "out/forks.json").read_text())
    assert (row["arm"], row["injected"], row["generated"], row["mid"]) == ("text", 2, 3, None)
    events = json.loads((tmp_path / "out/events.json").read_text())
    assert [(event["event"], event["what"]) for event in events] == [
        ("change", "tap"), ("change", "sampling"), ("state", "finished"),
    ]  # fmt: skip
    assert json.loads(events[1]["text"])["temperature"] == 0.5


def test_what_was_not_recorded_is_null_everywhere(tmp_path):
    path = write_session(tmp_path / "bare.moe.jsonl", events=[bare(token) for token in made_tokens(10)])
    export_session(path, ExportPlan("json", tmp_path / "out"))
    rows = json.loads((tmp_path / "out/routing.json").read_text())
    assert len(rows) == 10 * LAYERS
    assert {row[name] for row in rows for name in ("weight_1", "router_entropy", "router_margin")} == {None}
    assert {row["mid"] for row in json.loads((tmp_path / "out/chunks.json").read_text())} == {None}
    assert not (tmp_path / "out/probabilities.json").exists()


def test_probabilities_have_a_table_where_they_were_recorded(tmp_path):
    first, *rest = made_tokens(4)
    steps = list(range(LAYERS * EXPERTS))
    path = write_session(tmp_path / "probs.moe.jsonl", events=[msgspec.structs.replace(first, probs=steps), *rest])
    found = export_session(path, ExportPlan("json", tmp_path / "p.json", table="probabilities"))
    assert found.rows == {"probabilities": 4 * LAYERS * EXPERTS}
    rows = json.loads((tmp_path / "p.json").read_text())
    assert [row["probability"] for row in rows[: LAYERS * EXPERTS]] == [step / 10000 for step in steps]
    assert {row["probability"] for row in rows[LAYERS * EXPERTS :]} == {None}
    assert (rows[EXPERTS]["layer"], rows[EXPERTS]["expert"]) == (HEADER.model.layers[1], 0)


# -- text


def test_text_is_as_recorded_whatever_it_is(tmp_path):
    texts = ["", '"quoted",\n', "=1+1", "\x1b[31m", "é\u202e", "NA", "\r\n"]
    events = [msgspec.structs.replace(token, text=text) for token, text in zip(made_tokens(7), texts, strict=True)]
    path = write_session(tmp_path / "hostile.moe.jsonl", events=events)
    for form in FORMS:
        export_session(path, ExportPlan(form, tmp_path / form))
    import pandas

    assert pandas.read_parquet(tmp_path / "parquet/tokens.parquet")["text"].tolist() == texts
    assert [row["text"] for row in json.loads((tmp_path / "json/tokens.json").read_text())] == texts
    with (tmp_path / "csv/tokens.csv").open(newline="", encoding="utf-8") as file:
        assert [row["text"] for row in csv.DictReader(file)] == texts


def test_a_spreadsheet_gets_no_formula_if_asked(tmp_path):
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "1=1", "ok"]
    events = [msgspec.structs.replace(token, text=text) for token, text in zip(made_tokens(7), texts, strict=True)]
    path = write_session(tmp_path / "formulas.moe.jsonl", events=events)
    export_session(path, ExportPlan("csv", tmp_path / "out", spreadsheet=True))
    with (tmp_path / "out/tokens.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\tx", "1=1", "ok"]
    assert rows[0]["logprob"] == str(events[0].logprob)  # a negative number stays one


# -- how they are written


@pytest.mark.parametrize("form", FORMS)
def test_batches_change_nothing_but_row_groups(form, tmp_path, monkeypatch):
    path = write_session(tmp_path / "made.moe.jsonl", 50)
    export_session(path, ExportPlan(form, tmp_path / "whole"))
    monkeypatch.setattr("moe_watch.sessions.reading.token_arrays.BATCH_ROWS", 7 * LAYERS)
    monkeypatch.setattr("moe_watch.sessions.export.exporter.ROWS_HELD", 2)
    export_session(path, ExportPlan(form, tmp_path / "pieces"))
    for name in ("tokens", "routing", "chunks", "usage"):
        whole, pieces = (tmp_path / part / f"{name}.{form}" for part in ("whole", "pieces"))
        if form == "parquet":
            import pyarrow.parquet

            assert (
                pyarrow.parquet.ParquetFile(pieces).num_row_groups > pyarrow.parquet.ParquetFile(whole).num_row_groups
            )
            assert pyarrow.parquet.read_table(pieces).equals(pyarrow.parquet.read_table(whole))
        elif form == "npz":
            with np.load(whole) as a, np.load(pieces) as b:
                assert [np.testing.assert_array_equal(a[key], b[key]) for key in a]
        else:
            assert pieces.read_bytes() == whole.read_bytes()


def test_files_are_private_and_described(exported):
    folder = exported("csv")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    described = json.loads((folder / DESCRIPTION).read_text())
    assert msgspec.convert(described["session"], Header).model.name == "golden"
    assert {path.stem for path in folder.glob("*.csv")} == set(described["tables"])
    heading = (folder / "routing.csv").read_text().splitlines()[0].split(",")
    assert heading == [*described["tables"]["routing"]["columns"]]


def test_one_table_is_one_file_even_without_rows(golden_path, tmp_path):
    found = export_session(golden_path, ExportPlan("json", tmp_path / "forks.json", table="forks"))
    assert found.rows == {"forks": 0}
    assert json.loads((tmp_path / "forks.json").read_text()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["forks.json"]
    with pytest.raises(UserError, match="no table named 'layers': use one of tokens, routing"):
        export_session(golden_path, ExportPlan("json", table="layers"))


def test_files_are_named_after_the_session(golden_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert export_session(golden_path, ExportPlan("csv")).output.resolve() == tmp_path / "golden-csv"
    export_session(golden_path, ExportPlan("csv", table="usage"))
    assert (tmp_path / "golden-usage.csv").is_file()


def test_nothing_is_written_over_unless_told_to(exported, golden_path, tmp_path):
    folder = exported("json")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=r"tokens\.json: exists already"):
        exported("json")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    other = write_session(tmp_path / "other.moe.jsonl", 5)
    exported("json", other, force=True)
    assert len(json.loads((folder / "tokens.json").read_text())) == 5
    assert not (folder / "vitals.json").exists()  # the golden session's: no table of this one


@pytest.mark.parametrize("table", [None, "tokens"])
def test_forcing_replaces_no_fifo_or_device(golden_path, tmp_path, table):
    place = tmp_path / "out" / "tokens.csv"
    place.parent.mkdir()
    os.mkfifo(place)
    with pytest.raises(UserError, match=r"tokens\.csv: cannot be written \(not a regular file\)"):
        export_session(golden_path, ExportPlan("csv", place if table else place.parent, table, force=True))
    assert place.is_fifo()


def test_forcing_removes_no_file_that_no_export_wrote(exported, golden_path, tmp_path):
    (tmp_path / "out").mkdir(exist_ok=True)
    mine = tmp_path / "out" / "vitals.json"
    mine.write_text("precious")
    other = write_session(tmp_path / "other.moe.jsonl", 5)
    export_session(other, ExportPlan("json", tmp_path / "out", force=True))
    assert mine.read_text() == "precious", "no table of this session is called that, and no description names it"


def test_a_damaged_file_leaves_nothing_behind(golden_path, tmp_path):
    path = tmp_path / "damaged.moe.jsonl"
    path.write_bytes(b"".join(golden_path.read_bytes().splitlines(keepends=True)[:8]) + b"garbage\nmore\n")
    for form in FORMS:
        with pytest.raises(UserError, match="line 9"):
            export_session(path, ExportPlan(form, tmp_path / "out"))
        assert list((tmp_path / "out").glob("*")) == []


def test_a_torn_file_is_exported_as_far_as_it_is_whole(golden_path, tmp_path):
    path = tmp_path / "torn.moe.jsonl"
    path.write_bytes(golden_path.read_bytes()[:-20])
    found = export_session(path, ExportPlan("json", tmp_path / "out"))
    assert found.rows["tokens"] == 9
    (warning,) = found.warnings
    assert "the last line is cut off" in warning


def test_forged_chunks_are_computed_again_and_said(golden_path, tmp_path):
    path = tmp_path / "forged.moe.jsonl"
    path.write_bytes(re.sub(rb'"mid":0\.\d+', b'"mid":0.9', golden_path.read_bytes()))
    found = export_session(path, ExportPlan("json", tmp_path / "out"))
    assert all(row["mid"] < 0.6 for row in json.loads((tmp_path / "out/chunks.json").read_text()))
    (warning,) = found.warnings
    assert "3 recorded chunks differ" in warning


def test_parquet_without_its_library_says_what_to_install(golden_path, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=re.escape(install_command("export"))):
        export_session(golden_path, ExportPlan("parquet", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_number_that_fits_no_column_is_refused(golden_path, tmp_path):
    path = tmp_path / "large.moe.jsonl"
    path.write_bytes(golden_path.read_bytes().replace(b'"id":5,', b'"id":99999999999999999999,'))
    with pytest.raises(UserError, match=r"large\.moe\.jsonl"):
        export_session(path, ExportPlan("csv", tmp_path / "out"))


# -- what is said about them


def test_every_column_is_documented():
    documented = DOCUMENTATION.read_text(encoding="utf-8")
    for table in tables(HEADER).values():
        assert f"### `{table.name}`" in documented
        section = documented.split(f"### `{table.name}`")[1].split("\n#")[0]
        for column in routing_table(1).columns if table.name == "routing" else table.columns:
            name = re.sub(r"_1$", "_N", column.name) if table.name == "routing" else column.name
            assert f"| `{name}` | {column.kind} |" in section, (table.name, column.name)


def test_routing_has_a_column_for_every_expert_of_a_token():
    names = [column.name for column in tables(HEADER)["routing"].columns]
    assert names.count("expert_2") == names.count("weight_2") == 1
    assert f"expert_{K + 1}" not in names
