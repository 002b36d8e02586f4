"""Reports: whether a model fits, which settings are tried, and the recommended one."""

from __future__ import annotations

import shlex

import msgspec
import pytest

from moe_watch.backends.engine_sizes import BufferSizes, EngineSizes, FailedSizes
from moe_watch.backends.memory.ask import ask_engine
from moe_watch.backends.memory.available import AvailableMemory
from moe_watch.backends.memory.need import DASHBOARD_BYTES, Need
from moe_watch.backends.memory.report import READ_AGAIN, OtherQuantization, memory_report
from moe_watch.backends.memory.variants import arguments_of, variants
from moe_watch.backends.model_files.catalog import locate
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.errors import UserError
from tests.backends import llama_files
from tests.backends.memory.full_size_models import write_model

GB = 10**9


def memory_of(size: int, **others) -> AvailableMemory:
    return AvailableMemory(size, size, **{"limit": "given"} | others)


def sizes(*, mapped=0, weights=0, kv=0, compute=0, runtime=0, **others) -> EngineSizes:
    buffers = [BufferSizes(name="CPU", on_host=True, mapped=mapped, weights=weights, kv=kv, compute=compute)]
    return EngineSizes(**{"buffers": buffers, "runtime": runtime, "context": 8192, "kv_type": "f16"} | others)


def test_mapped_weights_must_stay_to_fit_and_need_not_to_start():
    need = Need(sizes(mapped=10 * GB, kv=GB, runtime=GB))
    assert need.total == 12 * GB + DASHBOARD_BYTES
    assert need.required == 2 * GB + DASHBOARD_BYTES
    assert need.fits(memory_of(need.total))
    assert not need.fits(memory_of(need.total - 1))
    assert need.starts(memory_of(need.required))
    assert not need.starts(memory_of(need.required - 1))


def test_a_limit_on_address_space_counts_mapped_files():
    need = Need(sizes(mapped=10 * GB, kv=GB, address_space=GB))
    assert not need.starts(memory_of(11 * GB, counts_mapped_files=True))
    assert need.starts(memory_of(13 * GB, counts_mapped_files=True))


def test_a_full_device_does_not_fit():
    gpu = BufferSizes(name="CUDA0", on_host=False, weights=9 * GB, free=8 * GB)
    assert not Need(sizes(buffers=[gpu])).fits(memory_of(100 * GB))
    assert Need(sizes(buffers=[msgspec.structs.replace(gpu, free=9 * GB)])).fits(memory_of(GB))


def test_the_largest_moment_may_be_loading():
    assert Need(sizes(weights=2 * GB, loading=4 * GB)).total == 4 * GB + DASHBOARD_BYTES
    assert Need(sizes(weights=2 * GB, loading=GB)).total == 2 * GB + DASHBOARD_BYTES


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (EngineOptions(), ""),
        (EngineOptions(context=4096, kv_type="q8_0"), "--context 4096 --kv-type q8_0"),
        (EngineOptions(mmap=False, mlock=True, gpu_layers=0), "--gpu-layers 0 --no-mmap --mlock"),
        (EngineOptions(tensor_overrides=["ffn_.*_exps=CPU"]), "-ot 'ffn_.*_exps=CPU'"),
        (EngineOptions(trust_remote_code=True), "--trust-remote-code"),
    ],
)
def test_options_are_written_as_the_command_line_has_them(options, arguments):
    from moe_watch.commands.app import cli

    assert arguments_of(options) == arguments
    command = cli.get_command(None, "watch")
    parsed = command.make_context("watch", ["pocket", *shlex.split(arguments)]).params
    for name in EngineOptions.__struct_fields__:
        given = list(parsed[name]) if name == "tensor_overrides" else parsed[name]
        assert given == getattr(options, name), name


def test_a_gpu_adds_placements_and_a_cpu_has_none():
    def arguments(*, on_gpu):
        return {
            each.arguments
            for each in variants("m", "llama.cpp", EngineOptions(), context=8192, kv_type="f16", on_gpu=on_gpu)
        }

    assert arguments(on_gpu=True) - arguments(on_gpu=False) == {"-ot 'ffn_.*_exps=CPU'", "--gpu-layers 0"}
    assert {"--context 4096", "--kv-type q8_0", "--micro-batch 64", "--no-mmap"} <= arguments(on_gpu=False)


def test_what_is_given_is_kept_in_every_setting():
    given = EngineOptions(threads=3, context=3000, kv_type="q8_0", mmap=False)
    for each in variants("m", "llama.cpp", given, context=3000, kv_type="q8_0", on_gpu=False):
        assert each.options.threads == 3
        assert each.options.context in {3000, 2048}
        assert each.options.kv_type == "q8_0"


