"""Every colour of the dashboard, in one place: two themes, and the inks that drawn widgets use.

Few colours, each with one meaning: the accent is "now" (newest token, injections, focus), amber and red
are warnings, and everything else is grey, but for two ramps whose luminance rises (or falls) throughout,
so that they survive `NO_COLOR`, where Textual turns colours into greys.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from rich.color import Color as RichColor
from rich.style import Style
from textual.color import Color, Gradient
from textual.theme import Theme

if TYPE_CHECKING:
    from textual.app import App

HEAT_LEVELS = 24
SURPRISE_LIMITS = (0.5, 1.5, 3.0, 5.0)
"""Nats of surprisal at which the colour of a token changes; the last colour is for all above."""
ENTROPY_LIMITS = (0.5, 0.65, 0.8, 0.9)
"""Router entropies at which the colour of a token changes."""


def _variables(border: str, surface: str) -> dict[str, str]:
    """Quiet frames and scrollbars."""
    frames = ("border", "border-blurred", "scrollbar", "scrollbar-hover", "scrollbar-active")
    grounds = ("scrollbar-background", "scrollbar-background-hover", "scrollbar-background-active")
    return dict.fromkeys(frames, border) | dict.fromkeys((*grounds, "scrollbar-corner-color"), surface)


DARK = Theme(
    name="moe-watch-dark",
    dark=True,
    primary="#5ee7f0",
    secondary="#8b93a7",
    accent="#5ee7f0",
    foreground="#d5d9e3",
    background="#0d0f15",
    surface="#141721",
    panel="#1a1e2a",
    success="#86d39a",
    warning="#f0b64f",
    error="#ff6079",
    variables=_variables(border="#262b3a", surface="#141721"),
)
LIGHT = Theme(
    name="moe-watch-light",
    dark=False,
    primary="#00788a",
    secondary="#5d6470",
    accent="#00788a",
    foreground="#22262e",
    background="#fbfaf6",
    surface="#efede6",
    panel="#e7e4db",
    success="#2c7a43",
    warning="#9a5b00",
    error="#c01f45",
    variables=_variables(border="#d3cfc4", surface="#efede6"),
)
THEMES = (DARK, LIGHT)

_HEAT_ON_DARK = (
    *("#151823", "#21174b", "#3b1969", "#5d1f77", "#85287a", "#ad3671"),
    *("#d04d5f", "#ea7045", "#f79b3e", "#fbc85c", "#fcf6ba"),
)
_HEAT_ON_LIGHT = (
    *("#eeebe1", "#fbdfae", "#f8c27c", "#f29f63", "#e5785d", "#cb5368"),
    *("#a73a76", "#7f2a7b", "#581f70", "#361857", "#1b0c36"),
)
_ANSI_HEAT = ("default", "blue", "magenta", "red", "yellow")
_TOKENS_ON_DARK = ("#757d90", "#9aa2b8", "#bfb0ea", "#f4bb7a", "#ffb9c6")
_TOKENS_ON_LIGHT = ("#8a8f98", "#666c78", "#6a4aa8", "#8f3d08", "#8a1030")
_VARIABLES = ("background", "surface", "foreground", "accent", "success", "warning", "error")


@dataclass(frozen=True, slots=True)
class Palette:
    """Ready styles for one theme; each carries the background, as drawn lines must."""

    ground: Style
    """Nothing: a space on the background."""
    text: Style
    strong: Style
    muted: Style
    faint: Style
    fill: Style
    """Bars and histories."""
    track: Style
    """What a bar leaves empty."""
    accent: Style
    accent_bold: Style
    chip: Style
    """Text on the accent."""
    good: Style
    warn: Style
    bad: Style
    bar: Style
    """Text on the header and footer bars."""
    fit: Style
    """A fitted curve."""
    shade: Style
    """The ground of an area in a chart, for its background only."""
    heat: tuple[RichColor, ...]
    """From nothing to the most; empty where only the 16 colours of the terminal may be used."""
    glyphs: tuple[tuple[str, Style], ...]
    """Heat by density, where there are no colours for it."""
    tokens: tuple[Style, ...]
    """From expected to surprising."""
    series: dict[str, Style]
    """The four pressures."""

    @property
    def glyphs_only(self) -> bool:
        """Heat must be drawn with glyphs of different density."""
        return not self.heat


def of(app: App[object]) -> Palette:
    """The palette of the app's present theme."""
    variables = app.theme_variables
    if app.native_ansi_color:
        return _ansi_palette()
    return _palette(
        app.current_theme.dark,
        *(variables[name] for name in _VARIABLES),
    )


