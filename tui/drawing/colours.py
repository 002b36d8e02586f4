"""Colours of the dashboard: two themes, and the palette of styles that widgets draw with.

Few colours, each with one meaning: the accent is "now" (newest token, injections, focus), amber and red are warnings,
everything else is grey. Two ramps, of the heatmap and of tokens, have a luminance that only rises (or only falls), so
that they survive `NO_COLOR`, where Textual turns colours into greys.
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

HEATMAP_LEVELS = 24
"""Number of colours in the heatmap's ramp."""
SURPRISAL_LIMITS = (0.5, 1.5, 3.0, 5.0)
"""Surprisals in nats at which the colour of a token changes; the last colour is for all higher ones."""
ENTROPY_LIMITS = (0.5, 0.65, 0.8, 0.9)
"""Router entropies at which the colour of a token changes."""


def _variables(border: str, surface: str) -> dict[str, str]:
    """Return theme variables for inconspicuous frames and scrollbars."""
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

_HEATMAP_ON_DARK = (
    *("#151823", "#21174b", "#3b1969", "#5d1f77", "#85287a", "#ad3671"),
    *("#d04d5f", "#ea7045", "#f79b3e", "#fbc85c", "#fcf6ba"),
)
_HEATMAP_ON_LIGHT = (
    *("#eeebe1", "#fbdfae", "#f8c27c", "#f29f63", "#e5785d", "#cb5368"),
    *("#a73a76", "#7f2a7b", "#581f70", "#361857", "#1b0c36"),
)
_ANSI_HEATMAP = ("default", "blue", "magenta", "red", "yellow")
_TOKENS_ON_DARK = ("#757d90", "#9aa2b8", "#bfb0ea", "#f4bb7a", "#ffb9c6")
_TOKENS_ON_LIGHT = ("#8a8f98", "#666c78", "#6a4aa8", "#8f3d08", "#8a1030")
_VARIABLES = ("background", "surface", "foreground", "accent", "success", "warning", "error")


@dataclass(frozen=True, slots=True)
class StatusStyles:
    """Styles of good and bad news."""

    good: Style
    warn: Style
    bad: Style


@dataclass(frozen=True, slots=True)
class ChartStyles:
    """Styles of charts, bars and histories."""

    fill: Style
    """Bars and histories."""
    track: Style
    """Empty part of a bar."""
    fit: Style
    """A fitted curve."""
    shade: Style
    """Background of a shaded area; its foreground is not used."""
    series: dict[str, Style]
    """The four pressures, by name."""


@dataclass(frozen=True, slots=True)
class HeatmapStyles:
    """Colours of the heatmap; glyphs of rising density where only the terminal's 16 colours may be used."""

    ramp: tuple[RichColor, ...] = ()
    """`HEATMAP_LEVELS` colours, from no usage to the most; empty if `glyphs` are used."""
    glyphs: tuple[tuple[str, Style], ...] = ()

    @property
    def glyphs_only(self) -> bool:
        """Cells must be drawn with glyphs."""
        return not self.ramp


@dataclass(frozen=True, slots=True)
class Palette:
    """Styles for one theme. Each has the background too, as lines that bypass Textual's styles need it."""

    ground: Style
    """A space on the background."""
    text: Style
    strong: Style
    muted: Style
    faint: Style
    accent: Style
    accent_bold: Style
    chip: Style
    """Text on the accent."""
    bar: Style
    """Text on the header and footer bars."""
    tokens: tuple[Style, ...]
    """Tokens by surprisal or router entropy, from low to high."""
    status: StatusStyles
    chart: ChartStyles
    heatmap: HeatmapStyles


def palette_of(app: App[object]) -> Palette:
    """Return the palette of the app's current theme."""
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
        accent=ink(accent),
        accent_bold=ink(accent, bold=True),
        chip=ink(ground, bold=True, on=accent),
        bar=ink(foreground, on=surface),
        tokens=tuple(ink(colour) for colour in (_TOKENS_ON_DARK if dark else _TOKENS_ON_LIGHT)),
        status=StatusStyles(good=ink(good), warn=ink(warn), bad=ink(bad)),
        chart=ChartStyles(
            fill=ink("#7484b4" if dark else "#7c88ad"),
            track=ink(base.blend(text, 0.10)),
            fit=ink("#8fa6ee" if dark else "#4a5fb0"),
            shade=ink(foreground, on=base.blend(Color.parse("#7484b4" if dark else "#7c88ad"), 0.16)),
            series={
                "mid": ink(foreground),
                "fast": ink(base.blend(Color.parse(warn), 0.75)),
                "slow": ink(base.blend(Color.parse(good), 0.75)),
                "net": ink("#a58be0" if dark else "#6a4aa8"),
            },
        ),
        heatmap=HeatmapStyles(ramp=_ramp(_HEATMAP_ON_DARK if dark else _HEATMAP_ON_LIGHT)),
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
        accent=ink("cyan"),
        accent_bold=ink("cyan", bold=True),
        chip=ink("cyan", bold=True, reverse=True),
        bar=ink("default"),
        tokens=(ink("default"), ink("default"), ink("magenta"), ink("yellow"), ink("red", bold=True)),
        status=StatusStyles(good=ink("green"), warn=ink("yellow"), bad=ink("red", bold=True)),
        chart=ChartStyles(
            fill=ink("blue"),
            track=ink("bright_black"),
            fit=ink("blue"),
            shade=ink("default"),
            series={"mid": ink("default"), "fast": ink("yellow"), "slow": ink("green"), "net": ink("magenta")},
        ),
        heatmap=HeatmapStyles(
            glyphs=tuple((glyph, ink(colour)) for glyph, colour in zip(" ░▒▓█", _ANSI_HEATMAP, strict=True))
        ),
    )


def _ramp(stops: tuple[str, ...]) -> tuple[RichColor, ...]:
    gradient = Gradient.from_colors(*(Color.parse(stop) for stop in stops))
    return tuple(gradient.get_color(level / (HEATMAP_LEVELS - 1)).rich_color for level in range(HEATMAP_LEVELS))


def _rich(colour: str | Color) -> RichColor:
    parsed = Color.parse(colour) if isinstance(colour, str) else colour
    return parsed.rich_color
