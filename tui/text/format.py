"""Number formats of the dashboard."""

from __future__ import annotations

from math import isnan

NOT_AVAILABLE = "n/a"
_UNITS = ("B", "KB", "MB", "GB", "TB")


def size(count: int) -> str:
    """Return bytes with a decimal unit (KB = 1,000 bytes) and at most three digits: `84 KB`, `1.2 MB`."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    digits = 1 if unit >= 2 and value < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[unit]}"


def fraction(part: int, whole: int) -> str:
    """Return two sizes in the unit of the larger: `11.2 of 16.0 GB`."""
    whole_text = size(whole)
    unit = whole_text.split()[1]
    scaled = part / 1000 ** _UNITS.index(unit)
    return f"{scaled:.{1 if unit in ('MB', 'GB', 'TB') else 0}f} of {whole_text}"


def percent(share: float, digits: int = 1) -> str:
    """Return a share in percent, or `n/a` for NaN."""
    return NOT_AVAILABLE if isnan(share) else f"{100 * share:.{digits}f} %"


def probability(share: float) -> str:
    """Return a probability above zero in whole percent; never `0 %`."""
    rounded = percent(share, 0)
    return "<1 %" if rounded == "0 %" else rounded


def signed(value: float, digits: int = 3) -> str:
    """Return a number with its sign, using the minus sign U+2212."""
    return f"{value:+.{digits}f}".replace("-", "−")


def number(value: float, digits: int = 2) -> str:
    """Return a number with fixed decimals, or `n/a` for NaN."""
    return NOT_AVAILABLE if isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def count(value: int) -> str:
    """Return an integer with thousands separators."""
    return f"{value:,}"


def rate(tokens_per_second: float) -> str:
    """Return tokens per second with about three digits."""
    return f"{tokens_per_second:.1f}" if tokens_per_second < 99.95 else f"{tokens_per_second:,.0f}"


def factor(value: float) -> str:
    """Return a playback speed: `2×`, `0.25×`."""
    return f"{value:g}×"


def duration(seconds: float) -> str:
    """Return an estimate of a time: `8 s`, `12 min`, `2.5 h`."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def clock_time(seconds: float) -> str:
    """Return a recorded time in clock notation: `0:07`, `12:34`, `1:02:03`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
