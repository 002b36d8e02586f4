"""Columns of tables keep their place with any content."""

from __future__ import annotations

from rich.cells import cell_len

from moe_watch.commands.tables import table_lines


def test_columns_have_one_width():
    assert table_lines([["a", "bb", "c"], ["aaa", "b", "cc"]]) == ["a    bb  c", "aaa  b   cc"]
    assert table_lines([["a", "bb"], ["aaa", "b"]], right=[1]) == ["a    bb", "aaa   b"]


def test_wide_and_combining_characters_shift_no_column():
    rows = [["NAME", "SIZE"], ["模型", "1"], ["e\u0301t\u00e9", "22"], ["\U0001f600 x", "333"]]
    for right in ((), (1,), (0, 1)):
        ends = {cell_len(line[: line.rindex(" ")]) for line in table_lines(rows, right=right)}
        if right:
            assert len({cell_len(line) for line in table_lines(rows, right=right)}) == 1
        else:
            assert ends == {5}


def test_control_characters_are_shown_and_measured_as_shown():
    assert table_lines([["a\x1b[2Jb", "x"], ["c", "y"]]) == ["a␛[2Jb  x", "c       y"]
