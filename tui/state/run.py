"""What the panels show, as a pure fold of a run's stream. No screen, no clock, bounded memory.

Live and replay feed the same items and therefore show the same, cell for cell.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from math import exp
from sys import intern
from typing import Literal

import msgspec

from moe_watch.routing.chunks import ChunkClock
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import (
    Change,
    Chunk,
    Cost,
    Event,
    Fork,
    Header,
    Keyframe,
    Marker,
    Perturbation,
    Progress,
    Refused,
    RunWarning,
    Sampling,
    State,
    StreamItem,
    Token,
    Vitals,
)
from moe_watch.routing.pressure.formulas import MODES
from moe_watch.routing.pressure.instruments import CUTTING_STATES, Instruments
from moe_watch.routing.row_layout import RowLayout
from moe_watch.sessions.text import plural
from moe_watch.tui.state.imported_counts import CountedWindow, counted_windows
from moe_watch.tui.state.token_window import Ids, TokenRate, TokenRouting, TokenWindow
from moe_watch.tui.state.trajectory import PressureTrack
from moe_watch.tui.state.vitals_history import VitalsHistory
from moe_watch.tui.text.format import count

GO_ON = " Please continue:"
"""The text that `g` injects."""
GO_ON_TEXTS = (GO_ON, " go on")
"""Injected texts that are called “go on”."""
PIECES_KEPT = 20_000
FORKS_KEPT = 20_000
CHARACTERS_KEPT = 4_000
"""Of one token. No vocabulary has longer ones; a file may claim anything."""

Status = Literal["loading", "waiting", "prefill", "streaming", "paused", "finished", "failed"]
Role = Literal[
    "prompt", "injected", "generated", "inject", "change", "fresh", "end", "note", "refused", "warning", "begin", "jump"
]
"""All but the first three are marks between tokens, not text of the context; the last two say that text is missing
before them, as the recording begins there, or a jump led there."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One token as the stream shows it, or a mark between two tokens."""

    role: Role
    text: str
    i: int
    surprisal: float | None = None
    """Nats."""
    entropy: float | None = None
    """Mean router entropy over layers."""
    would_stop: bool = False
    omitted: int = 0
    """Characters that `text` was too long to keep."""

    @property
    def probability(self) -> float | None:
        """What the model gave this token."""
        return None if self.surprisal is None else exp(-self.surprisal)


