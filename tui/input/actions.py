"""Registry of the dashboard's actions: key bindings, footer, command palette and help are built from this list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from textual.binding import Binding, BindingType

from moe_watch.sessions.source import Ability
from moe_watch.tui.state.expert_numbers import expert_ids
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.state.status import Status

Group = Literal["run", "text", "seek", "recording", "panels", "program"]
GROUP_TITLES: dict[Group, str] = {
    "run": "Run",
    "text": "Inject text",
    "seek": "Seek in a replay",
    "recording": "Recording",
    "panels": "Panels",
    "program": "Program",
}


@dataclass(frozen=True, slots=True)
class Action:
    """An action that the user can perform."""

    id: str
    keys: tuple[str, ...]
    """Textual's names of the keys; the first is the one shown."""
    shown: str
    """The key as the screen shows it."""
    title: str
    """Two or three words, for footer and palette."""
    description: str
    """One sentence, for help and palette."""
    group: Group
    needs: frozenset[Ability] = frozenset()
    """Abilities of which one suffices; empty for an action that is always offered."""
    lacking: str = ""
    """Reason of a refusal, unless the status of the run is the reason."""
    of_routers: bool = False
    """Has no effect on a dense model, which has no router."""
    of_pruned: bool = False
    """Has no effect on a model that is not pruned."""
    footer: int = 0
    """Rank in the footer, 1 first; 0 is not in the footer."""

    def offered(self, frame: Frame) -> bool:
        """Return whether the action can be performed now."""
        if self.of_routers and frame.view.is_dense:
            return False
        if self.of_pruned and not _is_pruned(frame):
            return False
        plays_again = self.id == "pause" and frame.at_end
        return not self.needs or bool(self.needs & frame.abilities) or plays_again

    def reason(self, frame: Frame) -> str:
        """Return the reason why the action cannot be performed now."""
        if self.of_routers and frame.view.is_dense:
            return "this model is dense, it has no router"
        if self.of_pruned:
            return "this model is not pruned" if frame.view.header is not None else "no model yet"
        if "seek" in self.needs and frame.view.counts_only:
            return "imported counts have no order in time"
        if refusal := frame.words.refusal(self.needs):
            return refusal
        if "restart" in self.needs:
            return self.lacking
        if "turn" in self.needs and "perturb" in frame.abilities:
            return self.lacking
        return _standstill(frame) or self.lacking

    def refusal(self, frame: Frame) -> str:
        """Return the title and the reason of a refusal."""
        return f"{self.title}: {self.reason(frame)}"

    def caption(self, frame: Frame) -> str:
        """Return the title for the present state."""
        if self.id == "pause" and frame.at_end:
            return "play again"
        if self.id == "pause":
            return "resume" if frame.resumable else "pause"
        if self.id == "tap":
            return "tap off" if frame.view.tap_off_at is None else "tap on"
        if self.id == "multistep":
            return "multistep off" if frame.view.multistep else "multistep"
        if self.id == "record" and frame.recording.mode == "recording":
            return "stop recording"
        return self.title


def _is_pruned(frame: Frame) -> bool:
    header = frame.view.header
    return header is not None and expert_ids(header.model) is not None


def _standstill(frame: Frame) -> str:
    """Return the reason why most actions are refused; empty while a run or playback is active."""
    if frame.words.standstill:
        return frame.words.standstill
    if "restart" in frame.abilities:
        return "the worker has ended, R starts a new one"
    standstills: dict[Status, str] = {
        "loading": "the model is still being loaded",
        "failed": "the run has failed",
        "finished": "the run has finished",
    }
    return standstills.get(frame.status, "")


def _needs(*abilities: Ability) -> frozenset[Ability]:
    return frozenset(abilities)


_PACE = _needs("rate", "speed")
_RATE = _needs("rate")
_NO_PACE = "the pace of this source cannot be changed"
_NO_TEXT = "no run is active that text could be injected into"
_SEEK = _needs("seek")
DIGITS = tuple("0123456789")

