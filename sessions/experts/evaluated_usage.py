"""Usage of a model's experts over the texts of corpora, which are evaluated without generating."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from moe_watch.backends.model_files.catalog import locate
from moe_watch.backends.model_files.preflight import hidden_layers
from moe_watch.backends.protocol import Load, Ready
from moe_watch.backends.scoring_messages import Score, UsageSums
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Progress
from moe_watch.routing.experts.stability import SumsByBlock
from moe_watch.routing.experts.sums import ExpertSums, total
from moe_watch.routing.pressure.missing_signals import DENSE
from moe_watch.sessions.experts.usage_groups import Block, ObservedModel, ObservedUsage, UsageGroup, blocks_of_group
from moe_watch.sessions.live.shared_worker import KeptWorker
from moe_watch.sessions.scoring.corpus import Corpus
from moe_watch.sessions.scoring.windows import FEWEST_TOKENS, chosen_window, windows

TOGETHER = 32
"""Texts of one request to the tokenizer."""
TIMED = 2
"""Windows from whose time the estimate follows; one more comes before them, since the first one is slow."""
ENOUGH_EXAMPLES = 20
"""Number of texts of a group from which on a text is a block. Windows of one text resemble each other."""
MOST_GROUPS = 64
NO_DOMAIN = "without domain"
NO_GATE_KNOWN = "the gate of this model is unknown"
NOT_ASKED = "not measured: give --saliency"


class EvaluationWatcher(Protocol):
    """Observer of the evaluation's progress."""

    def loading(self, progress: Progress) -> None:
        """Report the loading of the model; on any thread."""

    def loaded(self) -> None:
        """Report that the model is loaded."""

    def estimated(self, seconds: float, tokens: int, number_of_windows: int) -> None:
        """Report the time of the windows that are left, once."""

    def evaluated(self, tokens: int, total: int) -> None:
        """Report the number of evaluated tokens."""


@dataclass(frozen=True, slots=True)
class _CutText:
    """Windows of one text."""

    group: str
    windows: list[list[int]]


@dataclass(slots=True)
class _Collected:
    """Sums of one group, while texts are evaluated."""

    blocks: SumsByBlock
    examples: int = 0
    tokens: int = 0
    open: list[ExpertSums] = field(default_factory=list)
    """Windows of the present text, if a text is a block."""


