"""Measure how far both engines and `transformers` are apart on dense models, and write the table of docs/families.md.

python -m models.truth.dense_table
"""

from __future__ import annotations

import pathlib
import tempfile

import numpy as np

from tests.truth.dense_comparison import ENGINES, NAMES, PROMPT, Predictions, expected, opened, seen

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "families.md"

BEGIN, END = "<!-- dense: begin -->", "<!-- dense: end -->"
HEAD = (
    "| model | engine | tokens | log-probability, nats | `top_margin` | `choice_gap` |",
    "|---|---|---|---|---|---|",
)


def row(name: str, kind: str) -> str:
    golden = expected(name)
    with tempfile.TemporaryDirectory() as folder, opened(name, kind, pathlib.Path(folder)) as engine:
        found = seen(engine, golden.ids.tolist())
    apart = " | ".join(largest(found, golden, each) for each in ("logprob", "top_margin", "choice_gap"))
    return f"| {name} | {kind} | {len(golden.ids) - PROMPT} | {apart} |"


def largest(found: Predictions, golden: Predictions, quantity: str) -> str:
    """Return the largest absolute difference of a quantity."""
    return f"{np.abs(getattr(found, quantity) - getattr(golden, quantity)).max():.0e}"


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    table = "\n".join([*HEAD, *(row(name, kind) for name in NAMES for kind in ENGINES)])
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
