"""`moe-watch schema` lists results and prints their JSON Schema."""

from __future__ import annotations

import json

import pytest

from moe_watch.commands.app import run
from moe_watch.commands.schema import printed_results


def test_without_a_name_all_results_are_listed(capsys):
    assert run(["schema"]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["NAME", "PRINTED", "BY"]
    assert [line.split()[0] for line in lines] == list(printed_results())
    assert "run           record --json, replay --headless --json" in lines


@pytest.mark.parametrize("name", printed_results())
def test_a_schema_describes_the_keys(capsys, name):
    assert run(["schema", name]) == 0
    schema = json.loads(capsys.readouterr().out)
    struct = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    assert list(struct["properties"]) == list(printed_results()[name].struct.__struct_fields__)


def test_an_unknown_name_is_one_line(capsys):
    assert run(["schema", "nothing"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("moe-watch: there is no result called 'nothing': use run, fit, cost, ")
