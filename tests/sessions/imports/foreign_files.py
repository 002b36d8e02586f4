"""A small file of every foreign routing format, made in the shape that its program documents.

All of them are of one run: `TOKENS` tokens, the first `PROMPT` of them the prompt's, with the routing of `routing()`.
"""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moe_watch.sessions.imports.traces import ImportOptions

TOKENS, PROMPT, LAYERS, EXPERTS, K = 12, 5, 4, 16, 2
PROMPT_IDS, ANSWER_IDS = list(range(100, 100 + PROMPT)), list(range(200, 200 + TOKENS - PROMPT))
BOTH = ImportOptions(experts=EXPERTS, experts_per_token=K)
ALONE = ImportOptions(experts=EXPERTS)


def routing() -> np.ndarray:
    """Expert ids [T, L, k], ascending in each row, none of them in every row."""
    rng = np.random.default_rng(0)
    rows = [rng.choice(EXPERTS, K, replace=False) for _ in range(TOKENS * LAYERS)]
    return np.sort(np.array(rows).reshape(TOKENS, LAYERS, K), -1)


def counts(experts: np.ndarray | None = None) -> np.ndarray:
    """Selections [L, E]."""
    found = np.zeros((LAYERS, EXPERTS), np.int64)
    for token in routing() if experts is None else experts:
        for layer, row in enumerate(token):
            found[layer, row] += 1
    return found


def evaluated() -> np.ndarray:
    """The rows that a server returns: the last token was drawn and never evaluated."""
    return routing()[:-1]


def b64(array: np.ndarray, dtype: str) -> str:
    return base64.b64encode(array.astype(dtype).tobytes()).decode()


