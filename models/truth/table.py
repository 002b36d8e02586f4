"""Measure how far MLX and `transformers` are apart on the tiny models, and write the tables of docs/families.md.

python -m models.truth.table
"""

from __future__ import annotations

import pathlib
from importlib.metadata import version

from tests.truth import shapes
from tests.truth.compare import Comparison, Golden, compare, read_golden, watch
from tests.truth.expected import DIFFERENT, GATES
from tests.truth.shapes_expected import MLX_DIFFERENT

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "families.md"

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def measure(name: str) -> tuple[Golden, Comparison, str]:
    """What `transformers` computed, how far MLX is from it, and the gate that moe-watch names."""
    if name in shapes.names():
        golden, seen = shapes.read_golden(name), shapes.on_mlx(name)
    else:
        golden = read_golden(name)
        seen = watch(name, golden.ids)
    return golden, compare(seen, golden), seen.gate


def row(name: str) -> str:
    golden, found, gate = measure(name)
    experts, chosen = golden.router_logits.shape[-1], golden.experts.shape[-1]
    layers = ", ".join(str(layer) for layer in golden.layers)
    sets = f"{found.rows - len(found.unequal)} of {found.rows}"
    differences = f"{found.weights:.0e} | {found.probabilities:.0e} | {found.output_logits:.0e}"
    return f"| {name} | `{gate}` | {chosen} of {experts} | {layers} | {sets} | {differences} |"


def table(names: list[str]) -> str:
    head = "| model | gate | experts | MoE layers | equal sets | weights | probabilities | output logits |"
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *(row(name) for name in names)])


def of_published_shape() -> str:
    equal = [name for name in shapes.names() if name not in MLX_DIFFERENT]
    reasons = "\n".join(f"- **{name}**: {known.reason}." for name, known in MLX_DIFFERENT.items())
    return f"""### Of published shape

As many experts, as many of them selected, and as many groups as in published models; windows shorter than the run; a
prompt of 560 tokens in two steps, and 40 single tokens after it. Probabilities and output logits are of 13 tokens.

{table(equal)}

With settings that MLX computes something else for:

{table(list(MLX_DIFFERENT))}

{reasons}"""


def measured() -> str:
    engines = f"mlx-lm {version('mlx-lm')} and mlx {version('mlx')}"
    reasons = "\n".join(f"- **{name}**: {reason}." for name, reason in DIFFERENT.items())
    return f"""Measured with {engines}; weights over the gate's factor.

{table([name for name in GATES if name not in DIFFERENT])}

Where MLX computes something else than `transformers`. The routers' inputs are equal up to there, moe-watch shows
what MLX does, and the output of the model differs, too:

{table(list(DIFFERENT))}

{reasons}

{of_published_shape()}"""


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{measured()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
