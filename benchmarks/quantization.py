"""Drift of the routing of quantized models: every quantization is forced to the tokens that float32 sampled.

    python -m benchmarks.quantization [--tokens 400] [--page docs/quantization.md]

Makes pocket and two random models in float32, quantizes them with llama.cpp's and mlx-lm's own quantizers, records each
with `--teacher`, and compares it with the float32 run as `moe-watch compare` does. With --page the tables are written
into the page, between its markers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.random_models import POCKET
from moe_watch.backends.model_files.gguf import read_gguf
from moe_watch.routing.events import Header
from moe_watch.routing.router.agreement import Agreement
from moe_watch.sessions.comparing.tokens import compare_tokens
from moe_watch.sessions.reading.reader import read_session
from tests.backends.quantized import Variant, made, quantize_folder, quantize_gguf, record

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
SEED = 7
PROMPT = "def parse("

FEW_EXPERTS = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 6, "num_local_experts": 8}
MANY_EXPERTS = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "moe_intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "head_dim": 64,
    "mlp_only_layers": [],
}
"""Rows are 256 or a multiple, so that K-quants are possible."""


@dataclass(frozen=True, slots=True)
class Drift:
    """Routing of one variant compared with float32."""

    variant: Variant
    header: Header
    surprisal: float
    """Mean surprisal of the teacher's tokens, nats."""
    routing: Agreement


# -- making and quantizing


def pocket(folder: Path) -> tuple[Path, Path]:
    """Return pocket, stored as float16 values: in float32 as a folder, and as a GGUF file."""
    copy = folder / "float32"
    shutil.copytree(POCKET, copy, ignore=shutil.ignore_patterns("*.gguf"))
    return copy, POCKET / "pocket.gguf"


def variants(folder: Path, make: Callable[[Path], tuple[Path, Path]]) -> Iterator[Variant]:
    """Yield a model in all quantizations; float32 comes first."""
    plain, file = make(folder)
    yield Variant("llama.cpp", "float32", file)
    yield Variant("mlx", "float32", plain)
    yield Variant("llama.cpp", "float32, f16 cache", file, cache="f16")
    for kind in ("Q8_0", "Q4_K_M"):
        yield Variant("llama.cpp", kind, quantize_gguf(file, folder / f"{kind}.gguf", kind))
    for bits in (8, 4):
        yield Variant("mlx", f"{bits}-bit", quantize_folder(plain, folder / f"{bits}-bit", bits))


# -- measuring


def drifts(folder: Path, make: Callable[[Path], tuple[Path, Path]], tokens: int) -> list[Drift]:
    """Record float32 with its sampled tokens, then every variant with teacher forcing on them."""
    found: list[Drift] = []
    teacher = folder / "teacher.moe.jsonl"
    for variant in variants(folder, make):
        if not teacher.exists():
            record(variant, teacher, "--prompt", PROMPT, "--raw", "--tokens", str(tokens), "--seed", str(SEED))
        output = folder / f"{variant.engine}-{variant.name}.moe.jsonl"
        found.append(_drift(variant, teacher, output))
    return found


def _drift(variant: Variant, teacher: Path, output: Path) -> Drift:
    surprisal = record(variant, output, "--teacher", str(teacher))["surprisal"]
    compared = compare_tokens(teacher, output)
    if isinstance(compared, str) or compared.routing is None or compared.ended:
        raise RuntimeError(f"{output}: {compared}")
    with contextlib.closing(read_session(output)) as session:
        return Drift(variant, session.header, surprisal, compared.routing)


# -- writing


def table(found: list[Drift]) -> str:
    """Return the table of all quantizations of one model, over all layers."""
    lines = [
        "| engine | weights | router | sets equal | experts kept | top-1 equal | top-1 still chosen"
        " | usage JS | usage rank | surprisal |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---:|",
        *map(_row, found),
    ]
    return "\n".join(lines)