class RunView:
    """Everything known of the run so far; `feed` it the stream."""

    def __init__(self) -> None:
        self.runs = 0
        """Headers so far: a panel that kept something of an earlier run starts anew when this changes."""
        self.header: Header | None = None
        self.vitals = VitalsHistory()
        self._clear()

    def _clear(self) -> None:
        self.status: Status = "loading"
        self.why: str | None = None
        """Of the last pause or end."""
        self.message: str | None = None
        """Of the last error."""
        self.progress: Progress | None = None
        self.cost: Cost | None = None
        self.pieces: deque[Piece] = deque(maxlen=PIECES_KEPT)
        self.pieces_seen = 0
        self.texts = 0
        """Changes when the pieces begin anew: a panel that kept something of those before forgets it."""
        self.tokens = 0
        """Index of the next token."""
        self.observed = 0
        """Tokens whose routing is in the windows."""
        self.decoded = 0
        """Decode tokens so far."""
        self.dropped = 0
        """Events that the source says were lost."""
        self.perturbations = 0
        self.tap_off_at: int | None = None
        """Index of the first token whose routing is not observed; None while it is."""
        self.multistep = False
        """The run pauses after every chunk."""
        self.sampling: Sampling | None = None
        """How tokens are drawn now."""
        self.rate = TokenRate()
        self.newest: Ids | None = None
        """Experts of the newest token."""
        self.windows: dict[str, TokenWindow] = {}
        self.tracks: dict[str, PressureTrack] = {}
        self.forks: deque[Fork] = deque(maxlen=FORKS_KEPT)
        """What the run could have gone on with, without the texts."""
        self.mode_problem: str | None = None
        """Why the pressure mode that was not recorded cannot be computed."""
        self.clock = ChunkClock(1)
        self._context_start = 0
        self._layout = RowLayout([])
        self._before: Ids | None = None
        self._other: Instruments | None = None

    @property
    def window(self) -> TokenWindow | None:
        """The last decode tokens; before the first of them, the last prompt tokens."""
        if not self.windows:
            return None
        return self.windows["decode"] if self.windows["decode"].tokens else self.windows["prefill"]

    @property
    def window_phase(self) -> Literal["decode", "prefill"]:
        """Which tokens `window` holds."""
        return "decode" if self.windows and self.windows["decode"].tokens else "prefill"

    @property
    def window_text(self) -> str:
        """Which tokens `window` holds, in words."""
        if isinstance(self.window, CountedWindow):
            return self.window.text
        held = 0 if self.window is None else self.window.tokens
        observed = "observed " if self.tap_off_at is not None else ""
        of_prompt = " of the prompt" if self.window_phase == "prefill" else ""
        return f"last {plural(held, f'{observed}token')}{of_prompt}"

    @property
    def tap_off_text(self) -> str:
        """That nothing new is observed, and since when; empty while routing is observed."""
        return "" if self.tap_off_at is None else f"tap off since token {count(self.tap_off_at)}"

    @property
    def counts_only(self) -> bool:
        """The recording was imported from counts, and no token will come."""
        return self.header is not None and self.header.counts_only

    @property
    def no_token_text(self) -> str:
        """Why there is nothing of tokens to show."""
        return "n/a: this recording has counts, no tokens" if self.counts_only else "no token yet"

    @property
    def position(self) -> int:
        """Tokens in the present context."""
        return self.tokens - self._context_start

    @property
    def chunks(self) -> int:
        """Chunks so far."""
        return self.tracks[self.header.pressure].seen if self.header else 0

    @property
    def beyond_trained(self) -> int | None:
        """The longest sequence seen in training, if the context is longer than that."""
        trained = self.header.model.trained_length if self.header else None
        return trained if trained is not None and self.position > trained else None

    def newest_pieces(self, number: int) -> list[Piece]:
        """The last `number` pieces, oldest first."""
        return list(islice(reversed(self.pieces), number))[::-1]

    def feed(self, item: StreamItem) -> None:
        """Take in the next item of the stream; what this version does not know changes nothing."""
        match item:
            case Token():
                self._feed_token(item)
            case Chunk():
                self._track_recorded(item)
            case Vitals():
                self.vitals.add(item)
            case State():
                self._feed_state(item)
            case Perturbation():
                self._feed_perturbation(item)
            case Header():
                self._begin(item)
            case Progress():
                self._feed_progress(item)
            case Marker():
                self._add(Piece("note", item.note[:CHARACTERS_KEPT], item.i))
            case Refused():
                self._add(Piece("refused", item.why[:CHARACTERS_KEPT], item.i))
            case RunWarning():
                self._add(Piece("warning", item.text[:CHARACTERS_KEPT], item.i))
            case Cost():
                self.cost = item
            case Keyframe():
                self._feed_keyframe(item)
            case Change():
                self._feed_change(item)
            case Fork():
                self.forks.append(msgspec.structs.replace(item, text="", injected=[], generated=[], signals=None))

    def _begin(self, header: Header) -> None:
        self._clear()
        self.runs += 1
        self.header = header
        self.vitals = VitalsHistory()
        self.status = "waiting"
        self.cost = header.cost
        self.multistep, self.sampling = header.multistep, header.sampling
        self.clock = ChunkClock(header.chunk_size)
        self._layout = RowLayout.of(header.model)
        shape, unit = (len(header.model.layers), header.model.experts), header.units.entropy
        self.windows = {phase: TokenWindow(*shape, entropy_unit=unit) for phase in ("prefill", "decode")}
        self.tracks = {mode: PressureTrack(mode) for mode in (header.pressure, *MODES)}
        try:
            self._other = Instruments(header, mode=self.other_mode, keyframes=False)
        except UserError as error:
            self.mode_problem = str(error)

    @property
    def other_mode(self) -> str:
        """The pressure mode that was not recorded and is computed here."""
        recorded = self.header.pressure if self.header else MODES[0]
        return MODES[0] if recorded == MODES[-1] else MODES[-1]

    def _feed_progress(self, progress: Progress) -> None:
        self.progress = progress
        if progress.stage != "prefill":
            self.status = "loading"
        elif self.header is not None and self.status != "paused":
            self.status = "prefill"

    def _feed_token(self, token: Token) -> None:
        if self.header is None:
            return
        if self.tap_off_at is None:
            # As it stands where a row is a table already: NumPy takes longer for one token than for many.
            experts = token.experts if self._layout.is_even else self._layout.experts(token)
            self.windows[token.phase].add(TokenRouting(experts, token.entropy, self._before))
            self._before = self.newest = experts
            self.observed += 1
        self.tokens = token.i + 1
        self._add(_piece(token, self.header.units.entropy))
        self._count(token)
        self._derive(token)

    def _count(self, token: Token) -> None:
        if token.phase == "decode":
            self.decoded += 1
            self.progress = None
            self.clock.advance()
            self.rate.add(token.t)
        if self.status != "paused":
            self.status = "streaming" if token.phase == "decode" else "prefill"

    def _feed_perturbation(self, perturbation: Perturbation) -> None:
        self.clock.cut()
        self._derive(perturbation)
        self.perturbations += 1
        label = injection_label(perturbation)
        if self.header is not None:
            before_chunk = self.tracks[self.header.pressure].next_chunk
            for track in self.tracks.values():
                track.inject(perturbation, label, before_chunk)
        self._add(Piece("inject", label, perturbation.i))

    def _feed_keyframe(self, keyframe: Keyframe) -> None:
        """Before the first token it tells what came before the recording, or before a jump; later ones nothing new."""
        if self.header is not None and self.header.counts_only:
            self.windows = counted_windows(keyframe, self.header.model.experts, self.window)
            self.observed = keyframe.i
            return
        if self.header is not None and keyframe.i and not self.tokens:
            self._enter(keyframe, self.header)
        self._derive(keyframe)

    def _enter(self, keyframe: Keyframe, header: Header) -> None:
        """Go on from here; of what was before, only events came that are no tokens, or nothing at all."""
        recorded = self.tracks[header.pressure]
        jumped = bool(self.pieces or recorded.seen)
        unfinished = keyframe.open_chunk.tokens if keyframe.open_chunk else 0
        self.decoded += unfinished
        self.clock.filled = unfinished
        self.multistep = keyframe.multistep
        if self.tap_off_at is None:
            self._before = self._layout.experts_before(keyframe)
        for track in self.tracks.values():
            track.begin_at(keyframe, recorded=track is recorded or not jumped)
        self.pieces.clear()
        self.texts += 1
        self._add(Piece("jump" if jumped else "begin", "", keyframe.i))

    def _feed_change(self, change: Change) -> None:
        self._derive(change)
        if change.tap is not None:
            self.tap_off_at = None if change.tap else change.i
            self._before = self.newest = None
        if change.multistep is not None:
            self.multistep = change.multistep
        if change.sampling is not None:
            self.sampling = change.sampling
        for words in _changes(change):
            self._add(Piece("change", words, change.i))

    def _feed_state(self, state: State) -> None:
        if state.state in CUTTING_STATES:
            self.clock.cut()
        self._derive(state)
        match state.state:
            case "paused":
                self.status, self.why = "paused", state.why
            case "resumed":
                self.status, self.why = "streaming", None
            case "fresh_context":
                self._fresh_context(state)
            case "finished":
                self.status, self.why = "finished", state.why
                if not self.counts_only:
                    self._add(Piece("end", (state.why or "")[:CHARACTERS_KEPT], state.i))
            case "error":
                self.status, self.message = "failed", state.message or state.why
            case "dropped":
                self.dropped += state.count or 0

    def _fresh_context(self, state: State) -> None:
        self._context_start = state.i
        self._before = None
        for track in self.tracks.values():
            track.begin_context(state)
        self._add(Piece("fresh", (state.why or "")[:CHARACTERS_KEPT], state.i))

    def _track_recorded(self, chunk: Chunk) -> None:
        if self.header is None:
            return
        self.tracks[self.header.pressure].add(chunk)
        for track in self.tracks.values():
            track.put_behind(chunk)
        if not self.tokens:  # its tokens came before what a jump led to, and are not read again
            self.decoded += chunk.tokens

    def _derive(self, event: Event) -> None:
        """Compute the chunks of the mode that was not recorded."""
        if self._other is None:
            return
        for derived in self._other.feed(event):
            if isinstance(derived, Chunk):
                self.tracks[self._other.mode].add(derived)

    def _add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.pieces_seen += 1


