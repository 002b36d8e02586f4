"""Writer of pruned models in Hugging Face layout: the kept experts' bytes, config.json, index, and all other files.

Experts are the slowest axis of stacked tensors, so each is one range of bytes in any type: float, MXFP4 blocks and
scales, MLX's quantized weights. Experts in separate tensors are renumbered.

Format: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from moe_watch.backends.model_files.config import (
    EXPERT_COUNTS,
    SELECTED_COUNTS,
    Config,
    config_sections,
    expert_count,
    layer_count,
    read_config,
)
from moe_watch.backends.model_files.preflight import INDEX, TEMPLATES, weight_files
from moe_watch.backends.model_files.safetensors import AGAIN, SafetensorsFile, read_safetensors
from moe_watch.backends.model_files.sizes import fingerprint
from moe_watch.backends.model_files.stored_types import MODELOPT, is_packed
from moe_watch.backends.prune_record import CONFIG_KEY, PruneRecord, fitting, record_of_config, text_of
from moe_watch.backends.pruning.copying import Advance, CopiedRange, copy_ranges, kept_ranges
from moe_watch.backends.pruning.experts_of_model import PrunableModel, no_experts
from moe_watch.backends.pruning.tensor_roles import ExpertTensor, predicts_ahead, roles
from moe_watch.backends.system.regular_files import read_regular
from moe_watch.routing.errors import UserError
from moe_watch.routing.router.masks import ExpertGroups

GROUP_COUNTS = ("n_group", "num_expert_group", "num_expert_groups")
GROUPS_USED = ("topk_group", "num_limited_groups")
WEIGHTS = frozenset((".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".npz"))
"""Suffixes of files with weights; others are copied."""
ONE_EXPERT = re.compile(r"\.experts\.\d+\b")
"""Number of an expert in a setting."""
PADDED = 8
"""The data of a safetensors file begins at a multiple of this many bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunableFolder(PrunableModel):
    """Model folder whose experts can be removed."""

    config: Config
    files: list[tuple[Path, SafetensorsFile, list[ExpertTensor]]]
    """Weight files with their headers and the roles of their tensors."""


def read_prunable(name: str, folder: Path) -> PrunableFolder:
    """Read the shape of a model folder that passed `preflight`.

    Raises:
        UserError: it is dense, or its experts cannot be removed.
    """
    config = read_config(folder)
    experts = expert_count(config)
    if experts is None:
        raise no_experts(name)
    _check_config(name, folder, config, experts)
    paths = weight_files(folder)
    headers = [read_safetensors(path) for path in paths]
    tensors = [tensor for header in headers for tensor in header.tensors]
    found = roles(name, tensors, experts)
    cut = [each for each in found if each.role != "copied"]
    if not cut:
        raise no_experts(name)
    count = layer_count(config)
    layers = sorted({each.layer for each in cut if not predicts_ahead(each.block, count)})
    by_file = iter(found)
    return PrunableFolder(
        name=name,
        path=folder,
        layers=layers,
        ahead=sorted({each.block for each in cut if predicts_ahead(each.block, count)}),
        experts=experts,
        chosen=_chosen(name, config),
        groups=_groups(name, config, experts),
        bytes=sum(path.stat().st_size for path in [*paths, *_other_files(folder)]),
        expert_bytes=sum(each.tensor.bytes for each in cut),
        fingerprint=fingerprint(config, tensors),
        record=fitting(record_of_config(config), layers, experts),
        config=config,
        files=[
            (path, header, [next(by_file) for _ in header.tensors]) for path, header in zip(paths, headers, strict=True)
        ],
    )


