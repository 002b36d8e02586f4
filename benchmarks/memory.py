"""Predicted memory against the memory that each engine takes: the table of docs/memory.md.

    python -m benchmarks.memory [--full FOLDER] [--page docs/memory.md]

Each model is measured in a separate process: the engine's own buffer sizes after loading, MLX's peak counter after a
prompt that fills the context, and the memory of the process by kind. `--full` adds olmoe-1b-7b.gguf, qwen3-30b-a3b.gguf
and mixtral-8x7b.gguf of that folder, one at a time, which need up to 18 GB; `tests.backends.memory.full_size_models`
writes them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.random_models import FEW_LARGE, MANY_SMALL, make_folder
from moe_watch.backends.engine_sizes import EngineSizes, FailedSizes, SizesItem
from moe_watch.backends.memory.ask import ask_engine
from moe_watch.backends.memory.need import Need
from moe_watch.backends.memory.quick import estimate_folder, estimate_gguf
from moe_watch.backends.model_files.catalog import locate
from moe_watch.backends.model_files.config import read_config
from moe_watch.backends.model_files.gguf import read_parts
from moe_watch.backends.model_files.preflight import read_tensor_tables
from moe_watch.backends.protocol import EngineOptions
from tests.backends.memory.full_size_models import write_model
from tests.backends.memory.measured import Measured, measured_apart, peak_of

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
FULL = ("olmoe-1b-7b", "qwen3-30b-a3b", "mixtral-8x7b")


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """Model with its prediction and its measurement."""

    name: str
    engine: str
    options: EngineOptions
    predicted: EngineSizes
    measured: Measured
    quick: int


# -- models


def models(folder: Path, full: Path | None) -> Iterator[tuple[str, str, str, EngineOptions]]:
    """Yield title, engine, path and options of each model; a file exists until the next one is asked for."""
    from tests.backends import llama_files, tiny

    context = EngineOptions(threads=1, context=2048)
    yield "pocket", "llama.cpp", "pocket", EngineOptions(threads=1)
    yield "pocket, q8_0 cache", "llama.cpp", "pocket", EngineOptions(threads=1, kv_type="q8_0")
    for title, written in (
        ("mixtral, 2 layers", llama_files.write_gguf(folder / "mixtral.gguf")),
        ("qwen3_moe, 3 layers", llama_files.write_gguf(folder / "qwen3.gguf", tiny.QWEN3 | {"mlp_only_layers": []})),
        ("minimax-m2, 2 layers", llama_files.write_sigmoid(folder / "minimax.gguf")),
        ("deepseek, 3 layers", llama_files.write_scaled(folder / "deepseek.gguf")),
        ("gpt-oss, 2 layers", llama_files.write_gpt_oss(folder / "gpt-oss.gguf")),
    ):
        yield title, "llama.cpp", str(written), context
    for name, layers in (("glm-4.5-air", 2), ("qwen3-coder-next", 4), ("gpt-oss-20b", 2)):
        path = write_model(name, folder / f"{name}.gguf", sparse=False, layers=layers)
        yield f"{name}, {layers} layers in full width", "llama.cpp", str(path), context
        path.unlink()
    for name in FULL if full is not None else ():
        path = (full or folder) / f"{name}.gguf"
        yield f"{name}, full size ({path.stat().st_size / 1e9:.1f} GB)", "llama.cpp", str(path), EngineOptions()
    yield "pocket", "mlx", "pocket", EngineOptions()
    for name, config, dtype, bits in (
        ("mixtral, float32", tiny.MIXTRAL, "float32", None),
        ("mixtral, float16", tiny.MIXTRAL, "float16", None),
        ("mixtral, 4-bit", tiny.MIXTRAL, "float16", 4),
        ("qwen3_moe, float32", tiny.QWEN3, "float32", None),
        ("glm4_moe, float32", tiny.GLM4, "float32", None),
    ):
        yield (
            name,
            "mlx",
            str(_folder(folder / name, config, dtype, bits)),
            EngineOptions(context=2048 if bits is None else 256),
        )
    for shape in (FEW_LARGE, MANY_SMALL):
        yield f"{shape.name}: {shape}", "mlx", str(make_folder(shape, folder)), EngineOptions(context=512)


def _folder(path: Path, config: dict[str, object], dtype: str, bits: int | None) -> Path:
    import mlx.core as mx

    from tests.backends import tiny

    wider = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "max_position_embeddings": 8192}
    return tiny.write_model(path, config | wider, dtype=getattr(mx, dtype), bits=bits)


def compared(folder: Path, full: Path | None) -> Iterator[MeasuredModel]:
    """Yield all models with prediction and measurement."""
    for title, engine, path, options in models(folder, full):
        [predicted] = ask_engine(engine, [SizesItem(model=path, options=options)])
        if isinstance(predicted, FailedSizes):
            raise RuntimeError(f"{title}: {predicted.what}")
        yield MeasuredModel(
            title, engine, options, predicted, measured_apart(engine, path, options), _quick(engine, path, options)
        )


def _quick(engine: str, path: str, options: EngineOptions) -> int:
    location = locate(path, engine)
    if location.path is None:
        raise ValueError(path)
    if engine == "mlx":
        tensors = read_tensor_tables(location.path)
        return estimate_folder(read_config(location.path), tensors, context=options.context).total
    parts = read_parts(location.path)
    kinds = {tensor.dtype for part in parts for tensor in part.tensors}
    weights = sum(tensor.bytes for part in parts for tensor in part.tensors)
    return estimate_gguf(parts[0], weights, is_float32=kinds == {"F32"}, context=options.context).total


# -- tables


def llama_row(model: MeasuredModel) -> str:
    """Return a row of llama.cpp's table: predicted and measured sizes in bytes."""
    need, measured = Need(model.predicted), model.measured
    in_memory = need.weights - need.mapped
    buffers = in_memory + need.kv + need.compute
    cells = [
        model.name,
        _pair(in_memory, measured.weights),
        _pair(need.kv, measured.kv),
        _pair(need.compute, measured.compute),
        _pair(model.predicted.repacked, measured.repacked),
        f"{need.mapped / 1e6:,.1f}",
        f"{model.predicted.runtime / 1e6:,.0f}",
        f"{(buffers + model.predicted.runtime) / 1e6:,.0f} / {measured.anonymous / 1e6:,.0f}",
        f"{measured.file / 1e6:,.0f}",
        f"{model.quick / 1e6:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def mlx_row(model: MeasuredModel) -> str:
    """Return a row of MLX's table."""
    need, measured = Need(model.predicted), model.measured
    predicted_peak = peak_of(model.predicted)
    peak = measured.peak or 0
    cells = [
        model.name,
        _pair(need.weights, measured.weights),
        _pair(need.kv, measured.kv),
        _pair(need.compute, measured.compute),
        f"{_pair(predicted_peak, peak)} ({100 * (predicted_peak / peak - 1):+.1f} %)",
        f"{model.predicted.runtime / 1e6:,.0f}",
        f"{measured.anonymous / 1e6:,.0f}",
        f"{model.quick / 1e6:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _pair(predicted: int, measured: int) -> str:
    if predicted == measured:
        return f"{predicted / 1e6:,.1f} =" if predicted else "0 ="
    return f"{predicted / 1e6:,.1f} / {measured / 1e6:,.1f}"


def tables(found: list[MeasuredModel]) -> str:
    """Return both tables."""
    llama = [each for each in found if each.engine == "llama.cpp"]
    mlx = [each for each in found if each.engine == "mlx"]
    return "\n".join(
        [
            f"Measured with llama-cpp-python {version('llama-cpp-python')}, mlx {version('mlx')} and mlx-lm"
            f" {version('mlx-lm')}. Sizes are in MB (10⁶ bytes), predicted / measured; `=` is equal to the byte.",
            "",
            "### llama.cpp",
            "",
            "| model | weights in memory | KV cache | compute | of the weights, repacked | mapped weights"
            " | runtime | process, RssAnon | RssFile | quick estimate, total |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
            *map(llama_row, llama),
            "",
            "### MLX",
            "",
            "| model | weights | KV cache | activations | peak counter | runtime | RssAnon | quick estimate, total |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
            *map(mlx_row, mlx),
        ]
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", type=Path, help="folder with files in full size")
    parser.add_argument("--page", type=Path, help="write the tables into this page")
    arguments = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as name:
        for each in compared(Path(name), arguments.full):
            print(llama_row(each) if each.engine == "llama.cpp" else mlx_row(each), flush=True)
            found.append(each)
    text = tables(found)
    print(text)
    if arguments.page is not None:
        page = arguments.page.read_text(encoding="utf-8")
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        arguments.page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
