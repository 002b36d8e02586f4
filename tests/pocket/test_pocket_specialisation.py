"""The evaluation's test for specialisation, on answers known beforehand."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest

from models.pocket.specialisation import prose_characters, prose_tokens, relabelled, run_starts, specialisation

SOURCE = textwrap.dedent('''\
    # naïve comment
    """Module
    docstring."""
    x = "value"  # trailing
    def f():
        """Docstring."""
        return """no docstring"""
''')


def test_comments_and_docstrings_are_prose_and_values_are_not() -> None:
    marked = "".join(np.where(prose_characters(SOURCE), list(SOURCE), "\n"))
    assert [piece for piece in marked.split("\n") if piece] == [
        "# naïve comment",
        '"""Module',
        'docstring."""',
        "# trailing",
        '"""Docstring."""',
    ]


def test_a_token_belongs_where_most_of_its_characters_do() -> None:
    source = "a = 1 # b\n"
    assert prose_tokens(source, [(0, 5), (5, 7), (4, 7), (5, 9), (9, 10)]).tolist() == [
        False,
        False,
        False,
        True,
        False,
    ]


def test_runs_end_with_the_label_or_the_file() -> None:
    labels = np.array([True, True, False, False, False, True])
    files = np.array([0, 0, 0, 1, 1, 1])
    assert run_starts(labels, files).tolist() == [0, 2, 3, 5]


def test_relabelling_keeps_the_labels_of_each_file() -> None:
    prose = np.array([True, False, True, False, False, False, True])
    files = np.array([0, 0, 0, 0, 1, 1, 1])
    rng = np.random.default_rng(0)
    drawn = np.stack([relabelled(prose, files, rng) for _ in range(50)])
    assert set(drawn[:, :4].sum(1)) == {2}
    assert set(drawn[:, 4:].sum(1)) == {1}
    assert drawn.any(0).all()


@pytest.fixture
def runs() -> tuple[np.ndarray, np.ndarray]:
    """Labels [T] alternating every 20 tokens, in files [T] of 400."""
    return np.arange(8000) // 20 % 2 == 0, np.arange(8000) // 400


def test_disjoint_experts_are_at_distance_one(runs: tuple[np.ndarray, np.ndarray]) -> None:
    prose, files = runs
    experts = np.where(prose[:, None], [0, 1], [2, 3])[:, None]
    found = specialisation(experts, prose, files, permutations=200, seed=1)
    np.testing.assert_allclose(found.distance, [1.0])
    np.testing.assert_allclose(found.p, [1 / 201])
    assert (found.prose_tokens, found.code_tokens, found.runs) == (4000, 4000, 400)


def test_runs_that_differ_for_no_reason_are_not_called_specialised(runs: tuple[np.ndarray, np.ndarray]) -> None:
    """Each run uses one pair of experts, so single tokens permuted would call any labelling significant."""
    prose, files = runs
    rng = np.random.default_rng(2)
    pairs = rng.integers(0, 4, (100, 400))
    experts = 2 * np.repeat(pairs, 20, axis=1).T[:, :, None] + [0, 1]
    found = specialisation(experts, prose, files, permutations=200, seed=1)
    assert found.p.shape == (100,)
    assert 0.3 < np.mean(found.p <= 0.5) < 0.7
    assert np.mean(found.p <= 0.05) <= 0.12