@pytest.fixture
def mixtral(tmp_path):
    return write_model("mixtral-8x7b", tmp_path / "mixtral.gguf")


def report_on(path, size, **others):
    return memory_report(str(path), locate(str(path)), "llama.cpp", EngineOptions(), memory_of(size), **others)


def test_the_recommendation_is_the_first_setting_that_fits(mixtral):
    """With 8,192 tokens of context it takes 17.0 GB, with 4,096 tokens 16.4 GB."""
    assert report_on(mixtral, 18 * GB).recommendation.command == f"moe-watch watch {mixtral}"
    tight = report_on(mixtral, 16_500_000_000)
    assert not tight.fits
    assert tight.recommendation.arguments == "--context 4096"
    assert tight.recommendation.total_bytes < 16_500_000_000
    assert {each.arguments for each in tight.settings} >= {"--context 4096", "--kv-type q8_0", "--no-mmap"}
    assert [each.fits for each in tight.settings if each.arguments == "--no-mmap"] == [False]


def test_nothing_fits_and_the_missing_bytes_are_known(mixtral):
    report = report_on(mixtral, GB)
    assert not report.fits
    assert report.recommendation is None
    assert 15 * GB < report.smallest_bytes < report.total_bytes


def test_the_recommended_command_works(tmp_path):
    """It is recommended for a memory that the defaults exceed, and a run with it is predicted to fit."""
    path = llama_files.write_gguf(tmp_path / "m.gguf")
    full = report_on(path, GB)
    tight = report_on(path, (full.total_bytes + full.smallest_bytes) // 2)
    words = shlex.split(tight.recommendation.command)
    assert words[:3] == ["moe-watch", "watch", str(path)]
    assert tight.recommendation.total_bytes < full.total_bytes
    assert tight.recommendation.arguments


def test_other_quantizations_are_settings_by_their_names(tmp_path):
    path = llama_files.write_gguf(tmp_path / "model-F32.gguf")
    copy = llama_files.write_gguf(tmp_path / "blob")
    tight = report_on(path, GB).total_bytes - 1
    report = report_on(path, tight, others=lambda: [OtherQuantization("ollama:tiny:8x7b", copy)])
    [found] = [each for each in report.settings if each.model == "ollama:tiny:8x7b"]
    assert found.note == "another quantization"
    assert found.total_bytes == pytest.approx(report.total_bytes, rel=0.02)


def test_weights_that_do_not_stay_are_said(tmp_path):
    from tests.backends.memory.full_size_models import half_types

    path = write_model("olmoe-1b-7b", tmp_path / "m.gguf", types=half_types)
    report = report_on(path, 5 * GB)
    assert not report.fits
    assert report.starts
    assert READ_AGAIN in report.notes


@pytest.mark.parametrize(("engine", "mapped"), [("llama.cpp", True), ("mlx", False)])
def test_headers_answer_for_an_engine_that_cannot_start(engine, mapped):
    def broken(*_):
        raise UserError("the process that asks it exited (MemoryError)")

    report = memory_report("pocket", locate("pocket", engine), engine, EngineOptions(), memory_of(GB), ask=broken)
    assert report.source == "headers"
    assert (report.mapped_bytes > 0) == mapped
    assert 150_000_000 < report.total_bytes < 300_000_000
    assert report.settings == []
    assert "MemoryError" in report.notes[0]


def test_one_setting_that_ends_the_engine_does_not_end_the_others(tmp_path, monkeypatch):
    """An engine that aborts on one of several questions answers the others."""
    from moe_watch.backends.memory import ask

    real = ask._ask
    path = llama_files.write_gguf(tmp_path / "m.gguf")

    def ask_or_die(engine, items):
        if any(item.options.context == 2048 for item in items):
            raise UserError("crashed (SIGABRT)")
        return real(engine, items)

    monkeypatch.setattr(ask, "_ask", ask_or_die)
    items = [
        msgspec.convert({"model": str(path), "options": {"threads": 1, "context": context}}, ask.SizesItem)
        for context in (2048, 1024)
    ]
    dead, alive = ask_engine("llama.cpp", items)
    assert isinstance(dead, FailedSizes)
    assert dead.what == "crashed (SIGABRT)"
    assert isinstance(alive, EngineSizes)


def test_a_faulty_file_ends_the_child_and_not_this_process(tmp_path):
    """A tensor table that llama.cpp refuses is an error of the user."""
    path = write_model("mixtral-8x7b", tmp_path / "m.gguf")
    content = path.read_bytes()[:200_000].replace(b"output_norm.weight", b"output_xxxx.weight")
    with path.open("r+b") as file:
        file.write(content)
    with pytest.raises(UserError, match="cannot load"):
        report_on(path, GB)
