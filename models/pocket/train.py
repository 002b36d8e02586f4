"""Train pocket, the small Mixtral in moe-watch, on the source of this interpreter's standard library.

    python models/pocket/train.py --output build/pocket

Most steps see short sequences, because attention over long ones costs more than it teaches at first;
the last steps see whole contexts, so that every position the model can be asked about was trained.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
import transformers
from corpus import Corpus, read_corpus
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

BOS, EOS = 0, 1
CONTEXT = 2048
ROPE_THETA = 10_000.0


@dataclass(frozen=True)
class Recipe:
    """All settings that determine the trained weights, together with the corpus."""

    seed: int = 7
    tokens_per_step: int = 8192
    phases: tuple[tuple[int, int], ...] = ((1000, 512), (450, CONTEXT))
    """Successive phases as (steps, sequence length)."""
    learning_rate: float = 3e-3
    warmup_steps: int = 60
    final_share: float = 0.04
    """Share of the peak to which the learning rate falls along a cosine."""
    weight_decay: float = 0.1
    load_balancing: float = 0.02
    """Weight of the load-balancing loss, the mean of one loss per layer.

    `transformers` pools the counts of all layers into one loss. Such a loss allows experts that are dead in some
    layers and busy in others: when tried, it left six of 48 without a single token.
    """

    @property
    def steps(self) -> int:
        return sum(steps for steps, _ in self.phases)

    def sequence_length(self, step: int) -> int:
        """Sequence length of training step `step`, 0-based."""
        for steps, length in self.phases:
            if step < steps:
                return length
            step -= steps
        raise IndexError(step)

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine down to `final_share` of the peak."""
        warmup = min(1.0, (step + 1) / self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * warmup * (self.final_share + (1 - self.final_share) * cosine)


def configuration(vocabulary: int, load_balancing: float) -> MixtralConfig:
    """Return a model of 6 layers of 8 experts, 2 per token; 5.5 M parameters, 1.7 M of them active per token."""
    return MixtralConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        sliding_window=None,
        bos_token_id=BOS,
        eos_token_id=EOS,
        router_aux_loss_coef=load_balancing,
        tie_word_embeddings=False,
    )


def train_tokenizer(texts: tuple[str, ...], vocabulary: int = 2048) -> Tokenizer:
    """Train a byte-level BPE, which encodes every text without an unknown token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: tuple[str, ...]) -> torch.Tensor:
    """Return all texts as one row of token ids, each text between `<s>` and `</s>`."""
    rows = [np.array([BOS, *encoding.ids, EOS], np.int64) for encoding in tokenizer.encode_batch(list(texts))]
    return torch.from_numpy(np.concatenate(rows))


def sample_batch(ids: torch.Tensor, recipe: Recipe, length: int, generator: torch.Generator) -> torch.Tensor:
    """Return random windows [tokens_per_step // length, length] of the training text."""
    count = recipe.tokens_per_step // length
    starts = torch.randint(0, len(ids) - length, (count,), generator=generator)
    return torch.stack([ids[start : start + length] for start in starts.tolist()])


def next_token_loss(logits: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """Return the mean nats per token of predicting each token of `batch` [B, T] from the tokens before it."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())


def load_balancing_loss(config: MixtralConfig, router_logits: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return the mean over layers of the Switch Transformer's loss; `num_experts_per_tok` at even usage."""
    losses = [
        load_balancing_loss_func((logits,), config.num_local_experts, config.num_experts_per_tok)
        for logits in router_logits
    ]
    return torch.stack(losses).mean()


def train(model: MixtralForCausalLM, ids: torch.Tensor, recipe: Recipe, checkpoint: Callable[[], None]) -> None:
    """Run the recipe and print the loss; `checkpoint` is called from time to time."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    kept = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": kept, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        fused=True,
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    started = time.perf_counter()
    average = None
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        batch = sample_batch(ids, recipe, recipe.sequence_length(step), generator)
        output = model(input_ids=batch, output_router_logits=True)
        nats = next_token_loss(output.logits, batch)
        balance = load_balancing_loss(model.config, output.router_logits)
        (nats + recipe.load_balancing * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average = nats.item() if average is None else 0.98 * average + 0.02 * nats.item()
        if step % 25 == 0 or step == recipe.steps - 1:
            rate = (step + 1) * recipe.tokens_per_step / (time.perf_counter() - started)
            print(f"step {step:5d}/{recipe.steps}  nats/token {average:.3f}  balance {balance.item():.3f}"
                  f"  {rate:,.0f} tokens/s", flush=True)  # fmt: skip
        if step % 250 == 249:
            checkpoint()


def save(model: MixtralForCausalLM, tokenizer: Tokenizer, corpus: Corpus, recipe: Recipe, folder: pathlib.Path) -> None:
    """Write the float32 weights, the tokenizer and their provenance."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    provenance = {
        "corpus": "source of the Python standard library, without tests and lookup tables",
        "python": platform.python_version(),
        "files": len(corpus.training) + len(corpus.held_out),
        "files_held_out": len(corpus.held_out),
        "corpus_megabytes": round(corpus.megabytes, 2),
        "corpus_sha256": corpus.sha256,
        "recipe": asdict(recipe),
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--expect-sha256", help="stop if the corpus is not this one")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    recipe = Recipe()
    corpus = read_corpus(seed=recipe.seed)
    print(f"{len(corpus.training)} files to learn from, {len(corpus.held_out)} held out, {corpus.megabytes:.1f} MB, "
          f"sha256 {corpus.sha256}", flush=True)  # fmt: skip
    if arguments.expect_sha256 not in (None, corpus.sha256):
        raise SystemExit(f"the corpus differs from the pinned one ({arguments.expect_sha256}): run the pinned Python")

    torch.manual_seed(recipe.seed)
    tokenizer = train_tokenizer(corpus.training)
    ids = encode(tokenizer, corpus.training)
    model = MixtralForCausalLM(configuration(tokenizer.get_vocab_size(), recipe.load_balancing))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{len(ids) / 1e6:.2f} M tokens, {parameters / 1e6:.2f} M parameters", flush=True)

    def checkpoint() -> None:
        save(model, tokenizer, corpus, recipe, arguments.output)

    train(model, ids, recipe, checkpoint)
    checkpoint()


if __name__ == "__main__":
    main()
