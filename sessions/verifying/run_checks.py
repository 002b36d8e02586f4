"""What must hold over a whole run: marks that a tap, a cache or a recorder leaves when it is broken.

Published tools have reported such numbers without a sign that anything was wrong with them.
"""

from __future__ import annotations

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
"""Of a layer, before its usage is judged."""
FEWEST_PAIRS = 32
"""Tokens with the id of an earlier one, before it is judged whether routing depends on anything else."""
MOST_IDS = 1 << 18
"""Different ids that are remembered; the largest vocabularies have about as many."""
CHANCE = 1e-9
"""How rarely chance may make a layer's counts so even that they are said to be too even."""


class RoutingChecks:
    """Fed a run's tokens in batches, finds what cannot be.

    Args:
        header: of the run.
        findings: where to note it.
    """

    def __init__(self, header: Header, findings: IssueCollector) -> None:
        self._header = header
        self._findings = findings
        layers, experts = len(header.model.layers), header.model.experts
        self._usage = UsageCounts(layers, experts)
        self._layout = RowLayout.of(header.model)
        self._first: Ints = np.full((layers, self._layout.width), ABSENT, np.int64)
        """[L, K] sorted ids of the first set in each layer, `ABSENT` before those of layers that select fewer."""
        self._constant: Flags = np.ones(layers, np.bool_)
        self._decoded: Ints = np.zeros(layers, np.int64)
        """[L] rows of decode tokens."""
        self._tokens = 0
        self._rare_faults = {name: np.zeros(layers, np.int64) for name in MOST_ROWS}
        self._seen: dict[int, int] = {}
        """Token ids, and a hash of the routing of the last token that had it."""
        self._pairs = self._equal_pairs = 0

    def see(self, found: TokenArrays, lines: list[int], tapped: list[bool | None]) -> None:
        """Take in successive tokens, with their lines and whether the tap was on, None where that is not known."""
        self._tokens += len(found)
        self._check_predictions(found, lines)
        self._check_repeats(found, lines)
        if self._header.model.layers:
            self._check_tap(found, lines, tapped)
            self._check_rows(found, lines)
            self._count(found)
            self._compare_same_ids(found)

    def finish(self) -> None:
        """Judge the run as a whole."""
        for name, faults in self._rare_faults.items():
            for at in np.flatnonzero(faults > np.maximum(self._usage.rows, 1) / 2).tolist():
                rows = self._usage.rows[at]
                self._in_layer(name, at, f"they contradict each other in {faults[at]} of {rows} rows")
        self._judge_layers()
        if self._pairs >= FEWEST_PAIRS and self._pairs == self._equal_pairs:
            self._findings.add(
                "context", f"all {self._pairs} tokens with an id seen before are routed as then: the context is lost"
            )

    # -- token by token

    def _check_tap(self, found: TokenArrays, lines: list[int], tapped: list[bool | None]) -> None:
        for t, routed in enumerate((found.experts != ABSENT).any((1, 2))):
            if routed and tapped[t] is False:
                self._findings.add("tap", f"token {found.i[t]} has routing, and the tap was off", lines[t])
            elif not routed and tapped[t] is True:
                self._findings.add("tap", f"token {found.i[t]} has no routing, and the tap was on", lines[t])

    def _check_repeats(self, found: TokenArrays, lines: list[int]) -> None:
        """Two tokens of one moment with the same prediction and the same routing are one token twice."""
        known = found.id[1:] != ABSENT
        same = known & (np.diff(found.t) == 0) & (np.diff(found.id) == 0) & (np.diff(found.logprob) == 0)
        for t in np.flatnonzero(same).tolist():
            if np.array_equal(_routing(found, t), _routing(found, t + 1), equal_nan=True):
                self._findings.add(
                    "repeated tokens", f"token {found.i[t + 1]} is the one before once more", lines[t + 1]
                )

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

    # -- over the run

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
            self._usage.add(experts)

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

    def _judge_layers(self) -> None:
        decoded = int(self._decoded.max(initial=0))
        for at in np.flatnonzero((self._decoded == 0) & (decoded > 0)).tolist():
            self._in_layer("missing layers", at, f"no decode token of {decoded} has its routing")
        selects = self._layout.k < self._header.model.experts
        enough = np.flatnonzero(selects & (self._usage.rows >= FEWEST_ROWS)).tolist()
        if enough:
            self._judge_usage(enough)

    def _judge_usage(self, layers: list[int]) -> None:
        """Whether layers select always the same, or all equally often: one layer alone, or all of them a little."""
        rows, counts = self._usage.rows, self._usage.counts
        chances = {at: chance_of_evenness(counts[at], int(rows[at])) for at in layers if not self._constant[at]}
        too_even = max(chances.values(), default=1.0) ** len(chances) < CHANCE
        for at in layers:
            if self._constant[at]:
                self._in_layer("constant usage", at, f"all {rows[at]} rows select the same experts")
            elif chances[at] < CHANCE or too_even:
                text = f"every expert is selected {counts[at].min()} to {counts[at].max()} times in {rows[at]} rows"
                self._in_layer("uniform usage", at, text)

    def _in_layer(self, check: str, at: int, text: str) -> None:
        self._findings.add(check, f"layer {self._header.model.layers[at]}: {text}")


def chance_of_evenness(counts: Ints, rows: int) -> float:
    """No less than the probability that rows of k different, equally likely experts are selected as evenly as this.

    Args:
        counts: `[E]`, summing to rows × k with k < E.
        rows: how many.

    The statistic is χ² with E − 1 degrees of freedom; its distribution is bounded from above, near 0 closely, and half
    a step of the counts is added because they are whole.
    """
    experts = len(counts)
    share = counts.sum() / rows / experts
    spread = rows * share * (1 - share) * experts / (experts - 1)
    statistic = (float(((counts - rows * share) ** 2).sum()) + experts / 4) / spread
    half = (experts - 1) / 2
    return min(1.0, exp(half * log(statistic / 2) - lgamma(half + 1)))


def _routing(found: TokenArrays, t: int) -> Floats:
    """Everything observed of one token."""
    return np.concatenate([each[t].ravel() for each in (found.experts, found.weights, found.entropy, found.margin)])
