"""Files of importance with impossible or extreme numbers: the page and the heatmap stay readable."""

from __future__ import annotations

import pytest

from tests.tui.conftest import press, running, shown
from tests.tui.events import main_run
from tests.tui.screens.importance_files import DAMAGE, SALIENCY, ablation, profile
from tests.tui.screens.test_experts_page import opened, rows, words

EDGE = 1.7e308
LARGEST = 1e200
"""Of a saliency; a profile with more is refused."""
FILES = {
    "largest": profile(dict.fromkeys(range(6), [LARGEST] * 8)),
    "one large": profile(SALIENCY | {0: [LARGEST, *[1e-308] * 7]}),
    "one selected": profile({layer: [1.0, *([None] * 7)] for layer in range(6)}),
    "zero": profile(dict.fromkeys(range(6), [0.0] * 8)),
    "damage": ablation(DAMAGE | {(0, 0): EDGE, (5, 7): -EDGE}),
    "one damage": ablation({(3, 3): 0.0}),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
async def test_extreme_numbers_are_shown(file):
    """A warning of NumPy would be printed across the dashboard."""
    async with running(main_run(60), size=(80, 24), importance=[file]) as (app, pilot, _):
        for _ in range(6):
            await press(app, pilot, "h", "down")
            assert_clear(shown(app.dashboard.experts))
        page = await opened(app, pilot)
        for _ in range(5):
            await press(app, pilot, "r", "left", "down")
            assert_clear("\n".join([words(page), *rows(page)]))


def assert_clear(text):
    assert text.strip()
    assert not {"nan", "inf", "-inf"} & set(text.casefold().replace("%", " ").split())