def _row(drift: Drift) -> str:
    routing, rows = drift.routing, int(drift.routing.rows.sum())
    sets, top_1, lost = int(routing.sets.sum()), int(routing.top_1.sum()), int(routing.rank_of_top_1[:, -1].sum())
    return (
        f"| {drift.variant.engine} | {stored(drift)} | {router_type(drift)}"
        f" | {sets:,} of {rows:,}, {_percent(sets, rows)}"
        f" | {_percent(int(routing.kept.sum()), int(routing.choices.sum()))} | {_percent(top_1, rows)}"
        f" | {_percent(rows - lost, rows)} | {np.nanmean(routing.usage_distance):.4f}"
        f" | {np.nanmean(routing.usage_correlation):.3f} | {drift.surprisal:.4f} |"
    )


def stored(drift: Drift) -> str:
    """Return a variant's name, and the quantization in the session's header."""
    return f"{drift.variant.name}: {drift.header.model.quantization or 'not quantized'}"


def router_type(drift: Drift) -> str:
    """Return the type of the routers' weights: quantizers treat them differently."""
    path, quantized = drift.variant.path, drift.header.model.quantization is not None
    if drift.variant.engine == "llama.cpp":
        types = {tensor.dtype for tensor in read_gguf(path).tensors if ".ffn_gate_inp." in tensor.name}
        return ", ".join(sorted(types))
    settings = json.loads((path / "config.json").read_text()).get("quantization", {})
    own = {entry["bits"] for name, entry in settings.items() if name.endswith(".gate") and isinstance(entry, dict)}
    return ", ".join(f"{bits}-bit" for bits in sorted(own or {settings["bits"]})) if quantized else "F32"


def layer_table(found: list[Drift]) -> str:
    """Return the table of equal sets, layer by layer."""
    layers = range(len(found[0].routing.rows))
    lines = [
        f"| sets equal in layer | {' | '.join(map(str, layers))} |",
        f"|---|{'---:|' * len(layers)}",
        *(
            f"| {drift.variant.engine} {drift.variant.name} | "
            + " | ".join(_percent(int(drift.routing.sets[at]), int(drift.routing.rows[at])) for at in layers)
            + " |"
            for drift in found
        ),
        f"| n | {' | '.join(_rows(found, at) for at in layers)} |",
    ]
    return "\n".join(lines)


def _rows(found: list[Drift], layer: int) -> str:
    counts = sorted({int(drift.routing.rows[layer]) for drift in found})
    return " to ".join(f"{count:,}" for count in (counts[:1] + counts[1:][-1:]))


def _percent(part: int, whole: int) -> str:
    """Return a share as text; 100 % only if it is exact."""
    return "100 %" if part == whole else f"{min(99.9, 100 * part / whole):.1f} %"


def measured(tokens: int) -> Iterator[str]:
    """Yield every model's tables."""
    from tests.backends import tiny

    yield f"Measured with llama-cpp-python {version('llama-cpp-python')}, mlx-lm {version('mlx-lm')}."
    models: dict[str, Callable[[Path], tuple[Path, Path]]] = {
        "pocket: 6 layers × 8 experts, top-2, hidden 128, trained": pocket,
        "random weights: 6 layers × 8 experts, top-2, hidden 256": lambda folder: made(
            tiny.MIXTRAL | FEW_EXPERTS, folder
        ),
        "random weights: 4 layers × 64 experts, top-8, hidden 256": lambda folder: made(
            tiny.QWEN3 | MANY_EXPERTS, folder
        ),
    }
    for title, make in models.items():
        with tempfile.TemporaryDirectory() as name:
            found = drifts(Path(name), make, tokens)
            tables = f"{table(found)}\n\n{layer_table(found)}"
        yield f"### {title}\n\n{tables}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=400, help="generated tokens")
    parser.add_argument("--page", type=Path, help="write the tables into this page")
    arguments = parser.parse_args()
    parts = []
    for part in measured(arguments.tokens):
        print(f"{part}\n", flush=True)
        parts.append(part)
    if arguments.page is not None:
        text = arguments.page.read_text(encoding="utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        arguments.page.write_text(f"{before}{BEGIN}\n{chr(10).join(f'{part}{chr(10)}' for part in parts)}{END}{after}")


if __name__ == "__main__":
    main()
