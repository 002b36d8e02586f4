"""Evaluate the shipped pocket on source files that it was not trained on; write evaluation.json and README.md.

    python models/pocket/evaluate.py --log build/pocket/train.log

Everything is computed in float32 from the shipped float16 values.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from corpus import Corpus, read_corpus
from report import Json, render
from specialisation import prose_tokens, specialisation
from transformers import AutoTokenizer, MixtralForCausalLM, PreTrainedTokenizerFast

from moe_watch.routing.router.gates import softmax
from moe_watch.routing.router.observe import normalised_entropy
from moe_watch.routing.usage.counts import dead, shares, usage_entropy

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUCKETS = (1, 16, 64, 128, 256, 512, 1024, 1536, 2048)
PERMUTATIONS = 999
SEED = 7
SAMPLE_PROMPT = "def "
SAMPLE_TOKENS = 200
LOG_LINE = re.compile(r"step\s+(\d+)/(\d+)\s+nats/token\s+([\d.]+)\s+balance\s+([\d.]+)\s+([\d,]+) tokens/s")

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The held-out files as one row of `T` tokens, each file between begin and end token."""

    ids: Ints
    bytes: Ints
    """[T] bytes of the token's text; 0 for begin and end."""
    files: Ints
    """[T]"""
    prose: npt.NDArray[np.bool_]
    """[T] comment or docstring."""


@dataclass(frozen=True, eq=False)
class Observed:
    """Surprisal and routing of the held-out tokens, window by window."""

    nats: Floats
    """[T] surprisal of each token; NaN for the first of a window, which has no prediction."""
    positions: Ints
    """[T] in the window."""
    experts: Ints
    """[T, L, k]"""
    router_entropy: Floats
    """[T, L]"""


def encode_held_out(tokenizer: PreTrainedTokenizerFast, texts: tuple[str, ...]) -> HeldOut:
    """Return the tokens of all files, with bytes, file and kind of each."""
    rows: list[tuple[list[int], list[bool]]] = []
    for text in texts:
        encoded = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        ids = [tokenizer.bos_token_id, *encoded.ids, tokenizer.eos_token_id]
        rows.append((ids, [False, *prose_tokens(text, encoded.offsets).tolist(), False]))
    flat = np.array([token for ids, _ in rows for token in ids], np.int64)
    special = np.isin(flat, tokenizer.all_special_ids)
    # In byte-level BPE every character of a piece is one byte.
    lengths = np.array([len(piece) for piece in tokenizer.convert_ids_to_tokens(flat.tolist())])
    return HeldOut(
        ids=flat,
        bytes=np.where(special, 0, lengths),
        files=np.repeat(np.arange(len(rows)), [len(ids) for ids, _ in rows]),
        prose=np.array([label for _, labels in rows for label in labels], bool),
    )


def observe_window(model: MixtralForCausalLM, ids: Ints) -> Observed:
    """Evaluate one window in one forward pass."""
    row = torch.from_numpy(ids)
    with torch.no_grad():
        output = model(input_ids=row[None], output_router_logits=True)
    nats = torch.nn.functional.cross_entropy(output.logits[0, :-1], row[1:], reduction="none")
    router_logits = torch.stack(output.router_logits, dim=1)
    return Observed(
        nats=np.concatenate([[np.nan], nats.double().numpy()]),
        positions=np.arange(len(ids)),
        experts=router_logits.topk(model.config.num_experts_per_tok, dim=-1).indices.numpy(),
        router_entropy=normalised_entropy(softmax(router_logits.numpy())),
    )


def observe_all(model: MixtralForCausalLM, ids: Ints) -> Observed:
    """Evaluate the whole row, in successive windows of the trained length."""
    length = model.config.max_position_embeddings
    windows = [observe_window(model, ids[start : start + length]) for start in range(0, len(ids), length)]
    return Observed(
        nats=np.concatenate([window.nats for window in windows]),
        positions=np.concatenate([window.positions for window in windows]),
        experts=np.concatenate([window.experts for window in windows]),
        router_entropy=np.concatenate([window.router_entropy for window in windows]),
    )


def held_out_loss(held_out: HeldOut, seen: Observed) -> Json:
    """Return the mean surprisal per token, and per byte of the predicted text."""
    predicted = ~np.isnan(seen.nats)
    nats, size = seen.nats[predicted].sum(), held_out.bytes[predicted].sum()
    return {
        "files": int(held_out.files.max()) + 1,
        "tokens": int(predicted.sum()),
        "bytes": int(size),
        "nats_per_token": round(float(nats / predicted.sum()), 4),
        "bits_per_byte": round(float(nats / np.log(2) / size), 4),
    }


def by_position(seen: Observed) -> list[Json]:
    """Return loss and router entropy by bucket of token position."""
    rows = []
    for first, end in itertools.pairwise(BUCKETS):
        inside = (seen.positions >= first) & (seen.positions < end)
        entropy = seen.router_entropy[inside]
        rows.append(
            {
                "from": first,
                "to": end - 1,
                "tokens": int(inside.sum()),
                "nats_per_token": round(float(seen.nats[inside].mean()), 4),
                "router_entropy": round(float(entropy.mean()), 4),
                "router_entropy_per_layer": rounded(entropy.mean(0)),
            }
        )
    return rows


