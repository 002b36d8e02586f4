"""Published models: parameters, formats and residents, against published numbers and llama.cpp's own quantizer."""

from __future__ import annotations

import os
import re

import pytest
from llama_cpp import llama_cpp as lib

from moe_watch.backends.llama.bindings import log
from moe_watch.backends.memory.available import AvailableMemory
from moe_watch.backends.memory.published import (
    format_bytes,
    gguf_bytes,
    mix_rules,
    published_report,
    resident_bytes,
)
from moe_watch.backends.memory.published_shapes import PUBLISHED
from moe_watch.backends.memory.quantization_mix import BASE, tensor_types
from moe_watch.backends.model_files.gguf import read_gguf
from moe_watch.routing.errors import UserError
from tests.backends.memory.full_size_models import DIALECTS, half_types, write_model

GB = 1e9
DECIDED = re.compile(r"\] +(\S+) +- \[[^]]*\], type = +(\w+), size = +[\d.]+ MiB(?: -> +[\d.]+ MiB \((\w+)\))?")
"""Line of the quantizer per tensor: name, type, and new type if it changes."""


def available(size: float) -> AvailableMemory:
    return AvailableMemory(int(size), int(size), "given")


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    """Total within 1.2 %; active ones within 4 %, with or without the token embedding, as publications differ."""
    shape = PUBLISHED[name]
    total, active = shape.published
    assert shape.parameters / GB == pytest.approx(total, rel=0.012)
    counted = (shape.active_parameters, shape.active_parameters - shape.hidden * shape.vocabulary)
    if name not in {"qwen3-coder-next", "glm-4.5-air"}:  # published as whole numbers: 3 and 12
        assert any(each / GB == pytest.approx(active, rel=0.04) for each in counted), counted


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mixtral-8x7b", 46_702_792_704),
        ("mixtral-8x22b", 140_620_634_112),
        ("qwen3-30b-a3b", 30_532_122_624),
        ("olmoe-1b-7b", 6_919_161_856),
        ("deepseek-v2-lite", 15_706_484_224),
    ],
)
def test_the_exact_count_is_that_of_the_checkpoint(name, parameters):
    """Counts that the Hub shows for the safetensors files of the repositories."""
    assert PUBLISHED[name].parameters == parameters


def test_mixtral_has_12_9_billion_active_parameters():
    """46.7 B is the total, not the active number (arXiv:2401.04088)."""
    shape = PUBLISHED["mixtral-8x7b"]
    assert round(shape.parameters / GB, 1) == 46.7
    assert round(shape.active_parameters / GB, 1) == 12.9


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_the_mix_is_that_of_the_quantizer(tmp_path, name):
    """Every tensor's type in every format, as in the dry run of llama.cpp's quantizer on a sparse file."""
    path = write_model(name, tmp_path / "f16.gguf", types=half_types)
    tensors = [(tensor.name, tensor.shape) for tensor in read_gguf(path).tensors]
    for format_ in BASE.keys() - {"F16"}:
        decided = dry_run(path, format_)
        ours = tensor_types(tensors, format_, mix_rules(PUBLISHED[name]))
        assert {name: kind for (name, _), kind in zip(tensors, ours, strict=True)} == decided, format_


def dry_run(path, format_) -> dict[str, str]:
    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{format_}")
    params.dry_run, params.nthread = True, 1
    log.listen()
    assert lib.llama_model_quantize(os.fsencode(path), b"/dev/null", params) == 0
    found = (match for line in "".join(log._lines).splitlines() if (match := DECIDED.search(line)))
    return {match[1]: (match[3] or match[2]).upper() for match in found}


PUBLISHED_FILES = [
    # https://huggingface.co/bartowski/Mixtral-8x22B-v0.1-GGUF (llama.cpp b2636)
    ("mixtral-8x22b", "Q5_K_M", 99.96),
    ("mixtral-8x22b", "Q4_K_M", 85.58),
    ("mixtral-8x22b", "Q3_K_M", 67.78),
    ("mixtral-8x22b", "Q2_K", 52.10),
    # bartowski's files of Qwen3-30B-A3B (llama.cpp b5200), bf16 and without the experimental mixes
    ("qwen3-30b-a3b", "F16", 61.10),
    ("qwen3-30b-a3b", "Q8_0", 32.48),
    ("qwen3-30b-a3b", "Q6_K", 25.10),
    ("qwen3-30b-a3b", "Q5_K_M", 21.74),
]


@pytest.mark.parametrize(("name", "format_", "gigabytes"), PUBLISHED_FILES)
def test_sizes_are_those_of_published_files(name, format_, gigabytes):
    assert gguf_bytes(PUBLISHED[name], format_) / GB == pytest.approx(gigabytes, rel=0.002)


def test_no_format_of_mixtral_fits_18_gb():
    report = published_report("mixtral-8x7b", available(18e9), None)
    assert not report.fits
    assert report.recommendation is None
    sizes = {each.format: each.weights_bytes / GB for each in report.formats}
    assert sizes["FP16"] == pytest.approx(93.4, abs=0.1)
    assert sizes["Q3_K_M"] == pytest.approx(22.5, abs=0.1)
    assert sizes["Q2_K"] == pytest.approx(17.3, abs=0.1)


def test_the_largest_format_that_fits_is_recommended():
    report = published_report("Mixtral-8x7B", available(32e9), None)
    assert report.recommendation == "Q4_K_M"
    assert [each.fits for each in report.formats] == sorted(each.fits for each in report.formats)


def test_residents_of_mixtral():
    """A layer's expert has 3 × 4096 × 14336 weights of 4.5 bits: 99.1 MB; 1.6 B parameters are in no expert."""
    found = {count: size / GB for count, size in resident_bytes(PUBLISHED["mixtral-8x7b"]).items()}
    one = 3 * 4096 * 14336 * 4.5 / 8 / GB
    assert list(found) == [2, 4, 6, 8]
    assert found[8] - found[6] == pytest.approx(2 * 32 * one, rel=1e-6)
    assert found[8] == pytest.approx(format_bytes(PUBLISHED["mixtral-8x7b"])["MLX 4-bit"] / GB, rel=1e-6)
    assert found[2] == pytest.approx(7.25, abs=0.05)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match=r"mixtral-9x9b: not in the table.*mixtral-8x7b"):
        published_report("mixtral-9x9b", available(1), None)
