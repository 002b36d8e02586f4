"""A profile of experts as text of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from moe_watch.commands.tables import table_lines
from moe_watch.routing.experts.rankings import WORDS

if TYPE_CHECKING:
    from moe_watch.routing.arrays import Floats
    from moe_watch.routing.experts.rankings import Ranking
    from moe_watch.sessions.experts.profile_file import LoadedProfile
    from moe_watch.sessions.results.profile import GroupAgreement, ProfileStability, RankingStability

WIDTH = 80
SHOWN = 2
"""Experts at either end of a layer's ranking."""
RARE = 0.1
"""An expert with less than this share of an even share of its layer's selections is rarely routed."""
KEPT = 0.75
"""Share of the experts whose stability is shown by default."""
NOTHING = "n/a"
TITLES: dict[Ranking, str] = {
    "count": "selections",
    "weight_mass": "router weight mass",
    "saliency": "saliency (mean ‖weight · f(x)‖₂ over the expert's tokens)",
    "saliency_mass": "saliency mass (sum of ‖weight · f(x)‖₂)",
}


def profile_lines(found: LoadedProfile, by: Ranking, keep: int | None = None) -> Iterator[str]:
    """Yield a profile as lines: what was observed, a table of layers, and the stability of all rankings.

    Args:
        found: the profile.
        by: ranking of the table.
        keep: number of kept experts whose stability is shown; None for `KEPT` of all.
    """
    from moe_watch.sessions.text import plural, routers_text

    profile = found.profile
    routers = routers_text(len(found.layers), profile.num_experts, profile.num_experts_per_tok)
    yield from _wrapped(f"{profile.model}: {routers}")
    texts = plural(profile.calibration_examples, "text" if profile.window is not None else "example")
    length = "" if profile.window is None else f", windows of {profile.window:,}"
    yield from _wrapped(f"{profile.calibration_corpus}: {texts}, {plural(profile.calibration_tokens, 'token')}{length}")
    yield ""
    values = found.sums.ranking(by)
    if values is None:
        yield from _wrapped(f"no {WORDS[by]}: {profile.unavailable.get(by, 'the file does not have it')}")
    else:
        yield from _layers(found, values, by, keep)
    yield ""
    yield from _never_and_rarely(found)
    yield from _stability(profile.stability, profile.unavailable.get("stability"), keep, profile.num_experts)


def _layers(found: LoadedProfile, values: Floats, by: Ranking, keep: int | None) -> Iterator[str]:
    """Yield the table of layers."""
    import numpy as np

    from moe_watch.routing.experts.sums import ranked

    profile, counts = found.profile, found.sums.counts
    stability = profile.stability
    within = None if stability is None else stability.within.get(by)
    at = None if stability is None else _position(stability, keep, profile.num_experts)
    kept = "KEPT" if stability is None or at is None else f"KEPT {stability.keep[at]}"
    rows = [["LAYER", "HIGHEST", "LOWEST", "NEVER", "RARE", kept, "HALVES ρ"]]
    rare = _is_rare(found)
    for index, layer in enumerate(found.layers):
        order = ranked(values[index])
        routed = [int(expert) for expert in order if counts[index, expert]]
        even = float(np.nansum(values[index])) / len(routed)
        top, bottom = routed[:SHOWN], routed[SHOWN:][-SHOWN:]
        name = str(layer)
        rows.append(
            [
                name,
                ", ".join(_expert(expert, values[index, expert], even) for expert in top),
                ", ".join(_expert(expert, values[index, expert], even) for expert in reversed(bottom)),
                str(int((counts[index] == 0).sum())),
                str(int(rare[index].sum())),
                NOTHING if within is None or at is None else _percent(within.overlap[name][at]),
                _correlation(None if within is None else within.half_correlation.get(name)),
            ]
        )
    yield from _wrapped(f"by {TITLES[by]}; × the mean of the layer's routed experts")
    yield ""
    yield from table_lines(rows, right=(0, 3, 4, 5, 6))


def _expert(expert: int, value: float, even: float) -> str:
    """Return an expert's number and its value over the layer's mean."""
    ratio = value / even if even else 0.0
    return f"{expert} ×{ratio:.2g}" if ratio < 10 else f"{expert} ×{ratio:.0f}"


