"""Test of expert specialization: usage on code against usage on comments and docstrings, with a permutation test.

A text is cut into runs: stretches of tokens of one kind. Tokens of a run resemble each other whatever the
kinds mean, so the null keeps runs whole: it hands the labels of a file's runs to that file's runs in random
order. A distance is only worth reporting against what such relabelled runs give.
"""

from __future__ import annotations

import io
import tokenize
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moe_watch.routing.usage.counts import jensen_shannon_distance, shares

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BETWEEN_STATEMENTS = frozenset({tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING})
NOT_STATEMENTS = frozenset({tokenize.NL, tokenize.COMMENT})


@dataclass(frozen=True, eq=False)
class Specialisation:
    """Jensen–Shannon distance between usage on prose and on code, per layer `[L]`, and its null distribution."""

    distance: Floats
    null_median: Floats
    null_95: Floats
    """95th percentile of the permutations."""
    p: Floats
    """(1 + permutations with at least this distance) / (1 + permutations)."""
    permutations: int
    prose_tokens: int
    code_tokens: int
    runs: int


def prose_characters(source: str) -> Bools:
    """Mark the characters of `source` in a comment, or in a string that is a statement."""
    starts = np.cumsum([0, *(len(line) for line in io.StringIO(source))])
    prose = np.zeros(len(source), bool)
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    at_start = True
    for token, after in zip(tokens, [*tokens[1:], None], strict=True):
        docstring = token.type == tokenize.STRING and at_start and after and after.type == tokenize.NEWLINE
        if token.type == tokenize.COMMENT or docstring:
            (first_row, first), (last_row, last) = token.start, token.end
            prose[starts[first_row - 1] + first : starts[last_row - 1] + last] = True
        if token.type not in NOT_STATEMENTS:
            at_start = token.type in BETWEEN_STATEMENTS
    return prose


def prose_tokens(source: str, offsets: list[tuple[int, int]]) -> Bools:
    """Mark the tokens, given as (first, end) characters, that are mostly comment or docstring."""
    before = np.concatenate([[0], np.cumsum(prose_characters(source))])
    spans = np.array(offsets, np.int64).reshape(-1, 2)
    inside = before[spans[:, 1]] - before[spans[:, 0]]
    return np.asarray(2 * inside > spans[:, 1] - spans[:, 0])


def run_starts(labels: npt.NDArray[np.generic], files: Ints) -> Ints:
    """Return the indices at which the label or the file changes, and the first index."""
    changed = (labels[1:] != labels[:-1]) | (files[1:] != files[:-1])
    return np.concatenate([[0], np.flatnonzero(changed) + 1])


def usage_distance(counts: Ints, prose: Bools) -> Floats:
    """Return the distance per layer between usage on prose and on code, for each row of `prose`; counts `[R, L, E]`."""
    on_prose = np.tensordot(prose.astype(np.int64), counts, axes=1)
    return jensen_shannon_distance(shares(on_prose), shares(counts.sum(0) - on_prose))


def relabelled(prose: Bools, files: Ints, rng: np.random.Generator) -> Bools:
    """Return the labels in random order within each file."""
    order = np.lexsort((rng.random(len(prose)), files))
    result = np.empty_like(prose)
    result[np.argsort(files, kind="stable")] = prose[order]
    return result


def specialisation(experts: Ints, prose: Bools, files: Ints, *, permutations: int, seed: int) -> Specialisation:
    """Test each layer.

    Args:
        experts: `[T, L, k]` selected for each token.
        prose: `[T]` whether the token is comment or docstring.
        files: `[T]` the file the token is from.
        permutations: how many relabellings make the null.
        seed: of the relabelling.
    """
    one_hot = (experts[..., None] == np.arange(experts.max() + 1)).sum(2)
    starts = run_starts(prose, files)
    counts = np.add.reduceat(one_hot, starts, axis=0)
    rng = np.random.default_rng(seed)
    null = np.stack([relabelled(prose[starts], files[starts], rng) for _ in range(permutations)])
    distance, distances = usage_distance(counts, prose[starts]), usage_distance(counts, null)
    return Specialisation(
        distance,
        np.median(distances, axis=0),
        np.quantile(distances, 0.95, axis=0),
        (1 + (distances >= distance).sum(0)) / (1 + permutations),
        permutations,
        int(prose.sum()),
        int((~prose).sum()),
        len(starts),
    )
