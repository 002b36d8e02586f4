"""docs/families.md must name every family that there is, and every model that was compared."""

from __future__ import annotations

import pathlib
import re
from importlib.metadata import version

import mlx_lm.models
import pytest

from tests.truth import published_shapes as shapes
from tests.truth.expected import GATES

PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "families.md").read_text(encoding="utf-8")


@pytest.mark.skipif(version("mlx-lm") != "0.32.2", reason="the page is about mlx-lm 0.32.2")
def test_every_family_of_mlx_lm_is_on_the_page() -> None:
    folder = pathlib.Path(mlx_lm.models.__path__[0])
    families = {
        file.stem
        for file in folder.glob("*.py")
        if re.search(r"= Switch(GLU|MLP)\(|moe_num_experts", file.read_text(encoding="utf-8"))
    }
    assert len(families) > 40
    listed = set(re.findall(r"`(\w+)`", PAGE.partition("## All families")[2]))
    assert families - listed == set()


def test_every_model_that_was_compared_is_on_the_page() -> None:
    assert set(re.findall(r"^\| (\w+) \| `", PAGE, re.MULTILINE)) == {*GATES, *shapes.names()}