def _check_config(name: str, folder: Path, config: Config, experts: int) -> None:
    for section in config_sections(config):
        for key in EXPERT_COUNTS:
            value = section.get(key)
            if isinstance(value, list) or (isinstance(value, int) and value > 1 and value != experts):
                raise UserError(
                    f"the config.json of {name} has {key} {str(value)[:40]} beside {experts} experts",
                    advice="models with one number of experts can be pruned",
                )
        if section.get("zero_expert_num"):
            raise UserError(
                f"{name} has zero_expert_num {section['zero_expert_num']}: its router selects identity experts too",
                advice="such models cannot be pruned",
            )
    settings = [config]
    if (folder / MODELOPT).is_file():
        settings.append({"modelopt": read_regular(folder / MODELOPT).decode(errors="replace")})
    if ONE_EXPERT.search(json.dumps({key: each for part in settings for key, each in part.items()})):
        raise UserError(
            f"the settings of {name} name single experts, which pruning would renumber",
            advice="prune the model before it is quantized",
        )


def _chosen(name: str, config: Config) -> int:
    """Return the largest number of experts per token."""
    values = [section.get(key) for section in config_sections(config) for key in SELECTED_COUNTS]
    flat = [count for value in values for count in (value if isinstance(value, list) else [value])]
    counts = [count for count in flat if isinstance(count, int) and not isinstance(count, bool) and count > 0]
    if not counts:
        raise UserError(
            f"the config.json of {name} does not give the number of experts per token",
            advice="give a model whose config.json has num_experts_per_tok",
        )
    return max(counts)


def _groups(name: str, config: Config, experts: int) -> ExpertGroups | None:
    for section in config_sections(config):
        count = next((section[key] for key in GROUP_COUNTS if isinstance(section.get(key), int)), 0)
        used = next((section[key] for key in GROUPS_USED if isinstance(section.get(key), int)), 0)
        if count > 1 and 0 < used < count:
            if experts % count:
                raise UserError(f"{name} divides {experts} experts into {count} groups", advice=AGAIN)
            return ExpertGroups(count, used)
    return None


def _other_files(folder: Path) -> list[Path]:
    """Return the files that are copied: tokenizer, templates, licence, model card."""
    templates = folder / TEMPLATES
    places = [folder, *([templates] if templates.is_dir() else [])]
    return sorted(
        path
        for place in places
        for path in place.iterdir()
        if path.is_file()
        and path.suffix not in WEIGHTS
        and not path.name.startswith(".")
        and path.relative_to(folder).as_posix() not in ("config.json", INDEX)
    )


# -- writing


def write_pruned(
    model: PrunableFolder,
    kept: Mapping[int, Sequence[int]],
    record: PruneRecord,
    output: Path,
    advance: Advance,
) -> None:
    """Write a folder with the kept experts.

    Args:
        model: the source.
        kept: numbers of the kept experts in the source, ascending, by model layer index.
        record: record of all prunings; the digests of the last step are filled in here.
        output: a path where nothing exists.
        advance: receives the progress.

    Raises:
        UserError: the source cannot be read.
        OSError: the output cannot be written.
    """
    keep = len(next(iter(kept.values())))
    others = model.first_of_groups(keep)
    output.mkdir()
    digests: dict[str, str] = {}
    places: dict[str, str] = {}
    total = 0
    for path, header, found in model.files:
        rows = _new_rows(header, found, kept, others, model.ahead, model.experts)
        digests[text_of(path.name)] = _write_file(path, header, rows, output, model.experts, advance)
        places |= {row.name: path.name for row in rows}
        total += sum(row.bytes for row in rows)
    for path in _other_files(model.path):
        target = output / path.relative_to(model.path)
        target.parent.mkdir(exist_ok=True)
        size = path.stat().st_size
        with target.open("xb") as file:
            digests[text_of(path.relative_to(model.path).as_posix())] = copy_ranges(
                path, [CopiedRange(0, size, 0)] if size else [], file, advance
            )
    digests["config.json"] = hashlib.sha256(read_regular(model.path / "config.json")).hexdigest()
    if (model.path / INDEX).exists():
        _write_index(model, output, places, total)
    _write_json(output / "config.json", _new_config(model, keep, record, digests))


