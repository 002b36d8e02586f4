"""The table of routing formats: every one has a small file here, is recognised by content, and is in the docs."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import click
import numpy as np
import pytest

import moe_watch
from moe_watch.commands.recordings.import_ import import_
from moe_watch.commands.recordings.summary_text import summary_lines
from moe_watch.routing.errors import UserError
from moe_watch.routing.summary import Summary
from moe_watch.sessions.comparing.sources import read_source
from moe_watch.sessions.fitting.file_fit import fit_file
from moe_watch.sessions.imports.document import open_document
from moe_watch.sessions.imports.formats import FORMATS, READABLE, STATUSES, recognised
from moe_watch.sessions.imports.importer import import_trace, read_trace
from moe_watch.sessions.imports.traces import CountedTrace, ImportOptions, RoutedTrace
from moe_watch.sessions.live.teacher_forcing import teacher_script
from moe_watch.sessions.reading.reader import SessionReader
from moe_watch.sessions.verifying.file import verify
from tests.sessions.imports import foreign_files as made
from tests.sessions.imports.foreign_files import ALONE, BOTH, EXAMPLES, EXPERTS, LAYERS, TOKENS, Example

DATA_PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
READ = {name: each for name, each in EXAMPLES.items() if each.holds != "refused"}
REFUSED = {name: each for name, each in EXAMPLES.items() if each.holds == "refused"}


def examples(chosen: dict[str, Example]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("example", chosen.values(), ids=chosen.keys())


def written(example: Example, folder: Path) -> Path:
    if callable(example.content) and example.format == "imatrix":
        pytest.importorskip("gguf")
    return example.write(folder)


def refusal(path: Path, options: ImportOptions = ALONE, **named: str) -> str:
    with pytest.raises(UserError) as caught:
        read_trace(path, options, **named)
    text = str(caught.value)
    assert "\n" not in text
    return text


# -- the table


def test_every_format_has_an_example():
    assert {each.format for each in EXAMPLES.values()} == {each.name for each in FORMATS}


@examples(EXAMPLES)
def test_a_format_is_recognised_by_content_and_by_no_other(example, tmp_path):
    document = open_document(written(example, tmp_path))
    found = recognised(document)
    assert found is not None
    assert found.name == example.format
    others = {each.name for each in FORMATS if each.recognise(document)} - {found.name}
    assert others <= {"stream"}  # server-sent events with routing are events, too


def test_the_table_in_the_docs_is_that_of_the_program():
    found = re.search(r"<!-- formats -->\n((?:\|.*\n)+)", DATA_PAGE)
    assert found is not None
    assert found[1].splitlines()[2:] == [
        f"| `{each.name}` | {each.title} | {STATUSES[each.status]} | {each.reason} |" for each in FORMATS
    ]


def test_help_names_every_format_that_is_read():
    context = click.Context(import_, info_name="import")
    words = re.findall(r"[a-z][a-z-]+", import_.get_help(context))
    assert set(READABLE) <= set(words)


# -- formats that are read


@examples({name: each for name, each in READ.items() if each.holds == "tokens"})
def test_routing_per_token_is_that_of_the_run(example, tmp_path):
    trace = read_trace(written(example, tmp_path), example.options)
    assert isinstance(trace, RoutedTrace)
    assert (trace.shape.layers, trace.shape.experts, trace.shape.experts_per_token) == (list(range(LAYERS)), EXPERTS, 2)
    expected = made.routing()[: example.tokens]
    if not example.last:
        expected[-1] = -1
    np.testing.assert_array_equal(trace.experts, expected)
    assert trace.prompt_tokens == example.prompt
    if example.prompt == 0:
        assert any("does not state which tokens are the prompt's" in each for each in trace.warnings)


@examples({name: each for name, each in READ.items() if each.holds == "counts"})
def test_counts_are_those_of_the_run(example, tmp_path):
    trace = read_trace(written(example, tmp_path), example.options)
    assert isinstance(trace, CountedTrace)
    np.testing.assert_array_equal(trace.counts, made.counts())
    assert trace.rows.tolist() == [TOKENS] * LAYERS
    assert trace.phase == "prefill"


@examples(READ)
def test_an_import_is_a_session_that_is_fine(example, tmp_path):
    path = import_trace(written(example, tmp_path), example.options, folder=tmp_path / "sessions").path
    assert verify(path).findings == []
    assert len(moe_watch.open(path)) == (example.tokens if example.holds == "tokens" else 0)


@examples({name: each for name, each in READ.items() if each.options != ImportOptions()})
def test_what_a_file_does_not_tell_is_asked_for_by_name(example, tmp_path):
    text = refusal(written(example, tmp_path), ImportOptions())
    assert f"({example.format})" in text
    assert re.search(r"use (--experts|--experts-per-token|--layers|--dtype)\b", text)


def test_token_ids_and_text_are_taken_where_they_are(tmp_path):
    ids = [*made.PROMPT_IDS, *made.ANSWER_IDS]
    for name in ("vllm npy", "dynamo", "sglang sgl_ext", "sglang sglext", "verifiers", "sglang per token"):
        trace = read_trace(EXAMPLES[name].write(tmp_path), EXAMPLES[name].options)
        assert trace.ids.tolist() == ids, name
    assert read_trace(EXAMPLES["vllm npy"].write(tmp_path), ALONE).model == "org/moe"
    assert read_trace(EXAMPLES["atlas"].write(tmp_path), ImportOptions()).texts == [f" t{t}" for t in range(TOKENS)]
    assert read_trace(EXAMPLES["bigmoeonedge"].write(tmp_path), ImportOptions()).model == "m.gguf"


def test_iterations_are_steps(tmp_path):
    trace = read_trace(EXAMPLES["tensorrt-llm"].write(tmp_path), ImportOptions())
    halves = np.array_split(made.routing(), 2)
    np.testing.assert_array_equal(trace.steps, [made.counts(half) for half in halves])
    assert any("one rank's counts" in each for each in trace.warnings)


def test_without_the_file_beside_it_the_experts_per_token_are_asked_for(tmp_path):
    path = tmp_path / "rank0.safetensors"
    path.write_bytes(made.tensorrt())
    assert "use --experts-per-token N" in refusal(path, ImportOptions())
    np.testing.assert_array_equal(read_trace(path, BOTH).counts, made.counts())
    (tmp_path / "meta_info.json").write_text('{"num_experts": 99, "num_experts_per_token": 2}')
    assert "counts of 16 experts, but meta_info.json in its folder has 99" in refusal(path, ImportOptions())


# -- formats that are refused


@examples(REFUSED)
def test_a_refused_format_is_named_with_the_reason_and_what_to_do(example, tmp_path):
    text = refusal(written(example, tmp_path), BOTH)
    (form,) = (each for each in FORMATS if each.name == example.format)
    assert form.title.replace("`", "") in text
    assert form.reason.replace("`", "") in text
    assert text.endswith(form.advice)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1, "b": 2}', "JSON of unknown format, with a, b: convert it to one of the formats in docs/data.md"),
        ('{"a": 1}\n{"a": 2}\n', "JSON Lines of unknown format, with a"),
        ("[1, 2]", "a list that may be counts or expert ids: name the format: `moe-watch import FILE --from"),
        ("step,router,choice\n1,2,3\n", "text of unknown format, with columns step, router, choice"),
        (b"\x00\x01\x02", "neither UTF-8 text nor a known format"),
        ('{"a": 1}\n{"a": ', "line 2: not JSON"),
        ('{"a": \n', "not JSON"),
        ("{'a':\n1}", "neither JSON nor JSON Lines"),
        ("data: {\n", "line 1: not JSON"),
        ("{}".encode("utf-16"), "text in UTF-16: save it as UTF-8"),
    ],
)
def test_an_unknown_file_is_described(content, said, tmp_path):
    path = tmp_path / "trace"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert said in refusal(path)


def test_a_format_of_another_name_is_refused(tmp_path):
    path = EXAMPLES["csv"].write(tmp_path)
    assert "looks like csv, not vllm: leave out --from vllm" in refusal(path, form="vllm")
    assert "--from: 'gguf' is not one of sglang, " in refusal(path, form="gguf")
    assert "--from: 'imatrix-dat' is not one of" in refusal(path, form="imatrix-dat")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("csv", {"start": 3}, "(csv): --start has no effect on this format: leave it out"),
        ("sglang per token", {"start": 3}, "(sglang): --start has no effect on this format"),
        ("moe-trace", {"run": 0}, "(moe-trace): --run has no effect on this format"),
        ("bigmoeonedge", {"choice": 1}, "(bigmoeonedge): --choice has no effect on this format"),
        ("profile", {"dtype": "int32"}, "(profile): --dtype has no effect on this format"),
        ("csv", {"phase": "decode"}, "(csv): --phase has no effect on this format: it has tokens: use --prompt-tokens"),
        (
            "sglang stat",
            {"prompt_tokens": 3},
            "has no effect on this format: it has counts but no tokens",
        ),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(name, options, said, tmp_path):
    told = dataclasses.replace(EXAMPLES[name].options, **options)
    assert said in refusal(EXAMPLES[name].write(tmp_path), told)


@examples(READ)
def test_layers_get_the_indices_that_are_given(example, tmp_path):
    path = written(example, tmp_path)
    told = dataclasses.replace(example.options, layers=[3, 5, 7, 9])
    assert read_trace(path, told).shape.layers == [3, 5, 7, 9]
    wrong = dataclasses.replace(told, layers=[3, 5])
    if example is EXAMPLES["sglang stream"]:
        assert any("does not state its number of tokens: 22" in each for each in read_trace(path, wrong).warnings)
    else:
        assert re.search(
            "4 layers, but --layers names 2|22 rows of int32 for 12 tokens|an expert twice", refusal(path, wrong)
        )


# -- several runs in one file


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps([made.vllm_response()] * 2), "2 responses of vLLM: choose one with --run 0 up to 1"),
        (made.lines([made.vllm_response()] * 3), "3 responses of vLLM: choose one with --run 0 up to 2"),
        (made.lines([made.sglang_generate()] * 2), "2 responses of SGLang: choose one with --run 0 up to 1"),
        (made.lines([made.verifiers()] * 2), "2 responses of verifiers: choose one with --run 0 up to 1"),
        (made.bigmoeonedge(turns=2), "BigMoeOnEdge's route trace of turns 0, 1: choose one with --run TURN"),
        (json.dumps(made.atlas() | {"prompts": made.atlas()["prompts"] * 2}), "an atlas of 2 prompts: choose one"),
    ],
)
def test_of_several_runs_one_is_asked_for(content, said, tmp_path):
    path = tmp_path / "trace"
    path.write_text(content)
    assert said in refusal(path, BOTH)
    assert len(read_trace(path, dataclasses.replace(BOTH, run=1)).experts) == TOKENS
    assert re.search("no (run|turn) 9", refusal(path, dataclasses.replace(BOTH, run=9)))


def test_the_chosen_run_is_the_one_that_is_read(tmp_path):
    path = tmp_path / "trace"
    other = made.vllm_response(made.npy64((evaluated := made.evaluated())[::-1].astype(np.uint8)))
    path.write_text(made.lines([made.vllm_response(), other]))
    trace = read_trace(path, ImportOptions(experts=EXPERTS, run=1))
    np.testing.assert_array_equal(trace.experts[:-1], evaluated[::-1])


# -- passes of several tokens


def test_a_trace_of_several_ranks_is_refused(tmp_path):
    path = tmp_path / "trace"
    path.write_text(made.lines(made.megatron(ranks=2)))
    assert "Megatron-LM's routing trace of ranks 0, 1: give the file of one rank" in refusal(path)


def test_batches_of_several_sequences_are_only_counted(tmp_path):
    """In training every step is a batch: its rows are no tokens in a row."""
    path = tmp_path / "trace"
    steps = [
        {"step": step, "layer": layer, "rank": 0, "topk": 2, "top_indices": made.routing()[:, layer].tolist()}
        for step in range(3)
        for layer in range(LAYERS)
    ]
    path.write_text(made.lines(steps))
    trace = read_trace(path, ALONE)
    assert isinstance(trace, CountedTrace)
    np.testing.assert_array_equal(trace.counts, 3 * made.counts())
    np.testing.assert_array_equal(trace.steps, [made.counts()] * 3)
    assert any("not one prompt" in each for each in trace.warnings)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"experts": [[1, 2]] * 4}, "4 rows of 2 experts, but it states 5 of 2"),
        ({"n_tokens": 1, "experts": [[1, 2]]}, "layer 1 has 5 rows, but layer 0 has 1"),
        ({"n_used": 3, "experts": [[1, 2, 3]] * 5}, "2 experts, but 3 in the rows before"),
        ({"experts": [[1, 1.5]] * 5}, "Expected `int`, got `float`"),
        ({"experts": [[1, 1]] * 5}, "selects an expert twice"),
        ({"experts": [[1, 16]] * 5}, "selects expert 16 of 16"),
    ],
)
def test_calls_that_contradict_themselves_are_refused(change, said, tmp_path):
    rows = made.moe_vis()
    next(each for each in rows if "down" in each["name"]).update(change)
    path = tmp_path / "trace"
    path.write_text(made.lines(rows))
    assert said in refusal(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 0 0 1:0.5 2:0.5\n0 2 0 1:0.5 2:0.5\n", "line 2: row 2 after 1 rows"),
        ("0 0 0 1:0.5 2:0.5\nx\n", "line 2: not a call, a row, a layer and experts"),
        ("-1 4 16\n0 16 3\n", "line 2: expert 16 of layer 0 in a model of 4 × 16"),
        ("-1 4 16\n9 1 3\n", "line 2: expert 1 of layer 9 in a model of 4 × 16"),
        ("-1 4 16\n-2 2 7\n0 1 2\n", "colibri's usage in version 2: only version 1 can be read"),
        ("-1 4 16\n0 1\n", "line 2: not a layer, an expert and a count"),
        (b"IKU1" + bytes(40), "bytes do not fit the usage of 0 layers × 0 experts"),
        (b"IKU1\x01\0\0\0\x02\0\0\0\x01\0\0\0", "16 bytes do not fit the usage of 1 layers × 2 experts"),
    ],
)
def test_damaged_files_of_colibri_are_refused_with_their_line(text, said, tmp_path):
    path = tmp_path / "trace"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert said in refusal(path, BOTH)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("0,0,0,0,0,", "0,0,0,0,1,", 1), "slot 1 of token 0 twice in layer 0"),
        (lambda text: text.replace("\n0,0,0,0,0,", "\n0,0,0,0,7,", 1), "slots 1, 7, but a token has 2 experts"),
        (lambda text: text.replace("\n0,0,0,0,1,", "\n0,1,0,0,1,", 1), "token 0 has two phases"),
        (lambda text: text.replace("n_expert=16", "n_expert=3"), "of 3: check --experts"),
        (lambda text: text.split("turn,")[0] + "turn,phase,step,layer,slot,expert\n", "no rows"),
    ],
)
def test_a_damaged_route_trace_is_refused(change, said, tmp_path):
    path = tmp_path / "trace"
    path.write_text(change(made.bigmoeonedge()))
    assert said in refusal(path, ImportOptions())


# -- what can be done with an import


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vllm npy", "pressure needs router entropy, router margin and the margin of the likeliest token, which"),
        ("tensorrt-llm", "pressure needs tokens in order, which this recording does not have"),
    ],
)
def test_a_fit_says_which_signals_an_import_lacks(name, said, tmp_path):
    path = import_trace(EXAMPLES[name].write(tmp_path), EXAMPLES[name].options, folder=tmp_path / "sessions").path
    with pytest.raises(UserError) as caught:
        fit_file(path)
    assert said in str(caught.value)
    assert str(caught.value).endswith("record a run with moe-watch; imports and unknown routers lack these signals")


@pytest.mark.parametrize("name", ["vllm npy", "tensorrt-llm"])
def test_a_summary_of_an_import_does_not_wait_for_more_chunks(name, tmp_path):
    path = import_trace(EXAMPLES[name].write(tmp_path), EXAMPLES[name].options, folder=tmp_path / "sessions").path
    summary, reader = Summary(), SessionReader(path)
    for event in [reader.header, *reader]:
        summary.feed(event)
    found = summary.result()
    assert found.pressure.warm_up_missing is None
    assert found.pressure.fit_unavailable.startswith("pressure needs ")
    assert any(found.pressure.fit_unavailable in line for line in summary_lines(found))


def test_a_fit_in_the_reference_s_mode_does_not_need_what_that_leaves_out(tmp_path):
    path = import_trace(EXAMPLES["csv"].write(tmp_path), ALONE, folder=tmp_path / "sessions").path
    with pytest.raises(UserError, match="pressure needs router entropy and router margin, which"):
        fit_file(path, "chronomoe-v1")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("csv", "pressure needs router entropy, router margin and the margin of the likeliest token, which"),
        ("slots of a fork", "pressure needs router entropy, router margin"),
    ],
)
def test_a_comparison_of_imports_does_not_wait_for_more_chunks(name, said, tmp_path):
    path = import_trace(EXAMPLES[name].write(tmp_path), EXAMPLES[name].options, folder=tmp_path / "sessions").path
    (run,) = read_source(path).runs
    assert run.unavailable.startswith(said)


@pytest.mark.parametrize("name", ["tensorrt-llm", "layer-expert", "coli-usage"])
@pytest.mark.parametrize("read", [read_source, teacher_script], ids=["compare", "teacher"])
def test_an_import_of_counts_is_not_one_that_got_no_further(name, read, tmp_path):
    path = import_trace(EXAMPLES[name].write(tmp_path), EXAMPLES[name].options, folder=tmp_path / "sessions").path
    with pytest.raises(UserError, match="holds counts of selections, and no tokens: give a session with tokens"):
        read(path)
