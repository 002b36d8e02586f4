"""Seek targets in the words and steps of the dashboard."""

from __future__ import annotations

import re
from math import inf

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Change, Marker, Perturbation
from moe_watch.sessions.source import Jump, Timeline

SEEK_SECONDS = 5.0
"""Recorded seconds per press of an arrow key."""
GRACE_SECONDS = 1.0
"""Recorded seconds after a marker in which `[` goes to the one before it: playback continues between key presses."""
_TOKEN = re.compile(r"([0-9][0-9,_]{0,19})")
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%")
_TIME = re.compile(r"(?:([0-9]{1,4}):)?([0-9]{1,6}):([0-9]{1,2}(?:\.[0-9]{1,3})?)|([0-9]{1,9}(?:\.[0-9]{1,3})?) ?s")


def stop_beside(timeline: Timeline, step: int, *, playing: bool) -> Jump | None:
    """Return the jump to the next or previous marker, injection or change of the mask; None if there is none.

    Args:
        timeline: the present position, and all markers, injections and changes of the mask.
        step: 1 for the next one, -1 for the previous one.
        playing: playback is active, so the position moves.
    """
    stops: list[Marker | Perturbation | Change] = [*timeline.marks, *timeline.perturbations, *timeline.masks]
    if step > 0:
        found = min((stop.i for stop in stops if stop.i > timeline.position), default=None)
    else:
        latest = timeline.time - GRACE_SECONDS if playing else inf
        found = max((stop.i for stop in stops if stop.i < timeline.position and stop.t <= latest), default=None)
    return None if found is None else Jump("token", found)


def share_of(timeline: Timeline, share: float) -> Jump:
    """Return the jump to a share of the recording, 0..1."""
    return Jump("token", timeline.first + round(share * (timeline.tokens - timeline.first)))


def parse_jump(text: str, timeline: Timeline) -> Jump:
    """Parse a token index, a share of the recording in percent, or a time.

    Raises:
        UserError: the text is none of these.
    """
    text = text.strip()
    if found := _TOKEN.fullmatch(text):
        return Jump("token", int(re.sub(r"[,_]", "", found[1])))
    if found := _SHARE.fullmatch(text):
        return share_of(timeline, float(found[1]) / 100)
    if found := _TIME.fullmatch(text):
        hours, minutes, seconds, alone = (float(part or 0) for part in found.groups())
        return Jump("time", 3600 * hours + 60 * minutes + seconds + alone)
    raise UserError(f"{text[:40]!r} is no place in a recording", advice="write a token like 1200, 30%, 1:30 or 90s")
