"""Estimate of a model's memory from its headers alone, without an engine: for lists of many models.

`moe-watch memory` asks the engine instead. Differences are in docs/memory.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from moe_watch.backends.memory.kv_shape import KvShape, config_shape, gguf_shape
from moe_watch.backends.model_files.config import Config, context_length, text_section
from moe_watch.backends.model_files.gguf import GgufFile
from moe_watch.backends.model_files.safetensors import TensorInfo

LONGEST_DEFAULT_CONTEXT = 8192
"""Tokens; limit of the default context with llama.cpp, as in `backends.llama.loading`."""

MICRO_BATCH = 512
"""Prompt tokens evaluated at once; the logits of all of them are in the compute buffer."""

RUNTIME_BYTES = 150_000_000
"""Python, the engine's library, and its smaller buffers."""

USUAL_VOCABULARY = 150_000
"""Number of tokens if the header does not give it."""

LISTED = re.compile(r"(\d+) items")
"""Length of an array in `GgufFile.metadata`."""

FLOATS = frozenset({"F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True)
class QuickEstimate:
    """Estimated memory of a model at its default context, in bytes."""

    weights: int
    kv: int
    overhead: int
    """Logits of one step, and the runtime."""
    context: int

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.overhead

    def fits(self, available: int) -> bool:
        """Return whether all of it stays in the available memory, weights of mapped files included."""
        return self.total <= available


def estimate_gguf(
    file: GgufFile, weights: int, *, is_float32: bool = False, context: int | None = None
) -> QuickEstimate:
    """Return the estimate for llama.cpp.

    Args:
        file: header of the first part. Its tensors are not used.
        weights: bytes of all tensors of all parts.
        is_float32: every tensor is float32, so that the KV cache is too.
        context: tokens; None is the default of a run.
    """
    trained = file.number("context_length") or LONGEST_DEFAULT_CONTEXT
    context = context or max(1, min(trained, LONGEST_DEFAULT_CONTEXT))
    listed = LISTED.match(str(file.metadata.get("tokenizer.ggml.tokens", "")))
    vocabulary = int(listed[1]) if listed else file.number("vocab_size") or USUAL_VOCABULARY
    return _estimate(weights, gguf_shape(file), context, vocabulary, 4 if is_float32 else 2)


def estimate_folder(
    config: Config,
    tensors: Sequence[TensorInfo],
    *,
    on_cpu: bool = sys.platform != "darwin",
    context: int | None = None,
) -> QuickEstimate:
    """Return the estimate for MLX.

    Args:
        config: content of config.json.
        tensors: tensor tables of all files.
        on_cpu: MLX computes on the CPU, where the loader casts weights that are not quantized to float32.
        context: tokens; None is the default of a run.
    """
    weights = sum(tensor.bytes for tensor in tensors)
    stored = {tensor.dtype for tensor in tensors}
    is_plain = stored <= FLOATS
    if is_plain and on_cpu:
        weights = 4 * sum(tensor.elements for tensor in tensors)
    number = 4 if stored == {"F32"} or (is_plain and on_cpu) else 2
    vocabulary = text_section(config).get("vocab_size")
    known = vocabulary if isinstance(vocabulary, int) else USUAL_VOCABULARY
    context = context or context_length(config) or LONGEST_DEFAULT_CONTEXT
    return _estimate(weights, config_shape(config), context, known, number)


def _estimate(weights: int, shape: KvShape | None, context: int, vocabulary: int, number: int) -> QuickEstimate:
    kv = 0 if shape is None else shape.bytes(context, number)
    return QuickEstimate(weights, kv, MICRO_BATCH * vocabulary * 4 + RUNTIME_BYTES, context)