# fmt: off
ACTIONS: tuple[Action, ...] = (  # a table, one action after the other
    Action(
        "pause", ("space",), "space", "pause", "Pause or resume; in a replay, playback: at its end, play again.", "run",
        _needs("pause"), "no run is active that could be paused", footer=2,
    ),
    Action(
        "multistep", ("m",), "m", "multistep", "Pause after every chunk, or continue without pauses.", "run",
        _needs("multistep"), "no run is active that could be paused", footer=14,
    ),
    Action(
        "tap", ("o",), "o", "tap off", "Switch the tap off or on, to see the observation cost.", "run",
        _needs("tap"), "no run is active that could be observed", of_routers=True, footer=15,
    ),
    Action(
        "mask", ("x",), "x", "expert off/on",
        "Switch the expert under the heatmap's cursor off or on: at the head of a column in every layer; at the head "
        "of a row all experts of the layer on again.", "run",
        _needs("mask"), "no run is active whose experts could be switched off", of_routers=True, footer=33,
    ),
    Action(
        "unmask", ("X",), "X", "all experts on", "Switch all experts on again.", "run",
        _needs("mask"), "no run is active whose experts could be switched on", of_routers=True,
    ),
    Action(
        "faster", ("plus", "equals_sign"), "+", "faster", "Next higher pace.", "run",
        _PACE, _NO_PACE, footer=18,
    ),
    Action(
        "slower", ("minus",), "−", "slower", "Next lower pace.", "run",
        _PACE, _NO_PACE, footer=19,
    ),
    Action(
        "unlimited", ("0",), "0", "unlimited", "No limit of tokens per second.", "run",
        _RATE, _NO_PACE, footer=20,
    ),
    Action(
        "restart", ("R",), "R", "restart", "Start a new worker after the old one died.", "run",
        _needs("restart"), "the worker runs", footer=1,
    ),
    Action(
        "go_on", ("g",), "g", "go on", "Inject “ Please continue:” at the next chunk boundary.", "text",
        _needs("perturb"), _NO_TEXT, footer=8,
    ),
    Action(
        "go_on_now", ("exclamation_mark",), "!", "go on at once",
        "Inject “ Please continue:” after the next token; the current chunk ends there.", "text",
        _needs("perturb"), _NO_TEXT, footer=17,
    ),
    Action(
        "say", ("G",), "G", "say…",
        "Inject any text: raw or as a turn, at the next chunk boundary or at once.", "text",
        _needs("perturb"), _NO_TEXT, footer=9,
    ),
    Action(
        "turn", ("n",), "n", "next turn…",
        "Ask the next turn: the whole conversation is rendered, and the context cut where it differs.", "text",
        _needs("turn"), "this model has no chat template, so there are no turns", footer=10,
    ),
    Action(
        "prompt", ("N",), "N", "new prompt…", "Begin a new run with another prompt, in an empty context.", "text",
        _needs("prompt"), "no model is loaded", footer=11,
    ),
    Action(
        "back", ("left",), "←", "5 s back", "Go five recorded seconds back.", "seek", _SEEK, footer=3,
    ),
    Action(
        "on", ("right",), "→", "5 s on", "Go five recorded seconds on.", "seek", _SEEK, footer=4,
    ),
    Action(
        "previous_token", ("comma",), ",", "token back", "Pause playback, and go one token back.", "seek",
        _SEEK, footer=30,
    ),
    Action(
        "next_token", ("full_stop",), ".", "token on", "Pause playback, and show one more token.", "seek",
        _SEEK, footer=27,
    ),
    Action(
        "previous_mark", ("left_square_bracket",), "[", "marker back", "Go to the previous marker or injection.",
        "seek", _SEEK, footer=5,
    ),
    Action(
        "next_mark", ("right_square_bracket",), "]", "marker on", "Go to the next marker or injection.",
        "seek", _SEEK, footer=6,
    ),
    Action("home", ("home",), "home", "beginning", "Play from the beginning.", "seek", _SEEK),
    Action(
        "end", ("end",), "end", "end", "Go to the end; if the text was scrolled back, follow it first.", "seek",
        _SEEK,
    ),
    Action(
        "jump", ("j",), "j", "seek…", "Go to a token (1200), a share (30%) or a time (1:30, 90s).", "seek",
        _SEEK, footer=28,
    ),
    Action(
        "tenth", DIGITS, "0…9", "go to 0…90 %", "Go to a tenth of the recording: 0 is the beginning, 5 the middle.",
        "seek", _SEEK, footer=31,
    ),
    Action(
        "find", ("slash",), "/", "find…",
        "Pause playback, and go to the next occurrence of a generated or injected text.", "seek",
        _SEEK, footer=7,
    ),
    Action(
        "find_next", ("n",), "n", "find next", "Go to the next occurrence of the last search.", "seek",
        _SEEK, footer=32,
    ),
    Action(
        "record", ("r",), "r", "record", "Switch the recording on or off.", "recording",
        _needs("record"), "this source cannot be recorded", footer=12,
    ),
    Action(
        "mark", ("s",), "s", "marker…", "Add a note to the recording at this token.", "recording",
        _needs("mark"), "nothing is recorded that could have a marker", footer=16,
    ),
    Action(
        "sessions", ("S",), "S", "sessions…", "The recorded sessions: replay, rename or delete one.", "recording",
        footer=29,
    ),
    Action(
        "pressure_mode", ("p",), "p", "pressure mode",
        "Pressure by moe-watch's definition, or by that of ChronoMoE, its reference.", "panels",
        of_routers=True, footer=22,
    ),
    Action(
        "pressure_lines", ("f",), "f", "fast/slow/net",
        "Show or hide fast, slow and net pressure beside mid.", "panels", of_routers=True, footer=21,
    ),
    Action(
        "pressure_fits", ("t",), "t", "fitted curves",
        "All four candidate curves of the pressure, with their weights; same as enter in the panel.",
        "panels", of_routers=True, footer=23,
    ),
    Action(
        "token_colour", ("v",), "v", "token colour",
        "Colour tokens by surprisal or by router entropy.", "panels", of_routers=True, footer=13,
    ),
    Action(
        "quantity", ("h",), "h", "heatmap values",
        "Show another quantity in the heatmap: usage, weight mass, and from files saliency and damage by ablation.",
        "panels", of_routers=True, footer=34,
    ),
    Action(
        "original", ("number_sign",), "#", "original numbers",
        "Number the experts of a pruned model as in the whole model, or as in its file.", "panels",
        of_routers=True, of_pruned=True,
    ),
    Action(
        "experts", ("E",), "E", "which experts matter…",
        "The experts of each layer in the order of a ranking, and what keeping some of them would lose.", "panels",
        of_routers=True, footer=35,
    ),
    Action("maximize", ("z",), "z", "maximise", "Let one panel fill the screen, and back.", "panels", footer=24),
    Action(
        "check", ("C",), "C", "check…", "Check the machine and the model: engines, memory, disk, sensors, terminal.",
        "program",
    ),
    Action("theme", (), "", "theme…", "Choose a colour theme.", "program"),
    Action(
        "help", ("question_mark", "f1"), "?", "help", "All keys, and the meaning of the symbols in the panels.",
        "program", footer=1,
    ),
    Action("palette", (), "ctrl+p", "every action", "Find any action by its name.", "program", footer=25),
    Action(
        "suspend", ("ctrl+z",), "ctrl+z", "suspend",
        "Stop the program and return to the shell; `fg` continues it.", "program",
    ),
    Action("quit", ("q",), "q", "quit", "End the run, close the recording, exit.", "program", footer=26),
)
# fmt: on
BY_ID = {action.id: action for action in ACTIONS}

