"""Files that were made to break an import, or are not what they look like: one line each, and nothing is written."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
import types
import zipfile

import numpy as np
import pytest

from moe_watch.commands.app import run
from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.importer import read_trace
from moe_watch.sessions.imports.safe_loading import _require_safe_torch
from moe_watch.sessions.imports.traces import ImportOptions
from moe_watch.sessions.verifying.file import verify
from tests.sessions.imports import foreign_files as made

E8 = ("--experts", "8")
K1 = ("--experts-per-token", "1")
K2 = ("--experts-per-token", "2")
MAP = {"last_physical_to_logical_map": [[0, 1]]}


def passes(*records, **more):
    return {"records": list(records), **more}


TOKEN = {"topk_ids_of_layer": [[[1, 2]]], "input_ids": [1], "positions": [0]}

JSON = {
    "routing that is a number": ({"routed_experts": 5, "prompt_routed_experts": 3}, E8, "`$.routed_experts`"),
    "a prompt's routing that is a number": (
        {"routed_experts": [[[1, 2]]], "prompt_routed_experts": 3},
        E8,
        "`$.prompt_routed_experts`",
    ),
    "fractions in both": (
        {"routed_experts": [[[1.7, 2.9]], [[4.2, 5.5]]], "prompt_routed_experts": [[[0.5, 3.2]]]},
        E8,
        "Expected `int`, got `float` - at `$.routed_experts[0][0][0]`",
    ),
    "a fraction of the prompt": (
        {"routed_experts": [[[1, 2]]], "prompt_routed_experts": [[[0.5, 3]]]},
        E8,
        "Expected `int`, got `float` - at `$.prompt_routed_experts[0][0][0]`",
    ),
    "whole fractions": ({"routed_experts": [[[1.0, 2.0]]]}, E8, "Expected `int`, got `float`"),
    "truth values": ({"routed_experts": [[[True, False]]]}, E8, "Expected `int`, got `bool`"),
    "null among ids": ({"routed_experts": [[[1, None]]]}, E8, "Expected `int`, got `null`"),
    "an id of a byte": ({"routed_experts": [[[1, 200]], [[4, 5]]]}, E8, "layer 0 selects expert 200 of 8"),
    "an id of 65 bits": ({"routed_experts": [[[1, 2**64]], [[2, 3]]]}, E8, "more than 64 bits"),
    "an id of 64 bits": ({"routed_experts": [[[1, 2**63]], [[2, 3]]]}, E8, "more than 64 bits"),
    "an id of 62 bits": ({"routed_experts": [[[1, 2**62]], [[2, 3]]]}, E8, f"an expert id of {2**62}"),
    "a token id of 1,300 bits": (
        {"routed_experts": [[[1, 2]]], "prompt_token_ids": [10**400], "token_ids": [1]},
        E8,
        "a token id of 1000",
    ),
    "no rows": ({"routed_experts": []}, E8, "expert ids are integers [tokens, layers, top-k]"),
    "empty rows": ({"routed_experts": [[[]]]}, E8, "1 × 1 × 0 of int64"),
    "text that is no base64": ({"routed_experts": "!!!!"}, E8, "not base64"),
    "a shape of zeros": (
        {"routed_experts": {"data": "AAAA", "shape": [2**62, 0, 4], "dtype": "int16"}},
        E8,
        "3 bytes are not of shape",
    ),
    "a shape of 70 bits": (
        {"routed_experts": {"data": "AAAA", "shape": [2**70, 2], "dtype": "int16"}},
        E8,
        "3 bytes are not of shape",
    ),
    "a list of types": (
        {"routed_experts": {"data": "AAAA", "shape": [1, 1, 2], "dtype": ["x"]}},
        E8,
        "`$.routed_experts.dtype`",
    ),
    "fewer tokens than none": (
        {"routed_experts": [[[1, 2]]], "usage": {"prompt_tokens": -1}},
        E8,
        "Expected `int` >= 0 - at `$.prompt_tokens`",
    ),
    "choices that are no list": ({"choices": {"a": 1}}, E8, "choices: Expected `array`"),
    "data that is a number": ({"choices": [{"routed_experts": {"data": 5}}]}, E8, "`$.routed_experts.data`"),
    "a billion experts": ({"routed_experts": [[[1, 2]], [[2, 1]]]}, ("--experts", "1000000000"), "is impossible"),
    "counts that are a number": (
        passes({"global_physical_count": 5}, last_physical_to_logical_map=5),
        K2,
        "Expected `array`, got `int`",
    ),
    "counts without dimensions": ({"logical_count": 5}, K2, "Expected `array`, got `int` - at `$.logical_count`"),
    "counts of one dimension": ({"logical_count": [1, 2]}, K2, "not counts of selections"),
    "ragged counts": ({"logical_count": [[1, 2], [3]]}, K1, "rows of different lengths"),
    "negative counts": ({"logical_count": [[-1, 3]]}, K1, "a negative count"),
    "counts that are no numbers": ({"logical_count": [[1, float("nan")]]}, K1, "a value that is not a number"),
    "counts of no end": ({"logical_count": [[1, float("inf")]]}, K1, "a value that is not a number"),
    "fractional counts": ({"logical_count": [[1.5, 2.5]]}, K1, "not a whole number"),
    "truth values as counts": ({"logical_count": [[True, False]]}, K1, "got `bool`"),
    "counts that wrap to plausible ones": (
        {"logical_count": [[[2**63 - 1, 1]], [[2**63 - 1, 1]], [[5, 1]]]},
        K1,
        "more than 9,007,199,254,740,992 selections",
    ),
    "counts beyond exact sums": ({"logical_count": [[10**18] * 4]}, K1, "more than 9,007,199,254,740,992 selections"),
    "counts of 65 bits": ({"logical_count": [[2**64, 1]]}, K1, "more than 64 bits"),
    "fractions that sum to whole counts": (
        passes({"global_physical_count": [[1.5, 1.5]]}, last_physical_to_logical_map=[[0, 0]]),
        K1,
        "not a whole number",
    ),
    "negatives that sum to plausible counts": (
        passes({"global_physical_count": [[-1, 3]]}, last_physical_to_logical_map=[[0, 0]]),
        K1,
        "a negative count",
    ),
    "passes that wrap": (passes(*[{"global_physical_count": [[2**62, 1]]}] * 4, **MAP), K1, "more than 9,007"),
    "a map of fractions": (
        passes({"global_physical_count": [[1, 2]]}, last_physical_to_logical_map=[[0, 1.5]]),
        K1,
        "does not hold expert ids",
    ),
    "a map of a million experts": (
        passes({"global_physical_count": [[1, 2]]}, last_physical_to_logical_map=[[0, 1_000_000]]),
        K1,
        "does not hold expert ids",
    ),
    "an empty map": (
        passes({"global_physical_count": []}, last_physical_to_logical_map=[]),
        K1,
        "have different shapes",
    ),
    "a pass of text": (
        passes({"global_physical_count": [[1, 2]]}, {"global_physical_count": "x"}, **MAP),
        K1,
        "`$.records[1].global_physical_count`",
    ),
    "no records": (passes(), K2, "neither logical_count nor records"),
    "a record of nothing": (passes({}), K2, "records without global_physical_count"),
    "a record that is a list": (passes([]), K2, "Expected `object`, got `array` - at `$.records[0]`"),
    "routing of a record that is a number": (passes(TOKEN | {"topk_ids_of_layer": 5}), E8, "topk_ids_of_layer"),
    "fractional ids of a record": (
        passes(TOKEN | {"topk_ids_of_layer": [[[1.7, 2.2]]]}),
        E8,
        "does not hold whole numbers",
    ),
    "records of two kinds": (
        passes(TOKEN, {"input_ids": [1], "positions": [1]}),
        E8,
        "a record without topk_ids_of_layer",
    ),
    "the same token twice": (passes(TOKEN, TOKEN), E8, "more than one request"),
    "positions of text": (passes(TOKEN | {"positions": ["0"]}), E8, "`$.records[0].positions[0]`"),
    "a profile without experts": ({"activation_counts": {"0": []}}, K2, "all counts are 0|no counts|impossible"),
    "a profile with a layer of text": ({"activation_counts": {"x": [1, 1]}}, K2, "a layer called 'x'"),
    "a negative profile": ({"activation_counts": {"0": [-1, 3]}}, K1, "not a count for each expert"),
    "a ragged profile": ({"activation_counts": {"0": [1, 1], "1": [2]}}, K1, "not a count for each expert"),
    "an atlas of nothing": ({"prompts": [{"routing": []}]}, E8, "no routing in it"),
    "an atlas of other tokens": (
        {"prompts": [{"routing": [[{"layer": 0, "experts": [1, 2]}]], "tokens": ["a", "b"]}]},
        E8,
        "2 tokens, but routing of 1",
    ),
}

TEXT = {
    "deep JSON": (b"[" * 1_000_000, (), "not JSON"),
    "deep counts": (b'{"logical_count":' + b"[" * 60 + b"1" + b"]" * 60 + b"}", K1, "Expected `float`, got `array`"),
    "deep routing": (b'{"routed_experts":' + b"[" * 60 + b"1" + b"]" * 60 + b"}", E8, "Expected `int`, got `array`"),
    "deep extensions": (b'{"meta_info":' * 450 + b"1" + b"}" * 450, E8, "nested too deeply|got `int`"),
    "a number of 100,000 digits": (b'{"logical_count":[[' + b"9" * 100_000 + b"]]}", K1, "not JSON"),
    "UTF-16": ('{"logical_count":[[1,1]]}'.encode("utf-16"), K1, "text in UTF-16: save it as UTF-8"),
    "a NUL in a table": (b"token,layer,expert_1\n0,0,\x00\n", E8, "neither UTF-8 text nor a known format"),
    "an open quote": (b'token,layer,expert_1\n0,0,"1\n', E8, "not CSV: unexpected end of data"),
    "a field of 200,000 digits": (b"token,layer,expert_1\n0,0," + b"1" * 200_000, E8, "not CSV: field larger"),
    "digits of another script": ("token,layer,expert_1\n٣,0,1\n".encode(), E8, "line 2: '٣' is not an index"),
    "a row that is cut off": (b"token,layer,expert_1,expert_2\n0,0,1,\n", E8, "line 2: '' is not an index"),
    "a layer of 30 bits": (b"token,layer,expert_1\n0,999999999,1\n", E8, "line 2: '999999999' is not an index"),
    "a sparse table": (b"token,layer,expert_1\n0,0,1\n200000,0,1\n", E8, "199,999 of the tokens 0 to 200000"),
    "100,000 experts in a row": (
        b"token,layer," + b",".join(b"expert_%d" % at for at in range(100_000)) + b"\n0,0,"
        + b",".join(b"%d" % at for at in range(100_000)) + b"\n",
        ("--experts", "100000"),
        "is impossible",
    ),
    "a count of 16 digits": (b"layer_id,expert_id,count\n0,1,9007199254740993\n", (*E8, *K1), "line 2: "),
    "a negative count": (b"layer_id,expert_id,count\n0,1,-1\n", (*E8, *K1), "line 2: '-1' is not an index"),
    "a fractional count": (b"layer_id,expert_id,count\n0,1,1.5\n", (*E8, *K1), "line 2: '1.5' is not an index"),
    "an expert twice": (b"layer_id,expert_id,count\n0,1,1\n0,1,1\n", (*E8, *K1), "line 3: expert 1 of layer 0 twice"),
    "random bytes": (bytes(range(128, 256)) * 9, E8, "neither UTF-8 text nor a known format"),
    "safetensors with a cut header": ((99).to_bytes(8, "little") + b'{"0_0":', K1, "damaged safetensors header"),
    "safetensors with other offsets": (
        made.safetensors({"0_0": np.ones(4)})[:-8],
        K1,
        "0_0: damaged",
    ),
    "safetensors with another dtype": (
        made.safetensors({"0_0": np.ones(4)}).replace(b'"I64"', b'"F16"'),
        K1,
        "F16 instead of numbers",
    ),
    "safetensors of weights": (made.safetensors({"model.weight": np.ones(4)}), K1, "tensors of unknown format"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_data_path", lambda *_, **__: tmp_path / "data")


def complaint(capsys, folder, content, options):
    """The one line that an import of a file ends in; it leaves nothing behind."""
    path = folder / "trace"
    path.write_bytes(content)
    output = folder / "out.moe.jsonl"
    assert run(["import", str(path), *options, "-o", str(output)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert not output.exists()
    (line,) = captured.err.splitlines()
    assert "failed unexpectedly" not in line
    return line


@pytest.mark.parametrize(("value", "options", "said"), JSON.values(), ids=JSON.keys())
def test_json_of_other_types_is_refused_in_a_line(capsys, tmp_path, value, options, said):
    line = complaint(capsys, tmp_path, json.dumps(value).encode(), options)
    assert any(each in line for each in said.split("|")), (said, line)


@pytest.mark.parametrize(("content", "options", "said"), TEXT.values(), ids=TEXT.keys())
def test_other_content_is_refused_in_a_line(capsys, tmp_path, content, options, said):
    line = complaint(capsys, tmp_path, content, options)
    assert any(each in line for each in said.split("|")), (said, line)


def test_json_with_a_byte_order_mark_is_json(tmp_path):
    path = tmp_path / "trace"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"logical_count":[[1,1]]}')
    assert read_trace(path, ImportOptions(experts_per_token=1)).counts.tolist() == [[1, 1]]


def test_gaps_that_fit_are_tokens_without_routing(tmp_path):
    path = tmp_path / "trace"
    path.write_text("token,layer,expert_1,expert_2\n" + "".join(f"{10 * at},0,1,{2 + at % 3}\n" for at in range(90)))
    found = read_trace(path, ImportOptions(experts=8)).experts
    assert found.shape == (891, 1, 2)
    assert np.flatnonzero((found >= 0).all((1, 2))).tolist() == list(range(0, 900, 10))


def test_a_table_of_gaps_takes_memory_by_its_rows(tmp_path):
    """Each row has a layer and a token of its own: the table of all of them would have 100 million cells."""
    path = tmp_path / "trace"
    path.write_text("token,layer,expert_1\n" + "".join(f"{at},{at},1\n" for at in range(10_000)))
    with pytest.raises(UserError, match="10,000 rows for 10,000 tokens × 10,000 layers"):
        read_trace(path, ImportOptions(experts=8))


# -- files that are none


def test_a_fifo_is_refused_and_not_waited_for(capsys, tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    assert run(["import", str(path)]) == 2
    assert "not a regular file: save its content to a file first" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_a_device_is_refused(capsys, tmp_path, device):
    link = tmp_path / "trace.json"
    link.symlink_to(device)
    assert run(["import", str(link)]) == 2
    assert "trace.json: " in capsys.readouterr().err
    with pytest.raises(UserError, match=r"not a regular file|No such device"):
        read_trace(link, ImportOptions())


def test_a_folder_is_refused(capsys, tmp_path):
    assert run(["import", str(tmp_path)]) == 2
    assert "a folder: name a file in it" in capsys.readouterr().err


def test_text_of_any_size_is_not_read(monkeypatch, tmp_path):
    monkeypatch.setattr("moe_watch.sessions.imports.document.MAX_TEXT", 1 << 20)
    path = tmp_path / "trace"
    path.write_bytes(b"{" + b" " * (1 << 20))
    with pytest.raises(UserError, match="larger than 1 MB: import it in parts"):
        read_trace(path, ImportOptions())


# -- PyTorch


class Torch(types.ModuleType):
    """A PyTorch that notes what it is asked to load."""

    def __init__(self, version):
        super().__init__("torch")
        self.__version__ = version
        self.loaded = []

    def load(self, path, **options):
        self.loaded.append(options)
        return {"logical_count": np.array([[1, 1]])}


@pytest.fixture
def pt(tmp_path):
    path = tmp_path / "dump"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("dump/data.pkl", b"\x80\x02.")
    return path


@pytest.mark.parametrize("version", ["2.5.1", "2.5.1+cu121", "1.13.0", "0.4", "unknown"])
def test_a_pytorch_that_can_be_made_to_run_code_is_not_asked(monkeypatch, pt, version):
    torch = Torch(version)
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(UserError, match=r"may run code that is hidden in one: install PyTorch 2\.6 or newer"):
        read_trace(pt, ImportOptions(experts_per_token=1))
    assert torch.loaded == []


@pytest.mark.parametrize("version", ["2.6.0", "2.13.0+cpu", "3.0", "2.10.0a0+git1"])
def test_a_newer_one_loads_weights_only(monkeypatch, pt, version):
    torch = Torch(version)
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert read_trace(pt, ImportOptions(experts_per_token=1)).counts.tolist() == [[1, 1]]
    assert torch.loaded == [{"map_location": "cpu", "weights_only": True}]
    _require_safe_torch(pt, version)


# -- names


def test_hostile_names_are_only_text(tmp_path):
    """Escape codes and markup in a model's name are kept, as recorded, in a session that is fine."""
    path = tmp_path / "trace"
    response = {"model": "\x1b]0;x\x07\n[bold]", "routed_experts": [[[1, 2]], [[3, 4]]]}
    path.write_text(json.dumps(response))
    output = tmp_path / "out.moe.jsonl"
    assert run(["import", str(path), *E8, "-o", str(output)]) == 0
    assert verify(output).findings == []