def _correlation(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _is_rare(found: LoadedProfile) -> Floats:
    """Return True for experts `[L, E]` that are selected, but rarely."""
    counts = found.sums.counts
    even = counts.sum(1, keepdims=True) / counts.shape[1]
    rare: Floats = (counts > 0) & (counts < RARE * even)
    return rare


def _never_and_rarely(found: LoadedProfile) -> Iterator[str]:
    """Yield sentences about experts that were never or rarely selected."""
    from moe_watch.sessions.text import plural

    counts = found.sums.counts
    never, rare = int((counts == 0).sum()), int(_is_rare(found).sum())
    tokens = found.profile.calibration_tokens
    if never:
        yield from _wrapped(
            f"NEVER: {plural(never, 'expert')} of {counts.size:,} not selected once in {plural(tokens, 'token')}. "
            "Other texts may select them. They have no saliency, and rank last."
        )
    else:
        yield from _wrapped(f"NEVER: every expert was selected at least once in {plural(tokens, 'token')}.")
    yield from _wrapped(
        f"RARE: {plural(rare, 'expert')} selected less than {_percent(RARE)} as often as the mean of the layer's "
        "experts."
    )


def _stability(stability: ProfileStability | None, reason: str | None, keep: int | None, experts: int) -> Iterator[str]:
    """Yield the stability of all rankings, means over layers."""
    from moe_watch.sessions.text import plural

    yield ""
    if stability is None:
        yield from _wrapped(f"stability: {NOTHING} ({reason or 'the file does not have it'})")
        return
    at = _position(stability, keep, experts)
    if at is None:
        kept = ", ".join(map(str, stability.keep[:8]))
        yield from _wrapped(f"stability: the profile does not have it for --keep {keep}, only for {kept}")
        return
    heading = ["KEEPING", "SAME SET", "KEPT", "HALVES KEEP", "HALVES ρ"]
    across = stability.across
    rows = [[*heading, *(["GROUPS KEEP", "GROUPS ρ"] if across else [])]]
    for by in dict.fromkeys([*stability.within, *(across or {})]):
        agreement = _agreement(across.get(by), at) if across else []
        rows.append([f"by {WORDS.get(by, by)}", *_resampled(stability.within.get(by), at), *agreement])
    size, chance = stability.keep[at], stability.chance[at]
    yield from _wrapped(f"Keeping {size} of {experts} experts in each layer; means over layers:")
    yield ""
    yield from table_lines(rows, right=range(1, len(rows[0])))
    yield ""
    if stability.block is not None:
        blocks = plural(stability.blocks, "block" if stability.block == "tokens" else stability.block)
        yield from _wrapped(
            f"SAME SET, KEPT: {stability.resamples} resamples of {blocks}: how often they keep the same set, and the "
            f"share of its experts. HALVES: two random halves, which share no token; chance is {_percent(chance)}, "
            "and ρ 0."
        )
    if across:
        yield from _wrapped(f"GROUPS: mean over {plural(len(stability.pairs), 'pair')} of domains or files.")


def _resampled(within: RankingStability | None, at: int) -> list[str]:
    """Return the cells of a ranking's stability, for a position in `stability.keep`."""
    if within is None:
        return [NOTHING] * 4
    shares = (within.same_set, within.overlap, within.half_overlap)
    return [
        *(_share([each[at] for each in share.values()]) for share in shares),
        _correlation(_mean(list(within.half_correlation.values()))),
    ]


def _agreement(across: GroupAgreement | None, at: int) -> list[str]:
    """Return the cells of a ranking's agreement between groups, for a position in `stability.keep`."""
    if across is None:
        return [NOTHING] * 2
    overlap = [each[at] for each in across.overlap.values()]
    return [_share(overlap), _correlation(_mean(list(across.correlation.values())))]


def _position(stability: ProfileStability, keep: int | None, experts: int) -> int | None:
    """Return the position in `stability.keep` of the shown number of experts; None if it is not there."""
    if keep is not None:
        return stability.keep.index(keep) if keep in stability.keep else None
    wanted = round(KEPT * experts)
    return min(range(len(stability.keep)), key=lambda at: abs(stability.keep[at] - wanted), default=None)


def _share(values: Sequence[float]) -> str:
    found = _mean(values)
    return NOTHING if found is None else _percent(found)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return sum(known) / len(known) if known else None


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)


def _percent(share: float) -> str:
    from moe_watch.tui.text.format import percent

    return percent(share, 0)