@dataclass(frozen=True, slots=True)
class _NewTensor:
    """Tensor of the output."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    source: int
    """Start in the source file."""
    source_bytes: int
    kept: Sequence[int] | None
    """Experts that remain of a stacked tensor; None for one that is copied."""


def _new_rows(
    header: SafetensorsFile,
    found: Sequence[ExpertTensor],
    kept: Mapping[int, Sequence[int]],
    others: Sequence[int],
    ahead: Sequence[str],
    experts: int,
) -> list[_NewTensor]:
    """Return the tensors of a file that remain, in the order of their data."""
    rows = []
    for start, each in sorted(zip(header.starts, found, strict=True), key=lambda pair: (pair[0], pair[1].tensor.bytes)):
        tensor = each.tensor
        numbers = others if each.block in ahead else kept.get(each.layer, others)
        name, shape, size, sliced = tensor.name, tensor.shape, tensor.bytes, None
        if each.role == "numbered":
            if each.expert not in numbers:
                continue
            name = f"{each.prefix}{list(numbers).index(each.expert)}.{each.rest}"
        elif each.role == "stacked":
            length = tensor.shape[each.axis] // experts * len(numbers)
            shape = (*tensor.shape[: each.axis], length, *tensor.shape[each.axis + 1 :])
            size, sliced = tensor.bytes // experts * len(numbers), numbers
        rows.append(_NewTensor(name, tensor.dtype, shape, size, start, tensor.bytes, sliced))
    return rows


def _write_file(
    path: Path, header: SafetensorsFile, rows: Sequence[_NewTensor], output: Path, experts: int, advance: Advance
) -> str:
    """Write one weight file, and return the digest of its source. A file of which no tensor remains stays empty."""
    table: dict[str, object] = {} if header.metadata is None else {"__metadata__": header.metadata}
    at = 0
    for row in rows:
        table[row.name] = {"dtype": row.dtype, "shape": row.shape, "data_offsets": [at, at + row.bytes]}
        at += row.bytes
    encoded = _json(table, separators=(",", ":"))
    encoded += b" " * (-len(encoded) % PADDED)
    target = 8 + len(encoded)
    ranges: list[CopiedRange] = []
    for row in rows:
        count, numbers = (1, [0]) if row.kept is None else (experts, row.kept)
        if row.bytes:
            ranges += kept_ranges(row.source, row.source_bytes, count, numbers, target)
        target += row.bytes
    with (output / path.name).open("xb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        return copy_ranges(path, ranges, file, advance)


def _write_index(model: PrunableFolder, output: Path, places: Mapping[str, str], total: int) -> None:
    index = json.loads(read_regular(model.path / INDEX))
    given = index.get("metadata")
    metadata = dict(given) if isinstance(given, dict) else {}
    if "total_size" in metadata:
        metadata["total_size"] = total
    if "total_parameters" in metadata:
        tensors = [tensor for _, header, _ in model.files for tensor in header.tensors]
        if is_packed(tensors):  # its number of parameters does not follow from the shapes
            del metadata["total_parameters"]
        else:
            metadata["total_parameters"] = sum(
                tensor.elements for path in output.glob("*.safetensors") for tensor in read_safetensors(path).tensors
            )
    ordered = dict(sorted(places.items()))
    _write_json(output / INDEX, index | {"metadata": metadata, "weight_map": ordered})


def _new_config(model: PrunableFolder, keep: int, record: PruneRecord, digests: dict[str, str]) -> Config:
    config: Config = json.loads(json.dumps(model.config))
    for section in config_sections(config):
        for key in EXPERT_COUNTS:
            if section.get(key) == model.experts:
                section[key] = keep
    return config | {CONFIG_KEY: msgspec.to_builtins(record.with_digests(digests), str_keys=True)}


def _write_json(path: Path, content: object) -> None:
    with path.open("xb") as file:
        file.write(_json(content, indent=2) + b"\n")


def _json(content: object, *, indent: int | None = None, separators: tuple[str, str] | None = None) -> bytes:
    """Return JSON in UTF-8; half of a surrogate pair, which UTF-8 does not have, stays an escape."""
    text = json.dumps(content, indent=indent, separators=separators, ensure_ascii=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(content, indent=indent, separators=separators).encode()
