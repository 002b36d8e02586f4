"""Pruning of a model in either format: its shape, and the new file or folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from moe_watch.backends.model_files.catalog import POCKET, ModelLocation, locate
from moe_watch.backends.model_files.preflight import preflight
from moe_watch.backends.prune_record import PruneRecord, PruneStep
from moe_watch.backends.pruning import gguf, safetensors
from moe_watch.backends.pruning.copying import Advance
from moe_watch.backends.pruning.gguf import PrunableGguf
from moe_watch.backends.pruning.new_output import check_output, new_path, sync
from moe_watch.backends.pruning.safetensors import PrunableFolder
from moe_watch.routing.errors import UserError

GGUF_SUFFIX = ".gguf"


def prunable_location(model: str, output: Path) -> ModelLocation:
    """Return the location of a model on this machine; pocket's is in the format of the output.

    Raises:
        UserError: there is no such model, it is not downloaded, or the output's name is of the other format.
    """
    is_gguf = output.suffix == GGUF_SUFFIX
    location = locate(model, ("llama.cpp" if is_gguf else "mlx") if model == POCKET else "auto")
    if location.path is None:
        raise UserError(f"{location.name} is not on this machine", advice=f"run `hf download {location.name}` first")
    if location.format == "gguf" and not is_gguf:
        raise UserError(f"{output} does not end in .gguf: {location.name} is a GGUF file", advice=f"give {output}.gguf")
    if location.format == "huggingface" and is_gguf:
        raise UserError(
            f"{location.name} is a folder in Hugging Face layout, and {output} is the name of a GGUF file",
            advice=f"give the name of a folder, such as {output.with_suffix('')}",
        )
    return location


def read_prunable_model(location: ModelLocation) -> PrunableGguf | PrunableFolder:
    """Read the shape of a model from its files. No weight is read.

    Raises:
        UserError: the model is damaged or dense, or its experts cannot be removed.
    """
    preflight(location)
    if location.path is None:
        raise ValueError(f"{location.name} has not been fetched")
    read = gguf.read_prunable if location.format == "gguf" else safetensors.read_prunable
    model = read(location.name, location.path)
    if not model.layers:
        raise UserError(
            f"{location.name} has experts only in layers that predict further tokens", advice="give a complete model"
        )
    return model


def prune_model(
    model: PrunableGguf | PrunableFolder,
    kept: Mapping[int, Sequence[int]],
    step: PruneStep,
    output: Path,
    advance: Advance,
) -> None:
    """Write a model with the kept experts. A failure or an interruption leaves nothing behind.

    Args:
        model: the source.
        kept: numbers of the kept experts in the source, ascending, the same number in each MoE layer.
        step: description of this pruning; the digests of the source are filled in.
        output: path of the new file or folder.
        advance: receives the progress.

    Raises:
        UserError: the output exists or cannot be written, or the source cannot be read.
    """
    keep = step.keep
    if sorted(kept) != model.layers or {len(numbers) for numbers in kept.values()} != {keep}:
        raise ValueError("the kept experts are not of this model")
    check_output(output, model.bytes_with(keep))
    before = model.record.history if model.record is not None else []
    record = PruneRecord(experts=model.whole_experts, kept=model.in_whole_model(kept), history=[*before, step])
    with new_path(output) as temporary:
        if isinstance(model, PrunableGguf):
            gguf.write_pruned(model, kept, record, temporary, advance)
        else:
            safetensors.write_pruned(model, kept, record, temporary, advance)
        for path in [*temporary.rglob("*"), temporary]:
            sync(path)