@pytest.mark.parametrize(
    "content",
    [
        b"\x1b[31mred,\x0bcolumn\n1,2\n",
        b"token,\x1b[2J,expert_1\n1,2,3\n",
        json.dumps({"\x1b]0;x\x07": 1, "\u2028": 2}).encode(),
        made.safetensors({"\x1b[31m": np.ones(2)}).replace(b"I64", b"\\u001b"),
        made.safetensors({"\x1b[31m": np.ones(2)})[:-8],
    ],
)
def test_names_in_a_file_cannot_act_in_its_refusal(tmp_path, content):
    path = tmp_path / "trace"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_trace(path, ImportOptions())
    assert str(caught.value).isprintable()


def test_a_pickle_in_base64_is_not_loaded(capsys, tmp_path):
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array([{1: 2}], dtype=object), allow_pickle=True)
    value = {"routed_experts": base64.b64encode(buffer.getvalue()).decode()}
    assert "Object arrays cannot be loaded" in complaint(capsys, tmp_path, json.dumps(value).encode(), E8)


def test_many_columns_are_read_in_one_pass(tmp_path):
    """A heading of 60,000 columns: comparing each name with every other one would take 3.6 × 10⁹ comparisons."""
    number = 60_000
    path = tmp_path / "wide.csv"
    heading = ",".join(f"expert_{at}" for at in range(number))
    path.write_text(f"token,layer,{heading}\n0,0,{','.join(map(str, range(number)))}\n")
    began = time.process_time()
    read_trace(path, ImportOptions(experts=number))
    assert time.process_time() - began < 5
