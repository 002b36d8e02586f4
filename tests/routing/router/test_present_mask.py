"""Mask of a run, followed through its events."""

import msgspec
import pytest
from msgspec import UNSET

from moe_watch.routing.events import Change, Header, Marker
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.routing.router.masks import ExpertMask
from moe_watch.routing.router.present_mask import PresentMask
from tests.sessions.kit import HEADER

OFF = ExpertMask.of([(0, 3), (2, 1)])


def keyframe(mask):
    return msgspec.structs.replace(Instruments(HEADER).keyframe(), i=40, mask=mask)


def test_follows_changes_of_the_mask():
    masked = PresentMask().after(Change(i=7, t=0.1, mask=OFF.rows))
    assert masked == PresentMask(OFF, 7)
    assert masked.after(Change(i=9, t=0.2, tap=False)) is masked
    assert masked.after(Marker(i=9, t=0.2)) is masked
    assert masked.after(Change(i=12, t=0.3, mask=[])) == PresentMask(ExpertMask(), 12)


def test_a_run_begins_with_all_experts():
    assert PresentMask(OFF, 7).after(HEADER) == PresentMask()
    assert isinstance(HEADER, Header)


@pytest.mark.parametrize(("rows", "mask"), [(UNSET, ExpertMask()), (OFF.rows, OFF)])
def test_takes_the_mask_of_a_keyframe(rows, mask):
    assert PresentMask(ExpertMask.of([(1, 1)]), 7).after(keyframe(rows)) == PresentMask(mask)


def test_keeps_its_position_at_a_keyframe_with_the_same_mask():
    masked = PresentMask(OFF, 7)
    assert masked.after(keyframe(OFF.rows)) is masked
