"""Tables of the models of published shape, for docs/families.md and docs/families-llama.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from tests.truth import mlx_comparison as mlx
from tests.truth import published_shapes as shapes
from tests.truth.mlx_comparison import Golden
from tests.truth.published_shapes_expected import (
    LLAMA_DIFFERENT,
    LLAMA_NOT_CONVERTED,
    MLX_CORRECTED,
    MLX_DIFFERENT,
    Different,
)

HEAD = """\
| model | gate | experts | MoE layers | equal sets | % | weights | probabilities | output logits |
|---|---|---|---|---|---:|---|---|---|"""


class Found(Protocol):
    """Return the distance of an engine from `transformers`, as both comparisons say it."""

    @property
    def rows(self) -> int: ...
    @property
    def unequal(self) -> list[tuple[int, int]]: ...
    @property
    def weights(self) -> float | None: ...
    @property
    def probabilities(self) -> float: ...
    @property
    def output_logits(self) -> float: ...


Measure = Callable[[str], tuple[str, Found]]
"""The gate that moe-watch names for a model, and how far the engine is from `transformers`."""


def row(name: str, measure: Measure) -> str:
    golden: Golden = shapes.read_golden(name)
    gate, found = measure(name)
    equal = found.rows - len(found.unequal)
    layers = ", ".join(str(layer) for layer in golden.layers)
    weights = "–" if found.weights is None else f"{found.weights:.0e}"
    cells = [
        name,
        f"`{gate}`",
        f"{golden.experts.shape[-1]} of {golden.router_logits.shape[-1]}",
        layers,
        f"{equal} of {found.rows}",
        f"{100 * equal / found.rows:.4g}",
        weights,
        f"{found.probabilities:.0e}",
        f"{found.output_logits:.0e}",
    ]
    return f"| {' | '.join(cells)} |"


def rows(names: Iterable[str], measure: Measure) -> str:
    return "\n".join([HEAD, *(row(name, measure) for name in names)])


def reasons(different: dict[str, Different]) -> str:
    return "\n".join(f"- **{name}**: {known.reason}." for name, known in different.items())


def mlx_section() -> str:
    def measure(name: str, *, plain: bool = False) -> tuple[str, Found]:
        seen = shapes.run_on_mlx(name, plain=plain)
        return seen.gate, mlx.compare(seen, shapes.read_golden(name))

    corrected = ", ".join(name for name in MLX_DIFFERENT if name in MLX_CORRECTED) or "none"
    equal = [name for name in shapes.names() if name not in MLX_DIFFERENT or name in MLX_CORRECTED]

    return f"""### Of published shape

Numbers of experts, of selected ones and of groups as in published models; windows shorter than the run; a prompt of 560
tokens in two steps, and 40 single tokens after it. Each model is loaded as moe-watch loads it. Probabilities and output
logits are of 13 tokens. Of `qwen3_next_10_of_512` one set is another one in `transformers` itself, token by token; see
[below](#where-rounding-decides-qwen3-next-and-qwen35).

{rows(equal, measure)}

Models with a setting that mlx-lm ignores, as mlx-lm loads them. Their output differs, too. moe-watch corrects of these:
{corrected}.

{rows(MLX_DIFFERENT, partial(measure, plain=True))}

{reasons(MLX_DIFFERENT)}"""


def llama_section() -> str:
    from tests.truth import llama_comparison as llama  # the page of MLX needs no llama.cpp

    def measure(name: str) -> tuple[str, Found]:
        seen = llama.run_shape(name)
        return seen.gate, llama.compare(seen, shapes.read_golden(name))

    names = [name for name in shapes.names() if name not in LLAMA_NOT_CONVERTED]
    missing = "\n".join(f"| {name} | {reason} |" for name, reason in LLAMA_NOT_CONVERTED.items())
    return f"""### Of published shape

Numbers of experts, of selected ones and of groups as in published models; windows shorter than the run; a prompt of 560
tokens in five micro-batches, and 40 single tokens after it. Of most models llama.cpp computes the last layer for the
prompt's last token and the single ones only, so that fewer sets are compared than on MLX. Probabilities are of 13
tokens, output logits of the last 4 of them.

{rows([name for name in names if name not in LLAMA_DIFFERENT], measure)}

Models that llama.cpp computes something else for. Their output differs, too:

{rows(LLAMA_DIFFERENT, measure)}

{reasons(LLAMA_DIFFERENT)}

Not tried, because there is no file:

| model | reason |
|---|---|
{missing}"""
