"""State of a run, folded from its events. No screen, no clock, bounded memory.

Live runs and replays feed the same events, so every panel shows the same for both.
"""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET

from moe_watch.routing.chunks import ChunkClock
from moe_watch.routing.events import (
    Change,
    Chunk,
    Cost,
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
from moe_watch.routing.router.masks import ExpertMask
from moe_watch.routing.stats.slowdown import device_of
from moe_watch.tui.state.mask_words import mask_change_text
from moe_watch.tui.state.pressure.run_pressure import RunPressure
from moe_watch.tui.state.pressure.trajectory import PressureTrack
from moe_watch.tui.state.settings import CurrentSettings
from moe_watch.tui.state.status import RunStatus, Status
from moe_watch.tui.state.tokens.routing_windows import RoutingWindows
from moe_watch.tui.state.tokens.run_usage import RunUsage
from moe_watch.tui.state.tokens.stream_pieces import Piece, StreamPieces, event_pieces, token_piece
from moe_watch.tui.state.tokens.token_counts import TokenTotals
from moe_watch.tui.state.tokens.token_rate import TokenRate
from moe_watch.tui.state.tokens.token_window import Ids, TokenWindow
from moe_watch.tui.state.vitals_history import VitalsHistory


class RunView:
    """State of a run so far; `feed` it the events.

    Each part is one subject, in a file with its name. `state`, `settings`, `header` and `cost` are immutable, and are
    replaced when they change. The other parts are mutable; their docstrings describe how to take a snapshot. A header
    replaces all parts by new ones, and leaves the old ones unchanged.
    """

    def __init__(self) -> None:
        self.runs = 0
        """Number of headers so far. When it changes, a panel discards what it has of the run before."""
        self._begin(None)

    def _begin(self, header: Header | None) -> None:
        """Replace all parts; without a header, no run has begun."""
        self.header = header
        self.state = RunStatus() if header is None else RunStatus("waiting")
        self.settings = CurrentSettings()
        self.cost: Cost | None = None
        self.counts = TokenTotals()
        self.rate = TokenRate()
        self.stream = StreamPieces()
        self.routing = RoutingWindows(header)
        self.usage = RunUsage(header)
        self.pressure = RunPressure(header)
        self.vitals = VitalsHistory("cpu" if header is None else device_of(header.backend.device))
        if header is not None:
            self.runs += 1
            self.cost = header.cost
            self.settings = CurrentSettings(multistep=header.multistep, sampling=header.sampling)

    # Properties that are read most

    @property
    def status(self) -> Status:
        """Status as the events report it."""
        return self.state.status

    @property
    def why(self) -> str | None:
        """Reason of the last pause, or finish reason."""
        return self.state.why

    @property
    def message(self) -> str | None:
        """Message of the last error, or of the present pause."""
        return self.state.message

    @property
    def progress(self) -> Progress | None:
        """Progress of loading or prefill."""
        return self.state.progress

    @property
    def tap_off_at(self) -> int | None:
        """Index of the first token whose routing is not observed; None while the tap is on."""
        return self.settings.tap_off_at

    @property
    def multistep(self) -> bool:
        """The run pauses after every chunk."""
        return self.settings.multistep

    @property
    def sampling(self) -> Sampling | None:
        """Settings of the sampler."""
        return self.settings.sampling

    @property
    def mask(self) -> ExpertMask:
        """Experts that are off."""
        return self.settings.masked.mask

    @property
    def tokens(self) -> int:
        """Index of the next token."""
        return self.counts.tokens

    @property
    def decoded(self) -> int:
        """Number of decode tokens so far."""
        return self.counts.decoded

    @property
    def observed(self) -> int:
        """Number of tokens whose routing is in the windows."""
        return self.counts.observed

    @property
    def perturbations(self) -> int:
        """Number of injections so far."""
        return self.counts.perturbations

    @property
    def position(self) -> int:
        """Number of tokens in the context."""
        return self.counts.position

    @property
    def pieces(self) -> list[Piece]:
        """The newest pieces of the stream panel."""
        return self.stream.kept

    @property
    def window(self) -> TokenWindow | None:
        """The last decode tokens; before the first of them, the last prompt tokens."""
        return self.routing.window

    @property
    def window_phase(self) -> Literal["decode", "prefill"]:
        """Phase of the tokens in `window`."""
        return self.routing.phase

    @property
    def newest(self) -> Ids | None:
        """Experts of the newest token."""
        return self.routing.newest

    @property
    def tracks(self) -> dict[str, PressureTrack]:
        """Trajectories by pressure mode."""
        return self.pressure.tracks

    @property
    def other_mode(self) -> str:
        """The pressure mode that was not recorded and is computed here."""
        return self.pressure.other

    @property
    def chunks(self) -> int:
        """Number of chunks so far."""
        return self.pressure.chunks

    @property
    def clock(self) -> ChunkClock:
        """Progress of the current chunk."""
        return self.pressure.clock

    # Properties of several parts

    @property
    def window_text(self) -> str:
        """Contents of `window` in words."""
        return self.routing.text(observed=self.tap_off_at is not None)

    @property
    def tap_off_text(self) -> str:
        """Message that routing is not observed, and since when; empty while the tap is on."""
        return self.settings.tap_off_text

    @property
    def counts_only(self) -> bool:
        """The recording was imported from counts and has no tokens."""
        return self.header is not None and self.header.counts_only

    @property
    def is_dense(self) -> bool:
        """The model has no MoE layers, so there is no routing to show."""
        return self.header is not None and self.header.is_dense

    @property
    def no_token_text(self) -> str:
        """Reason why there are no tokens to show."""
        return "n/a: this recording has counts, no tokens" if self.counts_only else "no token yet"

    @property
    def beyond_trained(self) -> int | None:
        """The longest sequence of the model's training, if the context is longer."""
        trained = self.header.model.trained_length if self.header else None
        return trained if trained is not None and self.position > trained else None

    # Events

    def feed(self, item: StreamItem) -> None:
        """Process the next event; unknown events change nothing."""
        match item:
            case Token():
                self._feed_token(item)
            case Chunk():
                self._feed_chunk(item)
            case Vitals():
                self.vitals.add(item)
            case State():
                self._feed_state(item)
            case Perturbation():
                self._feed_perturbation(item)
            case Header():
                self._begin(item)
            case Progress():
                self.state = self.state.after_progress(item, begun=self.header is not None)
            case Marker() | Refused() | RunWarning():
                self._add_markers(item)
            case Cost():
                self.cost = item
            case Keyframe():
                self._feed_keyframe(item)
            case Change():
                self._feed_change(item)
            case Fork():
                self.pressure.add_fork(item)
                self.vitals.rates.count(decode=False)

    def _feed_token(self, token: Token) -> None:
        if self.header is None:
            return
        if self.tap_off_at is None and not self.is_dense:
            self.routing.add(token)
            self.usage.add(token)
            self.counts.observed += 1
        self.counts.tokens = token.i + 1
        self.vitals.rates.count(decode=token.phase == "decode")
        self.vitals.slowdown.feed(token)
        self.stream.add(token_piece(token, self.header.units.entropy))
        if token.phase == "decode":
            self.counts.decoded += 1
            self.pressure.clock.advance()
            self.rate.add(token.t)
        self.state = self.state.after_token(token.phase)
        self.pressure.derive(token)

    def _feed_chunk(self, chunk: Chunk) -> None:
        self.pressure.add_recorded(chunk)
        if self.header is not None and not self.tokens:  # after a seek, chunks before the target come without tokens
            self.counts.decoded += chunk.tokens

    def _feed_perturbation(self, perturbation: Perturbation) -> None:
        self.vitals.slowdown.feed(perturbation)
        self.pressure.inject(perturbation)
        self.counts.perturbations += 1
        if perturbation.kept is not None:
            self.counts.context_start = perturbation.i - perturbation.kept
        self._add_markers(perturbation)

    def _feed_keyframe(self, keyframe: Keyframe) -> None:
        """Process a keyframe. Only one before the first token is news: there a recording begins, or a seek led."""
        if self.header is not None and self.counts_only:
            self.routing.add_counts(keyframe, self.header.model.experts)
            self.usage.set_counts(keyframe)
            self.counts.observed = keyframe.i
            return
        if self.header is not None and keyframe.i and not self.tokens:
            self._begin_at(keyframe)
        self.pressure.derive(keyframe)

    def _begin_at(self, keyframe: Keyframe) -> None:
        """Continue from a keyframe; of the time before it, at most events other than tokens were fed."""
        jumped = bool(self.pieces or self.chunks)
        self.vitals.rates.count(decode=False)  # readings before the keyframe came without their tokens
        self.pressure.begin_at(keyframe, jumped=jumped)
        self.counts.decoded += self.clock.filled
        self.settings = CurrentSettings(
            self.tap_off_at, keyframe.multistep, self.sampling, self.settings.masked.after(keyframe)
        )
        if self.tap_off_at is None and not self.is_dense:
            self.routing.begin_at(keyframe)
        if not self.is_dense:
            self.usage.begin_at(keyframe)
        self.stream.begin_text(Piece("jump" if jumped else "begin", "", keyframe.i))

    def _feed_change(self, change: Change) -> None:
        self.vitals.slowdown.feed(change)
        self.pressure.derive(change)
        before, self.settings = self.mask, self.settings.changed(change)
        if change.tap is not None:
            self.routing.switch_tap()
        if change.mask is not UNSET:
            self.pressure.change_mask(change)
            self.routing.change_mask()
            self.stream.add(Piece("mask", mask_change_text(before, self.mask), change.i))
        self._add_markers(change)

    def _feed_state(self, state: State) -> None:
        self.vitals.slowdown.feed(state)
        self.pressure.change_state(state)
        self.state = self.state.after_state(state)
        if state.state == "fresh_context":
            self.counts.context_start = state.i
            self.routing.begin_context()
        elif state.state == "dropped":
            self.counts.dropped += state.count or 0
            self.vitals.rates.count(decode=False)  # tokens without an event
        if state.state != "finished" or not self.counts_only:
            self._add_markers(state)

    def _add_markers(self, event: Marker | Refused | RunWarning | Perturbation | Change | State) -> None:
        for piece in event_pieces(event):
            self.stream.add(piece)


def stage_of(view: RunView) -> tuple[object, ...]:
    """Return a value that is the same during one stage of loading or prefill, however far it is."""
    progress = view.progress
    stage = () if progress is None else (progress.stage, progress.note, progress.total)
    return view.runs, view.status, *stage
