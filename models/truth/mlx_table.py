"""Measure how far MLX and `transformers` are apart on the tiny models, and write the tables of docs/families.md.

python -m models.truth.mlx_table
"""

from __future__ import annotations

import pathlib
from importlib.metadata import version

from tests.truth import published_shapes_page
from tests.truth.expected import CORRECTED, GATES
from tests.truth.mlx_comparison import Comparison, Golden, compare, read_golden, run_model

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "families.md"

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def measure(name: str, *, corrected: bool) -> tuple[Golden, Comparison, str]:
    golden = read_golden(name)
    seen = run_model(name, golden.ids, corrected=corrected)
    return golden, compare(seen, golden), seen.gate


def row(name: str, *, corrected: bool) -> str:
    golden, found, gate = measure(name, corrected=corrected)
    experts, chosen = golden.router_logits.shape[-1], golden.experts.shape[-1]
    layers = ", ".join(str(layer) for layer in golden.layers)
    sets = f"{found.rows - len(found.unequal)} of {found.rows}"
    differences = f"{found.weights:.0e} | {found.probabilities:.0e} | {found.output_logits:.0e}"
    return f"| {name} | `{gate}` | {chosen} of {experts} | {layers} | {sets} | {differences} |"


def table(names: list[str], *, corrected: bool = True) -> str:
    head = "| model | gate | experts | MoE layers | equal sets | weights | probabilities | output logits |"
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *(row(name, corrected=corrected) for name in names)])


def measured() -> str:
    engines = f"mlx-lm {version('mlx-lm')} and mlx {version('mlx')}"
    reasons = "\n".join(f"- **{name}**: {reason}." for name, reason in CORRECTED.items())
    return f"""Measured with {engines}; weights over the gate's factor.

{table(list(GATES))}

Some of these models mlx-lm alone computes differently from `transformers`. moe-watch adds the missing settings to the
loaded model, and the session's warnings report it. The same models as mlx-lm loads them:

{table(list(CORRECTED), corrected=False)}

{reasons}"""


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(
        f"{before}{BEGIN}\n{measured()}\n\n{published_shapes_page.mlx_section()}\n{END}{after}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
