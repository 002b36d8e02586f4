"""Counts and weight mass of a run, against sums over its tokens."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from moe_watch.routing.events import Chunk, Token
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.state.run import RunView
from tests.tui.events import MadeUpRun, header
from tests.tui.scripted import Scripted


def summed(tokens, k=2):
    """Counts and weight mass, token by token."""
    counts, mass = np.zeros((6, 8), int), np.zeros((6, 8))
    for token in tokens:
        for at, expert in enumerate(token.experts):
            if expert is not None:
                counts[at // k, expert] += 1
                mass[at // k, expert] += 1e-4 * (token.weights[at] if token.weights else 0)
    return counts, mass


def shown(items):
    view = RunView()
    for item in items:
        view.feed(item)
    return Frame.of(view, Scripted()).view.usage


def test_all_tokens_are_counted_prompt_included():
    run = MadeUpRun()
    items = [*run.prompt(), *run.generate(700)]
    usage = shown(items)
    counts, mass = summed([item for item in items if isinstance(item, Token)])
    assert (usage.usage.counts == counts).all()
    assert np.allclose(usage.mass, mass)
    assert usage.tokens == usage.weighted == run.i


def test_layers_that_were_not_computed_are_left_out():
    run = MadeUpRun()
    items = [
        msgspec.structs.replace(item, experts=item.experts[:-2] + [None] * 2, weights=item.weights[:-2] + [None] * 2)
        if isinstance(item, Token)
        else item
        for item in [*run.prompt(), *run.generate(30)]
    ]
    usage = shown(items)
    counts, mass = summed_with_nulls(items)
    assert (usage.usage.counts == counts).all()
    assert not usage.usage.counts[5].any()
    assert np.allclose(usage.mass, mass)


def summed_with_nulls(items):
    return summed([item for item in items if isinstance(item, Token)])


def test_without_weights_there_is_no_mass():
    run = MadeUpRun(header(capture=["experts"]))
    items = [
        msgspec.structs.replace(item, weights=None) if isinstance(item, Token) else item
        for item in [*run.prompt(), *run.generate(30)]
    ]
    usage = shown(items)
    assert usage.mass is None
    assert usage.usage.counts.sum() == usage.tokens * 12


def test_layers_that_select_different_numbers():
    k = [1, 2, 2, 2, 2, 1]
    kept = [2 * layer + rank for layer in range(6) for rank in range(k[layer])]
    run = MadeUpRun()
    model = msgspec.structs.replace(run.header.model, experts_per_token=k)
    items = [msgspec.structs.replace(run.header, schema=2, model=model)]
    for item in [*run.prompt(), *run.generate(30)]:
        if isinstance(item, Token):
            fewer = {name: [getattr(item, name)[at] for at in kept] for name in ("experts", "weights")}
            items.append(msgspec.structs.replace(item, **fewer))
    usage = shown(items)
    assert usage.usage.counts.sum(1).tolist() == [usage.tokens * each for each in k]
    first = [item for item in items if isinstance(item, Token)]
    assert usage.mass[0].sum() == pytest.approx(sum(token.weights[0] for token in first) * 1e-4)


def test_after_a_seek_counts_are_of_the_whole_run_and_the_mass_is_not():
    run = MadeUpRun()
    before = [*run.prompt(), *run.generate(650)]
    frame = run._instruments.keyframe()
    at = run.i
    after = list(run.generate(90))
    landmarks = [item for item in before if isinstance(item, Chunk)]
    usage = shown([run.header, *landmarks, frame, *after])
    counts, _ = summed([item for item in [*before, *after] if isinstance(item, Token)])
    _, mass = summed([item for item in after if isinstance(item, Token)])
    assert (usage.usage.counts == counts).all()
    assert np.allclose(usage.mass, mass)
    assert usage.weighted_from == at
    assert usage.weighted == 90
