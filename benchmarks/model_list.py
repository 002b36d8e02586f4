"""Benchmark of `moe-watch models`: a first list, and later ones from the cache, over 300 model files made here.

python -m benchmarks.model_list

100 GGUF files have a vocabulary of 152,064 random strings and as many merges; 170 are small GGUF files, folders in
Hugging Face layout, and repositories of the Hub's cache; 30 are broken. The page cache is warm: the files are new.
"""

from __future__ import annotations

import json
import os
import random
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

VOCABULARY = 152_064
LARGE, SMALL, FOLDERS, REPOSITORIES, BROKEN = 100, 90, 40, 40, 30
LATER = 5
"""Number of later lists."""
LAYERS, EXPERTS, USED = 4, 8, 2


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _number(key: str, value: int) -> bytes:
    return _string(key.encode()) + struct.pack("<II", 4, value)


def _strings(key: str, texts: Sequence[bytes]) -> bytes:
    return _string(key.encode()) + struct.pack("<IIQ", 9, 8, len(texts)) + b"".join(map(_string, texts))


def gguf_bytes(vocabulary: int, seed: int) -> tuple[bytes, int]:
    """Return the header of a GGUF file, and the number of bytes of its tensors, which may be a hole in the file."""
    source = random.Random(seed)
    letters = b"abcdefghijklmnopqrstuvwxyz"
    tokens = [bytes(source.choices(letters, k=source.randint(1, 12))) for _ in range(vocabulary)]
    merges = [a + b" " + b for a, b in pairwise(tokens)]
    entries = [
        _string(b"general.architecture") + struct.pack("<I", 8) + _string(b"qwen3moe"),
        _number("qwen3moe.block_count", LAYERS),
        _number("qwen3moe.context_length", 2048),
        _number("qwen3moe.embedding_length", 64),
        _number("qwen3moe.attention.head_count", 4),
        _number("qwen3moe.attention.head_count_kv", 2),
        _number("qwen3moe.expert_count", EXPERTS),
        _number("qwen3moe.expert_used_count", USED),
        _strings("tokenizer.ggml.tokens", tokens),
        _strings("tokenizer.ggml.merges", merges),
    ]
    tensors: dict[str, tuple[int, ...]] = {f"blk.{layer}.ffn_gate_inp.weight": (64, EXPERTS) for layer in range(LAYERS)}
    tensors |= {f"blk.{layer}.ffn_up_exps.weight": (64, 32, EXPERTS) for layer in range(LAYERS)}
    rows, offset = [], 0
    for name, shape in tensors.items():
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        rows.append(_string(name.encode()) + dimensions + struct.pack("<IQ", 0, offset))
        size = 4
        for length in shape:
            size *= length
        offset += size
    start = b"GGUF" + struct.pack("<IQQ", 3, len(rows), len(entries))
    header = start + b"".join(entries) + b"".join(rows)
    return header + bytes(-len(header) % 32), offset


def write_gguf(path: Path, vocabulary: int, seed: int) -> None:
    """Write a GGUF file whose tensors are a hole."""
    header, size = gguf_bytes(vocabulary, seed)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + size)


def write_folder(folder: Path) -> None:
    """Write a folder in Hugging Face layout."""
    folder.mkdir(parents=True)
    config = {"model_type": "mixtral", "num_hidden_layers": 1, "num_local_experts": 2, "num_experts_per_tok": 1}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    names = [f"model.layers.0.block_sparse_moe.experts.{expert}.w1.weight" for expert in range(2)]
    table = {
        name: {"dtype": "BF16", "shape": [8, 8], "data_offsets": [128 * at, 128 * at + 128]}
        for at, name in enumerate(names)
    }
    header = json.dumps(table).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(256))


def write_models(home: Path) -> Path:
    """Write all files; return the folder to name on the command line."""
    folder = home / "models"
    folder.mkdir()
    for number in range(LARGE):
        write_gguf(folder / f"large-{number}.gguf", VOCABULARY, number)
    for number in range(SMALL):
        write_gguf(folder / f"small-{number}.gguf", 100, number)
    for number in range(FOLDERS):
        write_folder(folder / f"folder-{number}")
    for number in range(REPOSITORIES):
        repository = home / f".cache/huggingface/hub/models--owner--model-{number}"
        write_folder(repository / "snapshots" / ("0" * 40))
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text("0" * 40)
    for number in range(BROKEN):
        _write_broken(folder / f"broken-{number}", number)
    return folder


def _write_broken(path: Path, number: int) -> None:
    """Write one of six kinds of broken files."""
    file = path.with_suffix(".gguf")
    header, _ = gguf_bytes(VOCABULARY if number < 6 else 100, number)
    match number % 6:
        case 0:
            file.write_bytes(header)  # no tensor data
        case 1:
            file.write_bytes(header[: len(header) // 2])
        case 2:
            file.write_text("version https://git-lfs.github.com/spec/v1\n")
        case 3:
            file.with_name(f"{path.name}-00002-of-00002.gguf").write_bytes(header)
        case 4:
            os.mkfifo(file)
        case _:
            write_folder(path)
            (path / "model.safetensors").write_bytes(b"")


def listed(folder: Path, environment: dict[str, str]) -> tuple[float, int, int]:
    """Run the command; return its seconds, and the number of models and of broken ones."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "moe_watch", "models", "--json", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    seconds = time.perf_counter() - start
    models = [model for model in json.loads(done.stdout)["models"] if model["name"] != "pocket"]
    if b"Traceback" in done.stderr:
        raise SystemExit(done.stderr.decode())
    return seconds, len(models), sum(model["problem"] is not None for model in models)


def main() -> None:
    """Print the times."""
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        folder = write_models(home)
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "VIRTUAL_ENV", "LANG")}
        environment = kept | {"HOME": str(home)}
        first, models, broken = listed(folder, environment)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        later = [listed(folder, environment)[0] for _ in range(LATER)]
    print(f"{models} models, {broken} broken")
    print(f"first list {used.ru_utime + used.ru_stime:.2f} s of processor time")
    print(
        f"first list {first:.2f} s, later lists {statistics.median(later):.2f} s (median of {LATER}), Python included"
    )


if __name__ == "__main__":
    main()