def npy64(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return base64.b64encode(buffer.getvalue()).decode()


def described(array: np.ndarray, dtype: str = "int32", **more: Any) -> dict[str, Any]:
    return {"data": b64(array, f"<{np.dtype(dtype).str[1:]}"), "shape": [*array.shape], "dtype": dtype, **more}


def vllm_response(experts: Any = None, **more: Any) -> dict[str, Any]:
    """A completion; `experts` as the server encodes them."""
    encoded = npy64(evaluated().astype(np.uint8)) if experts is None else experts
    choice = {"index": 0, "text": "x", "token_ids": ANSWER_IDS, "routed_experts": encoded}
    return {
        "model": "org/moe",
        "object": "text_completion",
        "prompt_token_ids": PROMPT_IDS,
        "choices": [choice],
        **more,
    }


def sglang_generate(**meta: Any) -> dict[str, Any]:
    encoded = {"routed_experts": b64(evaluated(), "<i4"), "prompt_tokens": PROMPT, "completion_tokens": TOKENS - PROMPT}
    return {"text": "x", "output_ids": ANSWER_IDS, "meta_info": {"id": "a", **encoded, **meta}}


def sglang_passes(experts: np.ndarray, first: int = 0, fill: int = -1) -> list[dict[str, Any]]:
    """Records of the prompt in one pass, then token by token, in eight columns."""
    wide = np.full((len(experts), LAYERS, 8), fill)
    wide[..., :K] = experts
    ids = [*PROMPT_IDS, *ANSWER_IDS]
    spans = [(first, PROMPT), *((at, at + 1) for at in range(PROMPT, len(experts)))]
    return [
        {
            "forward_pass_id": number,
            "rank": 0,
            "input_ids": ids[begin:end],
            "positions": list(range(begin, end)),
            "topk_ids_of_layer": wide[begin:end].transpose(1, 0, 2).tolist(),
        }
        for number, (begin, end) in enumerate(spans)
    ]


def lines(records: list[Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def bigmoeonedge(turns: int = 1) -> str:
    rows = [
        "# route_trace v1",
        f"# model=/models/m.gguf arch=qwen3moe n_layer={LAYERS} n_expert={EXPERTS} n_expert_used={K}",
        *(f"# layer={layer} expert_bytes=4096 dense_bytes=100" for layer in range(LAYERS)),
        "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes,dropped",
    ]
    for turn in range(turns):
        for t, token in enumerate(routing()):
            for layer, experts in enumerate(token):
                for slot, expert in enumerate(experts[::-1]):
                    rows.append(f"{turn},{int(t >= PROMPT)},{t},{layer},{slot},{expert},0.5,miss,4096,0")
    return "\n".join(rows) + "\n"


def by_rank() -> str:
    """The same in the form of llama.cpp's forks."""
    rows = [
        f"{'prefill' if t < PROMPT else 'decode'},{t},{layer},{rank},{expert}"
        for t, token in enumerate(routing())
        for layer, experts in enumerate(token)
        for rank, expert in enumerate(experts)
    ]
    return "\n".join(["phase,token,layer,rank,expert", *rows]) + "\n"


def moe_trace() -> list[dict[str, Any]]:
    return [
        {
            "phase": "prefill" if t < PROMPT else "decode",
            "token_index": t,
            "layer": layer,
            "expert_ids": experts.tolist(),
            "scores": [0.6, 0.4],
        }
        for t, token in enumerate(routing())
        for layer, experts in enumerate(token)
    ]


def passes() -> list[np.ndarray]:
    """Routing [n, L, k] by pass: the prompt's, then one token after the other."""
    return [routing()[:PROMPT], *(token[None] for token in routing()[PROMPT:])]


def moe_vis() -> list[dict[str, Any]]:
    """Each projection is recorded, and a layer's weights."""
    found: list[dict[str, Any]] = []
    for rows in passes():
        for layer in range(LAYERS):
            sizes = {"n_used": K, "n_tokens": len(rows)}
            for part in ("gate", "up", "down"):
                named = {"layer": layer, "name": f"ffn_moe_{part}-{layer}", **sizes}
                found.append({**named, "experts": rows[:, layer].tolist()})
            found.append({"wlayer": layer, **sizes, "weights": [[0.6, 0.4]] * len(rows)})
    return found


def megatron(ranks: int = 1) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for rank in range(ranks):
        for step, rows in enumerate(passes()):
            for layer in range(LAYERS):
                facts = {"step": step, "stage": "pre_dispatch", "block": "decoder", "layer": layer, "rank": rank}
                sizes = {"num_tokens": len(rows), "topk": K}
                found.append({**facts, **sizes, "top_indices": rows[:, layer].tolist()})
            found.append(found[-1] | {"block": "mtp", "mtp_idx": 0, "layer": 0})
    return found


def coli_trace() -> str:
    call, text = 0, ""
    for rows in passes():
        for layer in range(LAYERS):
            for row, experts in enumerate(rows[:, layer]):
                text += f"{call} {row} {layer} " + " ".join(f"{expert}:0.5000" for expert in experts) + "\n"
            call += 1
    return text


def coli_usage(header: bool = True) -> str:
    table = counts()
    head = f"-1 {LAYERS} {EXPERTS}\n-2 1 2829443651\n" if header else ""
    return head + "".join(f"{layer} {expert} {table[layer, expert]}\n" for layer, expert in np.argwhere(table))


def safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    table, data = {}, b""
    for name, array in tensors.items():
        content = array.astype("<i8").tobytes()
        table[name] = {"dtype": "I64", "shape": [*array.shape], "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    header = json.dumps({"__metadata__": {"format": "pt"}, **table}).encode()
    return len(header).to_bytes(8, "little") + header + data


def tensorrt(iterations: int = 2) -> bytes:
    halves = np.array_split(routing(), iterations)
    return safetensors(
        {f"{100 + i}_{layer}": counts(half)[layer] for i, half in enumerate(halves) for layer in range(LAYERS)}
    )


def imatrix_dat() -> bytes:
    found = struct.pack("<i", 2)
    for name in (b"blk.0.ffn_down_exps.weight", b"blk.0.attn_q.weight"):
        sums = np.ones(32, "<f4").tobytes()
        found += struct.pack("<i", len(name)) + name + struct.pack("<ii", 7, 32) + sums
    return found + struct.pack("<ii", 7, 8) + b"text.raw"


def write_imatrix(path: Path) -> None:
    """An importance matrix in GGUF, as `llama-imatrix` writes it."""
    import gguf

    writer = gguf.GGUFWriter(path, arch="", endianess=gguf.GGUFEndian.LITTLE)
    writer.add_type("imatrix")
    for layer, row in enumerate(counts()):
        for name, column in {"attn_q": [TOKENS], "ffn_down_exps": row, "ffn_up_exps": row}.items():
            values = np.array(column, np.float32)[:, None]
            writer.add_tensor(f"blk.{layer}.{name}.weight.in_sum2", np.ones((len(values), 4), np.float32))
            writer.add_tensor(f"blk.{layer}.{name}.weight.counts", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@dataclass(frozen=True)
class Example:
    """One file."""

    format: str
    """Its name in the table of formats."""
    content: str | bytes | Callable[[Path], None]
    holds: str = "refused"
    """Tokens or counts, or refused."""
    options: ImportOptions = ALONE
    beside: dict[str, str] = field(default_factory=dict)
    """Other files in its folder."""
    prompt: int = PROMPT
    last: bool = True
    """The last token has routing."""
    tokens: int = TOKENS
    """Number that the file states."""

    def write(self, folder: Path) -> Path:
        # The name says nothing: formats are recognised by content.
        path = folder / "trace"
        if callable(self.content):
            self.content(path)
        else:
            path.write_bytes(self.content.encode() if isinstance(self.content, str) else self.content)
        for name, text in self.beside.items():
            (folder / name).write_text(text)
        return path


def _csv(phases: bool) -> str:
    head = "token,layer,expert_1,expert_2" + (",phase" if phases else "")
    rows = [
        f"{t},{layer},{row[0]},{row[1]}" + (f",{'prefill' if t < PROMPT else 'decode'}" if phases else "")
        for t, token in enumerate(routing())
        for layer, row in enumerate(token)
    ]
    return "\n".join([head, *rows]) + "\n"


def atlas() -> dict[str, Any]:
    by_token = [
        [{"layer": layer, "experts": row.tolist(), "weights": [0.6, 0.4]} for layer, row in enumerate(token)]
        for token in routing()
    ]
    prompt = {"prompt": "hi", "tokens": [f" t{t}" for t in range(TOKENS)], "routing": by_token}
    return {"model": "org/moe", "num_layers": LAYERS, "num_experts": EXPERTS, "top_k": K, "prompts": [prompt]}


def _npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, logical_count=counts()[None])


def verifiers() -> dict[str, Any]:
    turn = {"prompt_ids": PROMPT_IDS, "completion_ids": ANSWER_IDS, "completion_logprobs": [-0.5] * len(ANSWER_IDS)}
    uint8 = evaluated().astype(np.uint8)
    routed = {"data": base64.b64encode(uint8.tobytes()).decode(), "shape": [*uint8.shape], "start": 0}
    return {"prompt": [], "reward": 1.0, "trajectory": [{"tokens": {**turn, "routed_experts": routed}}]}


_CHOICE = {"index": 0, "message": {"role": "assistant", "content": "x"}}
_IDS = {"input_ids": PROMPT_IDS, "output_ids": [ANSWER_IDS]}
_BARE = {"routed_experts": b64(evaluated(), "<i4")}

EXAMPLES: dict[str, Example] = {
    "session": Example("session", '{"event":"session","schema":1}\n{"event":"token"}\n'),
    "chronomoe": Example(
        "chronomoe", json.dumps({"protocol": "natural_decay", "trajectory": {"mid_pressures": [0.5] * 6}})
    ),
    "sglang stat": Example("sglang", json.dumps({"rank": 0, "logical_count": [counts().tolist()]}), "counts", BOTH),
    "sglang stat npz": Example("sglang", _npz, "counts", BOTH),
    "sglang per token": Example("sglang", json.dumps({"records": sglang_passes(routing())}), "tokens"),
    "verifiers": Example("verifiers", lines([verifiers()]), "tokens", last=False),
    "sglang generate": Example("sglang-response", json.dumps(sglang_generate()), "tokens", BOTH, last=False),
    "sglang sgl_ext": Example(
        "sglang-response",
        json.dumps({"choices": [_CHOICE | {"sgl_ext": _BARE | _IDS}]}),
        "tokens",
        ImportOptions(experts=EXPERTS, layers=list(range(LAYERS))),
        last=False,
    ),
    "sglang sglext": Example(
        "sglang-response", json.dumps({"choices": [_CHOICE], "sglext": _BARE | _IDS}), "tokens", BOTH, last=False
    ),
    "sglang stream": Example(
        "sglang-response",
        f"data: {json.dumps({'choices': [_CHOICE]})}\n\ndata: {json.dumps({'choices': [{}], 'sglext': _BARE})}\n\n"
        "data: [DONE]\n",
        "tokens",
        ImportOptions(experts=EXPERTS, experts_per_token=K, layers=list(range(LAYERS)), prompt_tokens=PROMPT),
        tokens=TOKENS - 1,
    ),
    "vllm npy": Example("vllm", json.dumps(vllm_response()), "tokens", last=False),
    "vllm chat": Example(
        "vllm",
        json.dumps(vllm_response(object="chat.completion", usage={"prompt_tokens": PROMPT})),
        "tokens",
        last=False,
    ),
    "vllm lists": Example("vllm", json.dumps(vllm_response(evaluated().tolist())), "tokens", last=False),
    "dynamo": Example("vllm", json.dumps(vllm_response(described(evaluated()))), "tokens", last=False),
    "vllm batch": Example(
        "vllm",
        lines([{"custom_id": "a", "response": {"status_code": 200, "body": vllm_response()}}]),
        "tokens",
        last=False,
    ),
    "stream": Example("stream", 'data: {"choices":[{"index":0,"text":"a"}]}\n\ndata: [DONE]\n'),
    "megatron": Example("megatron", lines(megatron()), "tokens"),
    "moe-trace": Example("moe-trace", lines(moe_trace()), "tokens"),
    "moe-vis": Example("moe-vis", lines(moe_vis()), "tokens"),
    "atlas": Example("atlas", json.dumps(atlas()), "tokens", ImportOptions(), prompt=0),
    "profile": Example(
        "profile",
        json.dumps(
            {"model": "org/moe", "activation_counts": {str(at): row.tolist() for at, row in enumerate(counts())}}
        ),
        "counts",
        BOTH,
    ),
    "tensorrt-llm": Example(
        "tensorrt-llm",
        tensorrt(),
        "counts",
        ImportOptions(),
        {"meta_info.json": json.dumps({"num_experts": EXPERTS, "num_experts_per_token": K})},
    ),
    "tensorrt-llm-meta": Example("tensorrt-llm-meta", json.dumps({"num_experts": EXPERTS, "num_experts_per_token": K})),
    "imatrix": Example("imatrix", write_imatrix, "counts", ImportOptions()),
    "imatrix-dat": Example("imatrix-dat", imatrix_dat()),
    "bigmoeonedge": Example("bigmoeonedge", bigmoeonedge(), "tokens", ImportOptions()),
    "slots of a fork": Example("bigmoeonedge", by_rank(), "tokens"),
    "csv": Example("csv", _csv(phases=True), "tokens"),
    "csv semicolons": Example("csv", "\ufeff" + _csv(phases=True).replace(",", ";").replace("\n", "\r\n"), "tokens"),
    "csv without phase": Example("csv", _csv(phases=False), "tokens", prompt=0),
    "layer-expert": Example(
        "layer-expert",
        "layer,expert\n" + "".join(f"{at},{e}\n" for token in routing() for at, row in enumerate(token) for e in row),
        "counts",
        BOTH,
    ),
    "layer-expert merged": Example(
        "layer-expert",
        "".join(
            "layer,expert\n" + "".join(f"{at},{e}\n" for token in part for at, row in enumerate(token) for e in row)
            for part in (routing()[:7], routing()[7:])
        ),
        "counts",
        BOTH,
    ),
    "layer-expert-count": Example(
        "layer-expert-count",
        "layer_id,expert_id,count\n" + "".join(f"{at},{e},{counts()[at, e]}\n" for at, e in np.argwhere(counts())),
        "counts",
        BOTH,
    ),
    "coli-usage": Example("coli-usage", coli_usage(), "counts", ImportOptions(experts_per_token=K)),
    "coli-usage legacy": Example("coli-usage", coli_usage(header=False), "counts", BOTH),
    "coli-usage binary": Example(
        "coli-usage",
        b"IKU1" + struct.pack("<II", LAYERS, EXPERTS) + counts().astype("<u4").tobytes(),
        "counts",
        ImportOptions(experts_per_token=K),
    ),
    "coli-trace": Example("coli-trace", coli_trace(), "tokens"),
    "gzip": Example("packed", b"\x1f\x8b\x08\x00rest"),
    "zstd": Example("packed", b"\x28\xb5\x2f\xfd\x00rest"),
    "parquet": Example("packed", b"PAR1\x15\x04\x15\xff"),
}
