"""Measure how far llama.cpp and `transformers` are apart, and write the tables of docs/families-llama.md.

python -m models.truth.llama_table
"""

from __future__ import annotations

import pathlib
from importlib.metadata import version

from tests.truth import published_shapes_page
from tests.truth.expected import GATES
from tests.truth.llama_comparison import Comparison, Runs, compare, runs
from tests.truth.llama_expected import DIFFERENT, NOT_CONVERTED
from tests.truth.mlx_comparison import Golden, read_golden

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "families-llama.md"

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

HEAD = (
    "| model | llama.cpp's name | gate | experts | MoE layers | equal sets | weights | probabilities | output logits |",
    "|---|---|---|---|---|---|---|---|---|",
)


def measure(name: str) -> tuple[Golden, Runs, Comparison]:
    golden, seen = read_golden(name), runs(name)
    return golden, seen, compare(seen.stepwise, golden)


def row(name: str) -> str:
    golden, seen, found = measure(name)
    experts, chosen = golden.router_logits.shape[-1], golden.experts.shape[-1]
    layers = ", ".join(str(layer) for layer in golden.layers)
    sets = f"{found.rows - len(found.unequal)} of {found.rows}"
    weights = "–" if found.weights is None else f"{found.weights:.0e}"
    differences = f"{weights} | {found.probabilities:.0e} | {found.output_logits:.0e}"
    named = f"{name} | `{seen.architecture}` | `{seen.stepwise.gate}`"
    return f"| {named} | {chosen} of {experts} | {layers} | {sets} | {differences} |"


def table(names: list[str]) -> str:
    return "\n".join([*HEAD, *(row(name) for name in names)])


def measured() -> str:
    equal = [name for name in GATES if name not in NOT_CONVERTED and name not in DIFFERENT]
    reasons = "\n".join(f"- **{name}**: {known.reason}." for name, known in DIFFERENT.items())
    missing = "\n".join(f"| {name} | {reason} |" for name, reason in NOT_CONVERTED.items())
    return f"""Measured with llama-cpp-python {version("llama-cpp-python")}.

{table(equal)}

Models that llama.cpp computes differently from `transformers`. moe-watch shows llama.cpp's routing; the output of these
models differs, too:

{table(list(DIFFERENT))}

{reasons}

Not tried, because there is no file:

| model | reason |
|---|---|
{missing}"""


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(
        f"{before}{BEGIN}\n{measured()}\n\n{published_shapes_page.llama_section()}\n{END}{after}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
