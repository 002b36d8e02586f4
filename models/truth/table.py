"""Measure how far MLX and `transformers` are apart on the tiny models, and write the tables of docs/families.md.

python -m models.truth.table
"""

from __future__ import annotations

import pathlib
from importlib.metadata import version

from tests.truth import shapes_page
from tests.truth.compare import Comparison, Golden, compare, read_golden, watch
from tests.truth.expected import DIFFERENT, GATES

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "families.md"

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def measure(name: str) -> tuple[Golden, Comparison]:
    golden = read_golden(name)
    return golden, compare(watch(name, golden.ids), golden)


def row(name: str) -> str:
    golden, found = measure(name)
    experts, chosen = golden.router_logits.shape[-1], golden.experts.shape[-1]
    layers = ", ".join(str(layer) for layer in golden.layers)
    sets = f"{found.rows - len(found.unequal)} of {found.rows}"
    differences = f"{found.weights:.0e} | {found.probabilities:.0e} | {found.output_logits:.0e}"
    return f"| {name} | `{GATES[name]}` | {chosen} of {experts} | {layers} | {sets} | {differences} |"


def table(names: list[str]) -> str:
    head = "| model | gate | experts | MoE layers | equal sets | weights | probabilities | output logits |"
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *(row(name) for name in names)])


def measured() -> str:
    engines = f"mlx-lm {version('mlx-lm')} and mlx {version('mlx')}"
    reasons = "\n".join(f"- **{name}**: {reason}." for name, reason in DIFFERENT.items())
    return f"""Measured with {engines}; weights over the gate's factor.

{table([name for name in GATES if name not in DIFFERENT])}

Where MLX computes something else than `transformers`. The routers' inputs are equal up to there, moe-watch shows
what MLX does, and the output of the model differs, too:

{table(list(DIFFERENT))}

{reasons}"""


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{measured()}\n\n{shapes_page.mlx_section()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
