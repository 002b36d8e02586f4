"""Worker that scores windows with a planted damage per expert, and no model."""

from __future__ import annotations

import numpy as np

from moe_watch.backends.protocol import Ready
from moe_watch.backends.scoring_messages import Scored, Tokenized, UsageSums
from moe_watch.routing.header import BackendInfo, ModelInfo

LAYERS, EXPERTS = [1, 3], 6
MODEL = ModelInfo(
    name="scripted", architecture="test", layers=LAYERS, experts=EXPERTS, experts_per_token=2, gate="softmax_top_k"
)
BACKEND = BackendInfo(name="test", version="1", device="CPU", tap="scripted")
UNUSED = (3, 5)
"""Expert that no token selects, and that is therefore not evaluated."""


def planted(layer: int, expert: int) -> float:
    """Return the mean damage of an expert, in nats."""
    return 0.0 if (layer, expert) == UNUSED else 0.02 * (expert + 1) * (2 if layer == 1 else 1)


class ScriptedScoring:
    """The part of `KeptWorker` that an ablation uses.

    Args:
        stop_after: number of answers after which the user interrupts; None for never.
    """

    def __init__(self, stop_after: int | None = None, model: ModelInfo = MODEL) -> None:
        self.ready = Ready(model=model, backend=BACKEND, template=None, capture=[])
        self.left = stop_after
        self.commands = []

    def tokenize(self, texts):
        return Tokenized(ids=[[7, *map(ord, text)] for text in texts], begin=7)

    def check_session(self, tokens):
        return Tokenized(ids=[[token for piece in tokens for token in piece.ids]], begin=None)

    def score(self, command):
        self.commands.append(command)
        whole = np.random.default_rng(command.ids).exponential(size=len(command.ids) - 1)
        yield self._answer(
            Scored(mask=-1, surprisal=whole.tobytes(), usage=self._usage(command) if command.usage else None)
        )
        for at, [(layer, [expert])] in enumerate(command.masks):
            if (layer, expert) == UNUSED:
                yield self._answer(Scored(mask=at, unused=True))
                continue
            random = np.random.default_rng([layer, expert, *command.ids])
            delta = planted(layer, expert) + 0.05 * random.standard_normal(len(whole))
            kl = planted(layer, expert) + 0.01 * random.random(len(whole))
            yield self._answer(Scored(mask=at, surprisal=(whole + delta).tobytes(), divergence=kl.tobytes()))

    def _answer(self, scored: Scored) -> Scored:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return scored

    def _usage(self, command) -> UsageSums:
        """Count: the reverse of the damage within layers. Saliency: its order."""
        rows = len(command.ids)
        counts = [[0 if (layer, e) == UNUSED else rows - 3 * e for e in range(EXPERTS)] for layer in LAYERS]
        return UsageSums(
            rows=[rows] * len(LAYERS),
            counts=counts,
            weights=[[0.5 * each for each in layer] for layer in counts],
            norms=[[each * (1.0 + 0.5 * e) for e, each in enumerate(layer)] for layer in counts]
            if command.saliency
            else None,
            entropy=None,
        )


class Silence:
    """Watcher that keeps its calls. A `moe_watch.sessions.experts.ablation.AblationWatcher`."""

    def __init__(self) -> None:
        self.seen = []

    def counted(self, windows, total):
        self.seen.append(("counted", windows, total))

    def planned(self, evaluations, measured):
        self.seen.append(("planned", evaluations, measured))

    def begun(self):
        self.seen.append(("begun",))

    def evaluated(self):
        self.seen.append(("evaluated",))