@lru_cache(maxsize=16)
def _palette(
    dark: bool, ground: str, surface: str, foreground: str, accent: str, good: str, warn: str, bad: str
) -> Palette:
    base, text = Color.parse(ground), Color.parse(foreground)

    def ink(colour: str | Color, bold: bool = False, on: str | Color = ground) -> Style:
        return Style(color=_rich(colour), bgcolor=_rich(on), bold=bold)

    return Palette(
        ground=ink(foreground),
        text=ink(foreground),
        strong=ink(foreground, bold=True),
        muted=ink(base.blend(text, 0.58)),
        faint=ink(base.blend(text, 0.30)),
        fill=ink("#7484b4" if dark else "#7c88ad"),
        track=ink(base.blend(text, 0.10)),
        accent=ink(accent),
        accent_bold=ink(accent, bold=True),
        chip=ink(ground, bold=True, on=accent),
        good=ink(good),
        warn=ink(warn),
        bad=ink(bad),
        bar=ink(foreground, on=surface),
        fit=ink("#8fa6ee" if dark else "#4a5fb0"),
        shade=ink(foreground, on=base.blend(Color.parse("#7484b4" if dark else "#7c88ad"), 0.16)),
        heat=_heat(_HEAT_ON_DARK if dark else _HEAT_ON_LIGHT),
        glyphs=(),
        tokens=tuple(ink(colour) for colour in (_TOKENS_ON_DARK if dark else _TOKENS_ON_LIGHT)),
        series={
            "mid": ink(foreground),
            "fast": ink(base.blend(Color.parse(warn), 0.75)),
            "slow": ink(base.blend(Color.parse(good), 0.75)),
            "net": ink("#a58be0" if dark else "#6a4aa8"),
        },
    )


@lru_cache(maxsize=1)
def _ansi_palette() -> Palette:
    def ink(colour: str, bold: bool = False, on: str = "default", reverse: bool = False) -> Style:
        return Style(color=colour, bgcolor=on, bold=bold, reverse=reverse)

    return Palette(
        ground=ink("default"),
        text=ink("default"),
        strong=ink("default", bold=True),
        muted=ink("default"),
        faint=ink("bright_black"),
        fill=ink("blue"),
        track=ink("bright_black"),
        accent=ink("cyan"),
        accent_bold=ink("cyan", bold=True),
        chip=ink("cyan", bold=True, reverse=True),
        good=ink("green"),
        warn=ink("yellow"),
        bad=ink("red", bold=True),
        bar=ink("default"),
        fit=ink("blue"),
        shade=ink("default"),
        heat=(),
        glyphs=tuple((glyph, ink(colour)) for glyph, colour in zip(" ░▒▓█", _ANSI_HEAT, strict=True)),
        tokens=(ink("default"), ink("default"), ink("magenta"), ink("yellow"), ink("red", bold=True)),
        series={"mid": ink("default"), "fast": ink("yellow"), "slow": ink("green"), "net": ink("magenta")},
    )


def _heat(stops: tuple[str, ...]) -> tuple[RichColor, ...]:
    gradient = Gradient.from_colors(*(Color.parse(stop) for stop in stops))
    return tuple(gradient.get_color(level / (HEAT_LEVELS - 1)).rich_color for level in range(HEAT_LEVELS))


def _rich(colour: str | Color) -> RichColor:
    parsed = Color.parse(colour) if isinstance(colour, str) else colour
    return parsed.rich_color