FIXED_KEYS: tuple[tuple[str, str], ...] = (
    ("tab", "next panel"),
    ("1 … 5", "while a model runs: show (narrow terminal) or focus a panel"),
    ("← →", "the cursor in the focused heatmap; else, while a model runs, next tab in a narrow terminal"),
    ("↑ ↓ pgup pgdn end", "scroll the stream; end follows it again"),
    (
        "mouse",
        "hover for the numbers of a cell or token, click a panel to focus it, wheel to scroll, drag the timeline",
    ),
)
"""Keys that navigate in the dashboard and have no effect on the run."""


def holder(key: str, frame: Frame) -> Action:
    """Return the action of a key: if several share the key, the one that is offered."""
    sharing = [action for action in ACTIONS if key in action.keys]
    return next((action for action in sharing if action.offered(frame)), sharing[0])


def bindings() -> list[BindingType]:
    """Return Textual's bindings of all keys; none is shown by Textual, since the footer is a widget of this package."""
    keys = dict.fromkeys(key for action in ACTIONS for key in action.keys)
    return [Binding(key, f"app.press_key('{key}')", show=False) for key in keys]


def footer_actions(frame: Frame) -> list[Action]:
    """Return the actions in the footer, by rank; help is always among them."""
    offered = [action for action in ACTIONS if action.footer and action.offered(frame)]
    return sorted(offered, key=lambda action: action.footer)


def palette_actions(frame: Frame) -> list[Action]:
    """Return the actions in the command palette."""
    return [action for action in ACTIONS if action.id != "palette" and action.offered(frame)]