def evaluate_corpora(
    load: Load,
    corpora: Sequence[Corpus],
    watcher: EvaluationWatcher,
    *,
    window: int | None = None,
    saliency: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> ObservedUsage:
    """Evaluate all texts in windows, and return the usage of the experts. Every row of every layer is observed.

    Args:
        load: loads the model.
        corpora: the texts.
        watcher: observer of the progress.
        window: tokens of a window; None chooses `WINDOW`, or the length that the model was trained on.
        saliency: measure the norms of the experts' outputs too.
        clock: clock in seconds.

    Raises:
        UserError: the model cannot be used or is dense, or the texts cannot be tokenized.
        KeyboardInterrupt: interrupted.
    """
    names = _group_names(corpora)
    if len(set(names)) > MOST_GROUPS:
        advice = f"use at most {MOST_GROUPS}, or leave out the field 'domain'"
        raise UserError(f"the texts have {len(set(names))} domains", advice=advice)
    with KeptWorker(load, watcher.loading) as worker:
        model = worker.ready.model
        if model.is_dense:
            raise UserError(f"{model.name}: {DENSE}", advice="give an MoE model")
        watcher.loaded()
        length = chosen_window(window, model.trained_length, model.context_length)
        texts = _cut(worker, corpora, names, length)
        if not any(text.windows for text in texts):
            what = f"no text of {', '.join(each.name for each in corpora)} has {FEWEST_TOKENS} tokens"
            raise UserError(what, advice="give longer texts")
        collected = _Evaluation(worker, texts, watcher, clock, length=length, saliency=saliency)
        groups = collected.run()
    return ObservedUsage(
        model=ObservedModel.of(model, worker.ready.backend.name, hidden_layers(locate(load.model, load.backend))),
        corpus=", ".join(each.name for each in corpora),
        groups=groups,
        block=collected.block,
        warnings=[*_engine_warnings(worker.ready), *collected.warnings],
        absent=collected.absent,
        window=max(len(each) for text in texts for each in text.windows),
        corpus_sha256=[each.sha256 for each in corpora],
    )


def _engine_warnings(ready: Ready) -> list[str]:
    """Return the warnings of the engine that may change the routing."""
    return [each for each in ready.warnings if each not in ready.format_warnings]


def _group_names(corpora: Sequence[Corpus]) -> list[str]:
    """Return the group of each example, all corpora in order."""
    found = []
    for corpus in corpora:
        for example in corpus.examples:
            domain = example.domain or (NO_DOMAIN if corpus.domains else "")
            several = len(corpora) > 1
            found.append(f"{corpus.name}: {domain}" if several and domain else domain or corpus.name)
    return found


def _cut(worker: KeptWorker, corpora: Sequence[Corpus], names: Sequence[str], length: int) -> list[_CutText]:
    """Return the windows of all texts, in order."""
    texts = [example.text for corpus in corpora for example in corpus.examples]
    found: list[_CutText] = []
    for at in range(0, len(texts), TOGETHER):
        answer = worker.tokenize(texts[at : at + TOGETHER])
        for name, ids in zip(names[at : at + TOGETHER], answer.ids, strict=True):
            found.append(_CutText(name, windows(ids, length, answer.begin)))
    return found


class _Evaluation:
    """Evaluation of the windows of all texts with a loaded model."""

    def __init__(
        self,
        worker: KeptWorker,
        texts: Sequence[_CutText],
        watcher: EvaluationWatcher,
        clock: Callable[[], float],
        *,
        length: int,
        saliency: bool,
    ) -> None:
        self._worker = worker
        self._model = worker.ready.model
        self._texts = texts
        self._watcher = watcher
        self._clock = clock
        self._length = length
        self._saliency = saliency
        names = list(dict.fromkeys(text.group for text in texts if text.windows))
        most = blocks_of_group(len(self._model.layers), self._model.experts, len(names))
        self._groups = {name: _Collected(SumsByBlock(most)) for name in names}
        examples = [sum(text.group == name and bool(text.windows) for text in texts) for name in names]
        self.block: Block = "example" if min(examples) >= ENOUGH_EXAMPLES else "window"
        self.absent = {} if saliency else {"saliency": NOT_ASKED, "saliency_mass": NOT_ASKED}

    @property
    def warnings(self) -> list[str]:
        """Warnings about the texts, one line each."""
        short = sum(not text.windows for text in self._texts)
        return [f"{short:,} of {len(self._texts):,} texts have fewer than {FEWEST_TOKENS} tokens: left out"] * (
            short > 0
        )

    def run(self) -> list[UsageGroup]:
        """Evaluate all windows and return their usage by group."""
        for group, sums, is_last in self._evaluated():
            self._note_absent(sums)
            group.tokens += int(sums.rows[0])
            group.open.append(sums)
            if is_last or self.block == "window":
                group.blocks.add(total(group.open))
                group.open.clear()
            group.examples += is_last
        return [
            UsageGroup(name, each.examples, each.tokens, each.blocks.blocks()) for name, each in self._groups.items()
        ]

    def _evaluated(self) -> Iterator[tuple[_Collected, ExpertSums, bool]]:
        """Yield the sums of each window with its group, and whether it is the last one of its text."""
        lengths = [len(ids) for text in self._texts for ids in text.windows]
        tokens = sum(lengths)
        number, done, began, begun_at = 0, 0, 0.0, 0
        for text in self._texts:
            for at, ids in enumerate(text.windows, 1):
                yield self._groups[text.group], self._evaluate(ids), at == len(text.windows)
                number, done = number + 1, done + len(ids)
                if number == 1:
                    began, begun_at = self._clock(), done
                elif number == 1 + TIMED and done < tokens:
                    rate = (self._clock() - began) / (done - begun_at)
                    self._watcher.estimated(
                        rate * (tokens - done), tokens, sum(len(each.windows) for each in self._texts)
                    )
                self._watcher.evaluated(done, tokens)

    def _evaluate(self, ids: list[int]) -> ExpertSums:
        command = Score(ids=ids, window=self._length, surprisal=False, usage=True, saliency=self._saliency)
        usage = next(each for each in list(self._worker.score(command))).usage
        if usage is None:
            raise UserError("the engine returned no usage", advice="please report this")
        return checked_sums(usage, len(ids), self._model.layers, self._model.k_by_layer)

    def _note_absent(self, sums: ExpertSums) -> None:
        if sums.weights is None:
            self.absent["weight_mass"] = NO_GATE_KNOWN
        if sums.entropy is None:
            self.absent["router_entropy"] = NO_GATE_KNOWN


def checked_sums(usage: UsageSums, tokens: int, layers: Sequence[int], k: Sequence[int]) -> ExpertSums:
    """Return the sums of a window, after a check that they are whole.

    Args:
        usage: the engine's sums.
        tokens: number of tokens in the window.
        layers: model layer index of each MoE layer.
        k: experts per token of each MoE layer.

    Raises:
        UserError: a layer was not observed for every token, or its counts are not tokens × k.
    """
    counts = np.array(usage.counts, np.int64)
    for layer, rows, selected, chosen in zip(layers, usage.rows, counts.sum(1).tolist(), k, strict=True):
        if rows != tokens or selected != rows * chosen:
            what = f"layer {layer} has {selected} selections in {rows} rows of {tokens} tokens, top-{chosen}"
            raise UserError(f"the engine's counts are not whole: {what}", advice="please report this")
    return ExpertSums(
        np.array(usage.rows, np.int64),
        counts,
        None if usage.weights is None else np.array(usage.weights),
        None if usage.norms is None else np.array(usage.norms),
        None if usage.entropy is None else np.array(usage.entropy),
    )