def usage(seen: Observed, experts: int) -> Json:
    """Return each expert's share of the selections on all held-out tokens."""
    counts = np.stack([np.bincount(layer.ravel(), minlength=experts) for layer in seen.experts.swapaxes(0, 1)])
    return {
        "tokens": len(seen.experts),
        "shares": rounded(shares(counts)),
        "usage_entropy": rounded(usage_entropy(counts)),
        "router_entropy": rounded(seen.router_entropy.mean(0)),
        "dead": dead(counts).tolist(),
    }


def code_against_prose(held_out: HeldOut, seen: Observed) -> Json:
    """Return the specialization of each layer, without begin and end tokens."""
    text = held_out.bytes > 0
    result = specialisation(
        seen.experts[text], held_out.prose[text], held_out.files[text], permutations=PERMUTATIONS, seed=SEED
    )
    return {name: rounded(value) if isinstance(value, np.ndarray) else value for name, value in asdict(result).items()}


def sample(model: MixtralForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Json:
    """Return a text sampled at temperature 1."""
    torch.manual_seed(SEED)
    prompt = tokenizer(SAMPLE_PROMPT, return_tensors="pt")["input_ids"]
    ids = model.generate(prompt, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=SAMPLE_TOKENS)
    text = tokenizer.decode(ids[0], skip_special_tokens=True)
    return {"prompt": SAMPLE_PROMPT, "seed": SEED, "temperature": 1.0, "text": text}


def training(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, provenance: Json, log: str | None) -> Json:
    """Return the amount of training text, and the loss curve if the log is given."""
    recipe = provenance["recipe"]
    encoded = tokenizer.backend_tokenizer.encode_batch(list(corpus.training))
    tokens = sum(len(encoding) + 1 for encoding in encoded)  # the begin token is in, the end token is not
    steps = sum(count for count, _ in recipe["phases"])
    seen = steps * recipe["tokens_per_step"]
    facts = {"steps": steps, "corpus_tokens": tokens, "tokens_seen": seen, "epochs": round(seen / tokens, 2)}
    return facts | (loss_curve(log, recipe["tokens_per_step"]) if log else {})


def loss_curve(log: str, tokens_per_step: int) -> Json:
    """Return the running time and some rows of the training log.

    Raises:
        SystemExit: No line of the log is one that train.py prints.
    """
    rows = [match.groups() for match in LOG_LINE.finditer(log)]
    if not rows:
        raise SystemExit("the log has no line like train.py's: give the file that its output was written to")
    last, rate = int(rows[-1][0]), float(rows[-1][4].replace(",", ""))
    shown = {50, 100, last, *range(0, last, 250)}
    return {
        "minutes": round((last + 1) * tokens_per_step / rate / 60, 1),
        "curve": [
            {"step": int(step), "nats_per_token": float(nats), "balance": float(balance)}
            for step, _, nats, balance, _ in rows
            if int(step) in shown
        ],
    }


def rounded(values: npt.NDArray[np.generic]) -> Any:
    return np.round(values.astype(np.float64), 4).tolist()


def pinned_corpus(provenance: Json) -> Corpus:
    """Return the corpus that pocket was trained on.

    Raises:
        SystemExit: This interpreter's library is another one, so what was held out cannot be known.
    """
    corpus = read_corpus(seed=provenance["recipe"]["seed"])
    if corpus.sha256 != provenance["corpus_sha256"]:
        raise SystemExit(
            f"pocket was trained on Python {provenance['python']}'s library (sha256 {provenance['corpus_sha256']}), "
            f"and this interpreter's differs ({corpus.sha256}): run that build of Python"
        )
    return corpus


def evaluate(folder: pathlib.Path, log: str | None) -> Json:
    """Return the content of evaluation.json."""
    provenance = json.loads((folder / "provenance.json").read_text())
    corpus = pinned_corpus(provenance)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = MixtralForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    held_out = encode_held_out(tokenizer, corpus.held_out)
    seen = observe_all(model, held_out.ids)
    return {
        "provenance": provenance,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training": training(corpus, tokenizer, provenance, log),
        "held_out": held_out_loss(held_out, seen),
        "by_position": by_position(seen),
        "usage": usage(seen, model.config.num_local_experts),
        "specialisation": code_against_prose(held_out, seen),
        "sample": sample(model, tokenizer),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "backends" / "pocket")
    parser.add_argument("--log", type=pathlib.Path, help="what train.py printed, for the loss curve")
    parser.add_argument("--output", type=pathlib.Path, default=HERE)
    arguments = parser.parse_args()
    log = arguments.log.read_text() if arguments.log else None
    evaluation = evaluate(arguments.model, log)
    (arguments.output / "evaluation.json").write_text(json.dumps(evaluation, indent=1, ensure_ascii=False) + "\n")
    (arguments.output / "README.md").write_text(render(evaluation, (HERE / "README.template.md").read_text()))


if __name__ == "__main__":
    main()
