"""Usage with known sums, and a worker that evaluates windows by arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from moe_watch.backends.protocol import Load
from moe_watch.backends.scoring_messages import Conversation, Score, Scored, Tokenized, UsageSums
from moe_watch.routing.events import BackendInfo, ModelInfo
from moe_watch.routing.experts.sums import ExpertSums
from moe_watch.sessions.experts.usage_groups import ObservedModel, ObservedUsage, UsageGroup

LAYERS, EXPERTS, K = [1, 3], 4, 2
MODEL = ObservedModel(
    name="made",
    layers=LAYERS,
    experts=EXPERTS,
    k=[K, K],
    gate="top_k_softmax",
    fingerprint="f" * 64,
    engine="script",
    hidden_layers=5,
)
COUNTS = np.array([[5, 3, 2, 0], [0, 4, 4, 2]], np.int64)
"""Selections of five tokens."""


def block(times: int = 1) -> ExpertSums:
    """Return the sums of `times` × 5 tokens; the last expert's outputs are the largest."""
    counts = COUNTS * times
    weights = counts * 0.5
    return ExpertSums(
        np.array([5, 5]) * times, counts, weights, weights * np.arange(1.0, 5.0), np.array([2.0, 4.0]) * times
    )


def usage(*groups: Sequence[ExpertSums], **changes: Any) -> ObservedUsage:
    """Return usage in groups of blocks; by default one group of ten."""
    blocks = groups or ([block()] * 10,)
    made = [
        UsageGroup(f"group {number}", len(each), int(sum(part.rows[0] for part in each)), list(each))
        for number, each in enumerate(blocks)
    ]
    return replace(ObservedUsage(MODEL, "corpus.jsonl", made, "window", window=5), **changes)


@dataclass
class ArithmeticWorker:
    """Worker whose token ids are the bytes of a text after a beginning token, and whose router is arithmetic.

    A token selects the experts `id % 4` and `(id + 1) % 4` in every layer, with weights 0.75 and 0.25.
    """

    load: Load
    on_progress: Any
    begin: int | None = 1
    k: int = K
    lacks: frozenset[str] = frozenset()
    dense: bool = False
    fails_at: int | None = None
    scored: list[list[int]] | None = None
    closed: bool = False

    def __enter__(self) -> ArithmeticWorker:
        self.scored = []
        model = ModelInfo(
            name="made",
            architecture="made",
            layers=[] if self.dense else LAYERS,
            experts=0 if self.dense else EXPERTS,
            experts_per_token=0 if self.dense else K,
            gate="none" if self.dense else "top_k_softmax",
            context_length=64,
            trained_length=32,
            fingerprint="f" * 64,
        )
        backend = BackendInfo(name="script", version="1", device="none", tap="none")
        self.ready = SimpleNamespace(
            model=model,
            backend=backend,
            warnings=["a setting is ignored", "no template"],
            format_warnings=["no template"],
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def tokenize(self, texts: Sequence[str | Conversation]) -> Tokenized:
        front = [] if self.begin is None else [self.begin]
        said = [text if isinstance(text, str) else "".join(each["content"] for each in text) for text in texts]
        return Tokenized(ids=[front + list(text.encode()) for text in said], begin=self.begin)

    def score(self, command: Score) -> Iterator[Scored]:
        assert self.scored is not None
        assert command.usage
        assert not command.surprisal
        if len(self.scored) == self.fails_at:
            raise KeyboardInterrupt
        self.scored.append(command.ids)
        counts, weights = np.zeros(EXPERTS), np.zeros(EXPERTS)
        for token in command.ids:
            for place, weight in zip(range(self.k), (0.75, 0.25), strict=False):
                counts[(token + place) % EXPERTS] += 1
                weights[(token + place) % EXPERTS] += weight
        both = [weights.tolist()] * len(LAYERS)
        usage = UsageSums(
            rows=[len(command.ids)] * len(LAYERS),
            counts=[counts.astype(int).tolist()] * len(LAYERS),
            weights=None if "weights" in self.lacks else both,
            norms=[(weights * 8).tolist()] * len(LAYERS) if command.saliency else None,
            entropy=None if "entropy" in self.lacks else [0.5 * len(command.ids)] * len(LAYERS),
        )
        yield Scored(mask=-1, usage=usage)
