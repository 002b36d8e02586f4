"""Scoring of windows of given tokens with a loaded model, whole and with masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from moe_watch.backends.engine import Engine, Floats, Scorer
from moe_watch.backends.scoring.predictions import Predictions
from moe_watch.backends.scoring.usage_sums import UsageSum
from moe_watch.backends.scoring.window_predictions import WindowPredictions
from moe_watch.backends.scoring_messages import Conversation, Score, Scored, Tokenize, Tokenized, UsageSums
from moe_watch.routing.errors import UserError
from moe_watch.routing.router.masks import ExpertMask, unused_has_no_effect

WHOLE = -1
"""`Scored.mask` of the first evaluation."""
AS_TEXT = 'give them as plain texts, {"text": …}'


class WindowScoring:
    """Scorer of an engine, kept while windows have the same length.

    Args:
        engine: a loaded model.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._scorer: Scorer | None = None
        self._made_for: tuple[int, bool, bool] | None = None

    def tokenize(self, command: Tokenize) -> Tokenized:
        """Tokenize texts with the tokens that begin a text, and conversations as the chat template formats them.

        Raises:
            UserError: there is a conversation, and the model has no chat template, or it fails.
        """
        rendered = iter(self._rendered([text for text in command.texts if not isinstance(text, str)]))
        ids = [
            self._engine.codec.encode(text, first=True, plain=command.plain)
            if isinstance(text, str)
            else self._engine.encode(next(rendered), turn=False, first=False)
            for text in command.texts
        ]
        return Tokenized(ids=ids, begin=self._engine.codec.begin)

    def _rendered(self, conversations: Sequence[Conversation]) -> list[str]:
        if not conversations:
            return []
        if not self._engine.has_chat_template:
            what = f"{self._engine.model.name} has no chat template, and the texts have conversations"
            raise UserError(what, advice=AS_TEXT)
        try:
            return self._engine.codec.render(conversations)
        except UserError as error:
            raise UserError(error.what, advice=AS_TEXT) from error

    def score(self, command: Score) -> Iterator[Scored]:
        """Evaluate a window, once whole and once with each mask.

        Raises:
            UserError: the window is longer than the context, a mask is refused, or an evaluation fails.
        """
        base = ExpertMask.from_rows(command.base)
        masks = [ExpertMask.of([*base.pairs, *ExpertMask.from_rows(rows).pairs]) for rows in command.masks]
        self._check(command, [base, *masks])
        needs_usage = command.usage or bool(masks)
        scorer = self._scorer_for(command, usage=needs_usage)
        whole, usage = self._evaluate_whole(scorer, base, command, usage=needs_usage)
        yield Scored(
            mask=WHOLE,
            surprisal=_packed(whole.surprisal) if command.surprisal else b"",
            usage=usage if command.usage else None,
        )
        skips = unused_has_no_effect(self._engine.model.gate, self._engine.groups)
        for at, mask in enumerate(masks):
            if skips and usage is not None and self._is_unused(mask, base, usage):
                yield Scored(mask=at, unused=True)
            else:
                yield self._evaluate_masked(scorer, mask, at, command, whole.kept)

    def close(self) -> None:
        """Release the context of the scorer."""
        if self._scorer is not None:
            self._scorer.close()
        self._scorer = self._made_for = None

    def _check(self, command: Score, masks: Sequence[ExpertMask]) -> None:
        if not 1 <= len(command.ids) <= command.window:
            raise UserError(f"a window of {len(command.ids)} tokens does not fit into {command.window}")
        for mask in masks:
            self._engine.check_mask(mask)

    def _scorer_for(self, command: Score, *, usage: bool) -> Scorer:
        needs = command.window, usage, command.usage and command.saliency
        if self._scorer is None or self._made_for != needs:
            self.close()
            self._scorer = self._engine.scorer(needs[0], usage=needs[1], saliency=needs[2])
            self._made_for = needs
        return self._scorer

    def _evaluate_whole(
        self, scorer: Scorer, base: ExpertMask, command: Score, *, usage: bool
    ) -> tuple[WindowPredictions, UsageSums | None]:
        """Return the predictions of the first evaluation, and the sums of its routing, where needed."""
        total = UsageSum(self._engine.model, saliency=command.usage and command.saliency) if usage else None
        predictions = WindowPredictions(np.asarray(command.ids, np.int64), keeps=bool(command.masks))
        scorer.mask(base)
        scorer.observe(usage)
        for batch in scorer.evaluate(command.ids):
            if command.surprisal:
                predictions.add(batch.logits)
            elif np.isnan(batch.logits[:, 0]).any():  # a router or a layer that outputs NaN reaches every logit
                raise self._no_numbers("NaN")
            if total is not None:
                total.add(batch)
        self._require_numbers(predictions, command)
        return predictions, None if total is None else total.result()

    def _evaluate_masked(
        self, scorer: Scorer, mask: ExpertMask, at: int, command: Score, whole: Predictions | None
    ) -> Scored:
        """Return the evaluation with a mask; only its predictions are read."""
        predictions = WindowPredictions(np.asarray(command.ids, np.int64), reference=whole)
        scorer.mask(mask)
        scorer.observe(False)
        for batch in scorer.evaluate(command.ids):
            if command.surprisal:
                predictions.add(batch.logits)
        self._require_numbers(predictions, command)
        if not command.surprisal:
            return Scored(mask=at)
        return Scored(mask=at, surprisal=_packed(predictions.surprisal), divergence=_packed(predictions.divergence))

    def _require_numbers(self, predictions: WindowPredictions, command: Score) -> None:
        """Refuse predictions that are not numbers.

        Raises:
            UserError: a surprisal is NaN or infinite.
        """
        if command.surprisal and (wrong := np.flatnonzero(~np.isfinite(predictions.surprisal))).size:
            kind = "NaN" if np.isnan(predictions.surprisal[wrong[0]]) else "a probability of 0"
            raise self._no_numbers(f"{kind} after token {wrong[0]} of the window")

    def _no_numbers(self, what: str) -> UserError:
        return UserError(
            f"{self._engine.model.name} outputs {what}: damaged weights, or an overflow in their precision",
            advice="try another file of the model, or another precision",
        )

    def _is_unused(self, mask: ExpertMask, base: ExpertMask, usage: UsageSums) -> bool:
        """Return whether no token of the window selects an expert that the mask adds."""
        position = {layer: at for at, layer in enumerate(self._engine.model.layers)}
        added = set(mask.pairs) - set(base.pairs)
        return all(usage.counts[position[layer]][expert] == 0 for layer, expert in added)


def _packed(values: Floats) -> bytes:
    return values.astype("<f8").tobytes()
