"""Table of trace formats: each is read, read with options, or recognised and refused, with the reason.

A format is detected by a file's content, never by its name. The order matters where one format is a special case of
another: the first that recognises a file reads it. docs/data.md has the same table; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from moe_watch.sessions.imports.document import Document
from moe_watch.sessions.imports.readers import (
    colibri,
    csv_tables,
    imatrix,
    json_lines,
    profiler_json,
    refused_files,
    sglang,
    tensorrt,
    vllm_sglang_dynamo,
)
from moe_watch.sessions.imports.traces import ImportOptions, Trace

Status = Literal["read", "options", "refused"]
STATUSES: dict[Status, str] = {"read": "read", "options": "read with options", "refused": "refused"}
RESPONSE_OPTIONS = frozenset({"run", "choice", "start", "dtype"})
EXPERTS, CHOSEN = "`--experts`", "`--experts-per-token`"


@dataclass(frozen=True, slots=True)
class Format:
    """One trace format."""

    name: str
    """Name for `--from` and in messages."""
    title: str
    """Program that writes it, and its layout."""
    reason: str
    """Options that it needs or may need, or the reason of its refusal."""
    recognise: Callable[[Document], bool]
    read: Callable[[Document, ImportOptions], Trace] | None = None
    """None if it is refused."""
    advice: str = ""
    """Advice for the user, if it is refused."""
    needs: tuple[str, ...] = ()
    """Options that it always needs."""
    takes: frozenset[str] = frozenset()
    """Options that it accepts beyond the options of every format; others are refused, not ignored."""

    @property
    def status(self) -> Status:
        """Return whether it is read, read with options, or refused."""
        if self.read is None:
            return "refused"
        return "options" if self.needs else "read"


FORMATS: tuple[Format, ...] = (
    Format(
        "session",
        "moe-watch's own session file",
        "it is a session already",
        refused_files.is_session,
        advice="replay it, or export it",
    ),
    Format(
        "chronomoe",
        "ChronoMoE's measurement (`trajectory.mid_pressures`), JSON",
        "a P_mid series has no routing; `fit` and `compare` read it",
        refused_files.is_pressure_series,
        advice="run `moe-watch fit` on it",
    ),
    Format(
        "sglang",
        "SGLang's expert distribution dump: `logical_count` [steps, layers, experts] (`stat`), or `records` "
        "(`per_pass`, `per_token`); `.pt`, `.npz`, `.npy`, JSON",
        "counts: `--experts-per-token`; routing per token: `--experts`, and one request, recorded with "
        "`--disable-radix-cache`",
        sglang.is_dump,
        sglang.read_dump,
        needs=(EXPERTS, CHOSEN),
    ),
    Format(
        "verifiers",
        "verifiers' runs: turns with `prompt_ids`, `completion_ids` and `routed_experts`; JSON, JSON Lines",
        "`--experts`; with several turns, `--run`",
        vllm_sglang_dynamo.is_verifiers,
        vllm_sglang_dynamo.read_verifiers,
        needs=(EXPERTS,),
        takes=RESPONSE_OPTIONS,
    ),
    Format(
        "sglang-response",
        "SGLang's response: `routed_experts` in `meta_info`, `sgl_ext` or `sglext`, base64 of int32; JSON, JSON Lines, "
        "server-sent events",
        "`--experts`, and `--layers` or `--experts-per-token` for its shape; with several responses, `--run`",
        vllm_sglang_dynamo.is_sglang,
        vllm_sglang_dynamo.read_sglang,
        needs=(EXPERTS, CHOSEN),
        takes=RESPONSE_OPTIONS,
    ),
    Format(
        "vllm",
        "vLLM's response, also through gateways and Dynamo: `routed_experts` as base64 of `.npy`, lists, or "
        "`{data, shape, dtype, start}`; JSON, JSON Lines; or `.npy`, `.npz` of [tokens, layers, top-k]",
        "`--experts`; bare base64: `--dtype`, `--layers`, `--experts-per-token`; with several responses, `--run`, with "
        "several choices, `--choice`",
        vllm_sglang_dynamo.is_vllm,
        vllm_sglang_dynamo.read_vllm,
        needs=(EXPERTS,),
        takes=RESPONSE_OPTIONS,
    ),
    Format(
        "stream",
        "a stream of server-sent events without routing, as `curl -N` saves it",
        "vLLM and SGLang's chat send routed experts with whole responses, not in the stream's text",
        vllm_sglang_dynamo.is_stream,
        advice="send the request again without `stream`",
    ),
    Format(
        "megatron",
        "Megatron-LM's RouterTracer: `step`, `layer`, `rank`, `top_indices`; JSON Lines",
        "`--experts`; batches of several sequences are counts",
        json_lines.is_step_lines,
        json_lines.read_step_lines,
        needs=(EXPERTS,),
    ),
    Format(
        "moe-trace",
        "moe-trace: `phase`, `token_index`, `layer`, `expert_ids`; JSON Lines",
        "`--experts`",
        json_lines.is_token_lines,
        json_lines.read_token_lines,
        needs=(EXPERTS,),
    ),
    Format(
        "moe-vis",
        "moe-vis' trace of Ollama: `layer`, `experts`, and lines of `wlayer`; JSON Lines",
        "`--experts`; batches of several sequences are counts",
        json_lines.is_call_lines,
        json_lines.read_call_lines,
        needs=(EXPERTS,),
    ),
    Format(
        "atlas",
        "an atlas of routing: `prompts` with `tokens` and `routing`; JSON",
        "`--experts` if `num_experts` is missing; with several prompts, `--run`",
        profiler_json.is_atlas,
        profiler_json.read_atlas,
        takes=frozenset({"run"}),
    ),
    Format(
        "profile",
        "a profile of activation counts: `activation_counts` by layer; JSON",
        "`--experts-per-token` if `num_experts_per_tok` and `top_k` are missing",
        profiler_json.is_profile,
        profiler_json.read_profile,
        needs=(CHOSEN,),
    ),
    Format(
        "tensorrt-llm",
        "TensorRT-LLM's expert statistics: `rankN.safetensors` with counts called `ITERATION_LAYER`",
        "`--experts-per-token` if `meta_info.json` is not beside it",
        tensorrt.is_statistics,
        tensorrt.read_statistics,
    ),
    Format(
        "tensorrt-llm-meta",
        "TensorRT-LLM's `meta_info.json`",
        "it has the numbers of experts but no counts",
        tensorrt.is_meta,
        advice="give rank0.safetensors beside it",
    ),
    Format(
        "imatrix",
        "llama.cpp's importance matrix, GGUF (`llama-imatrix --output-format gguf`); needs `pip install gguf`",
        "`--experts-per-token` if attention was not counted",
        imatrix.is_imatrix,
        imatrix.read_imatrix,
    ),
    Format(
        "imatrix-dat",
        "llama.cpp's importance matrix in its older form, `imatrix.dat`",
        "it has sums of squares but no counts per expert",
        imatrix.is_legacy,
        advice="write it again with llama-imatrix --output-format gguf",
    ),
    Format(
        "bigmoeonedge",
        "BigMoeOnEdge's route trace: comments, then `turn,phase,step,layer,slot,expert,…`, or "
        "`phase,token,layer,rank,expert` of llama.cpp's forks; CSV",
        "with several turns, `--run`; without its comments, `--experts`",
        csv_tables.is_slots,
        csv_tables.read_slots,
        takes=frozenset({"run"}),
    ),
    Format(
        "csv",
        "`token,layer,expert_1,expert_2,…`, also `phase`; the table `routing` of an export; CSV",
        "`--experts`; without `phase`, `--prompt-tokens`; with one `expert` in each row, `--experts-per-token`",
        csv_tables.is_wide,
        csv_tables.read_wide,
        needs=(EXPERTS,),
    ),
    Format(
        "layer-expert",
        "llama.cpp's moe-trace: `layer,expert`, a row per selection; CSV",
        "`--experts`, `--experts-per-token`; only counts: rows do not name their tokens",
        csv_tables.is_selections,
        csv_tables.read_selections,
        needs=(EXPERTS, CHOSEN),
    ),
    Format(
        "layer-expert-count",
        "SGLang's recorder of early 2025: `layer_id,expert_id,count`; CSV",
        "`--experts`, `--experts-per-token`",
        csv_tables.is_counts,
        csv_tables.read_counts,
        needs=(EXPERTS, CHOSEN),
    ),
    Format(
        "coli-usage",
        "colibri's `.coli_usage`: `LAYER EXPERT COUNT`, also in binary (`IKU1`)",
        "`--experts-per-token`; without its first line, `--experts`",
        colibri.is_usage,
        colibri.read_usage,
        needs=(CHOSEN,),
    ),
    Format(
        "coli-trace",
        "colibri's `ROUTE_TRACE`: `CALL ROW LAYER ID:GATE …`",
        "`--experts`; batches of several sequences are counts",
        colibri.is_trace,
        colibri.read_trace,
        needs=(EXPERTS,),
    ),
    Format(
        "packed",
        "a compressed file (gzip, zstd) or Parquet",
        "only its unpacked content can be read",
        refused_files.is_packed,
        advice="unpack it, or write it as CSV",
    ),
)
"""Formats, in the order in which they are tried."""

READABLE: tuple[str, ...] = tuple(each.name for each in FORMATS if each.read is not None)


def recognised(document: Document) -> Format | None:
    """Return the format of a document; None if no format recognises it."""
    return next((each for each in FORMATS if each.recognise(document)), None)


def named(name: str) -> Format | None:
    """Return the readable format of this name; None if there is none."""
    return next((each for each in FORMATS if each.name == name and each.read is not None), None)