def stage_of(view: RunView) -> tuple[object, ...]:
    """Return what tells one stage of loading or prefill from the next: how much is done of it does not."""
    progress = view.progress
    stage = () if progress is None else (progress.stage, progress.note, progress.total)
    return view.runs, view.status, *stage


def injection_label(perturbation: Perturbation) -> str:
    """What an injection is called on the screen."""
    if perturbation.form == "turn":
        return "next turn"
    return "go on" if perturbation.text in GO_ON_TEXTS else "say"


def drawn_in_words(sampling: Sampling) -> str:
    """How tokens are drawn."""
    top_k = f", top-k {sampling.top_k}" if sampling.top_k else ""
    return f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}{top_k}"


def _changes(change: Change) -> list[str]:
    """What was changed, one piece of text for each."""
    switched = {"tap": change.tap, "multistep": change.multistep}
    found = [f"{name} {'on' if on else 'off'}" for name, on in switched.items() if on is not None]
    return found if change.sampling is None else [*found, drawn_in_words(change.sampling)]


def _piece(token: Token, entropy_unit: float) -> Piece:
    entropies = [value for value in token.entropy or () if value is not None]
    return Piece(
        role=token.source,
        text=intern(token.text[:CHARACTERS_KEPT]),  # a vocabulary's few texts come again and again
        i=token.i,
        surprisal=None if token.logprob is None else -token.logprob,
        entropy=sum(entropies) / len(entropies) * entropy_unit if entropies else None,
        would_stop=token.would_stop,
        omitted=max(0, len(token.text) - CHARACTERS_KEPT),
    )
