"""Checks over a whole run for the traces of a broken tap, cache or recorder.

Published tools have reported such numbers without any warning.
"""

from __future__ import annotations

from collections.abc import Collection
from math import exp, lgamma, log

import numpy as np

from moe_watch.routing.arrays import ABSENT, Flags, Floats, Ints
from moe_watch.routing.events import Header
from moe_watch.routing.row_layout import RowLayout
from moe_watch.routing.usage.counts import UsageCounts
from moe_watch.sessions.reading.token_arrays import TokenArrays
from moe_watch.sessions.verifying.issues import IssueCollector
from moe_watch.sessions.verifying.prediction_checks import prediction_faults
from moe_watch.sessions.verifying.row_checks import EVERY_ROW, MOST_ROWS

FEWEST_ROWS = 64
"""Minimum rows of a layer for a check of its usage."""
FEWEST_PAIRS = 32
"""Minimum number of tokens with the id of an earlier token for the check that routing depends on context."""
MOST_IDS = 1 << 18
"""Maximum number of token ids that are stored, about the size of the largest vocabularies."""
CHANCE = 1e-9
"""p-value below which a layer's usage is reported as too even."""


class RoutingChecks:
    """Checks of a run's tokens, in batches.

    Args:
        header: header of the run.
        findings: collector of the faults.
    """

    def __init__(self, header: Header, findings: IssueCollector) -> None:
        self._header = header
        self._findings = findings
        layers, experts = len(header.model.layers), header.model.experts
        self._usage = UsageCounts(layers, experts)
        self._layout = RowLayout.of(header.model)
        self._first: Ints = np.full((layers, self._layout.width), ABSENT, np.int64)
        """[L, K] sorted ids of the first expert set of each layer, padded with `ABSENT` in front."""
        self._constant: Flags = np.ones(layers, np.bool_)
        self._decoded: Ints = np.zeros(layers, np.int64)
        """[L] number of rows of decode tokens."""
        self._tokens = 0
        self._rare_faults = {name: np.zeros(layers, np.int64) for name in MOST_ROWS}
        self._seen: dict[int, int] = {}
        """Hash of the routing of the last token with an id, by token id."""
        self._pairs = self._equal_pairs = 0

    def feed(self, found: TokenArrays, lines: list[int], tapped: list[bool | None]) -> None:
        """Check successive tokens.

        Args:
            found: the tokens.
            lines: line of each token.
            tapped: state of the tap at each token, None if it is not known.
        """
        self._tokens += len(found)
        self._check_predictions(found, lines)
        self._check_repeats(found, lines)
        if self._header.model.layers:
            self._check_tap(found, lines, tapped)
            self._check_rows(found, lines)
            self._count(found)
            self._compare_same_ids(found)

    def finish(self, *, forced: Collection[int] = ()) -> None:
        """Check the run as a whole, after its last token.

        Args:
            forced: positions of layers in which a mask left no choice: their usage may be constant.
        """
        for name, faults in self._rare_faults.items():
            for at in np.flatnonzero(faults > np.maximum(self._usage.rows, 1) / 2).tolist():
                rows = self._usage.rows[at]
                self._in_layer(name, at, f"margin and weights contradict each other in {faults[at]} of {rows} rows")
        self._judge_layers(forced)
        if self._pairs >= FEWEST_PAIRS and self._pairs == self._equal_pairs:
            self._findings.add(
                "context",
                f"all {self._pairs} repeated token ids have the routing of their earlier token: the context is lost",
            )

    # -- per token

    def _check_tap(self, found: TokenArrays, lines: list[int], tapped: list[bool | None]) -> None:
        for t, routed in enumerate((found.experts != ABSENT).any((1, 2))):
            if routed and tapped[t] is False:
                self._findings.add("tap", f"token {found.i[t]} has routing, but the tap was off", lines[t])
            elif not routed and tapped[t] is True:
                self._findings.add("tap", f"token {found.i[t]} has no routing, but the tap was on", lines[t])

    def _check_repeats(self, found: TokenArrays, lines: list[int]) -> None:
        """Report a token with the time, id, prediction and routing of the token before it."""
        known = found.id[1:] != ABSENT
        same = known & (np.diff(found.t) == 0) & (np.diff(found.id) == 0) & (np.diff(found.prediction.logprob) == 0)
        for t in np.flatnonzero(same).tolist():
            if np.array_equal(_routing(found, t), _routing(found, t + 1), equal_nan=True):
                text = f"token {found.i[t + 1]} equals the token before it"
                self._findings.add("repeated tokens", text, lines[t + 1])

    def _check_predictions(self, found: TokenArrays, lines: list[int]) -> None:
        for name, faults in prediction_faults(found, self._header).items():
            if faults.tokens.any():
                t = int(faults.tokens.argmax())
                text = f"token {found.i[t]}: {faults.words(t)}"
                self._findings.add(name, text, lines[t], int(faults.tokens.sum()))

    def _check_rows(self, found: TokenArrays, lines: list[int]) -> None:
        for name, check in EVERY_ROW.items():
            faults = check(found, self._header)
            if faults is not None and faults.rows.any():
                t, at = (int(each[0]) for each in np.nonzero(faults.rows))
                text = f"layer {self._header.model.layers[at]}: {faults.words(t, at)}"
                self._findings.add(name, text, lines[t], int(faults.rows.any(-1).sum()))
        for name, check in MOST_ROWS.items():
            faults = check(found, self._header)
            if faults is not None:
                self._rare_faults[name] += faults.rows.sum(0)

    # -- per run

    def _count(self, found: TokenArrays) -> None:
        rows = np.sort(found.experts, -1)
        observed = found.experts[..., 0] != ABSENT
        begun = self._first[:, -1] == ABSENT
        for at in np.flatnonzero(begun & observed.any(0)):
            self._first[at] = rows[int(observed[:, at].argmax()), at]
        self._constant &= ((rows == self._first).all(-1) | ~observed).all(0)
        decode = np.array([phase == "decode" for phase in found.phase])
        self._decoded += (observed & decode[:, None]).sum(0)
        for experts in found.experts:
            self._usage.feed(experts)

    def _compare_same_ids(self, found: TokenArrays) -> None:
        known = (found.id != ABSENT) & (found.experts[..., 0] != ABSENT).all(-1) & ~np.isnan(found.entropy).any(-1)
        for t in np.flatnonzero(known).tolist():
            routing, token = hash(_routing(found, t).tobytes()), int(found.id[t])
            before = self._seen.get(token)
            if before is None and len(self._seen) >= MOST_IDS:
                continue
            self._seen[token] = routing
            if before is not None:
                self._pairs += 1
                self._equal_pairs += before == routing

    def _judge_layers(self, forced: Collection[int]) -> None:
        decoded = int(self._decoded.max(initial=0))
        for at in np.flatnonzero((self._decoded == 0) & (decoded > 0)).tolist():
            self._in_layer("missing layers", at, f"none of {decoded} decode tokens has routing in this layer")
        selects = self._layout.k < self._header.model.experts
        selects[list(forced)] = False
        enough = np.flatnonzero(selects & (self._usage.rows >= FEWEST_ROWS)).tolist()
        if enough:
            self._judge_usage(enough)

    def _judge_usage(self, layers: list[int]) -> None:
        """Report layers with constant usage, and with too even usage: in one layer, or a little in all of them."""
        rows, counts = self._usage.rows, self._usage.counts
        chances = {at: chance_of_evenness(counts[at], int(rows[at])) for at in layers if not self._constant[at]}
        too_even = max(chances.values(), default=1.0) ** len(chances) < CHANCE
        for at in layers:
            if self._constant[at]:
                self._in_layer("constant usage", at, f"all {rows[at]} rows select the same experts")
            elif chances[at] < CHANCE or too_even:
                text = f"each expert is selected {counts[at].min()} to {counts[at].max()} times in {rows[at]} rows"
                self._in_layer("uniform usage", at, text)

    def _in_layer(self, check: str, at: int, text: str) -> None:
        self._findings.add(check, f"layer {self._header.model.layers[at]}: {text}")


def chance_of_evenness(counts: Ints, rows: int) -> float:
    """Return an upper bound of the probability of usage at least this even, if all experts are equally likely.

    Args:
        counts: `[E]`, with sum rows × k and k < E.
        rows: number of rows, each of k different experts.

    The statistic is χ² with E − 1 degrees of freedom. The bound of its distribution is tight near 0; half a count is
    added as a continuity correction.
    """
    experts = len(counts)
    share = counts.sum() / rows / experts
    spread = rows * share * (1 - share) * experts / (experts - 1)
    statistic = (float(((counts - rows * share) ** 2).sum()) + experts / 4) / spread
    half = (experts - 1) / 2
    return min(1.0, exp(half * log(statistic / 2) - lgamma(half + 1)))


def _routing(found: TokenArrays, t: int) -> Floats:
    """Return all observed values of one token."""
    return np.concatenate([each[t].ravel() for each in (found.experts, found.weights, found.entropy, found.margin)])
