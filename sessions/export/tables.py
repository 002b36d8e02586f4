"""Tables of a session, and the conversion of events to their rows. docs/data.md documents the columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import numpy as np
from msgspec import UNSET

from moe_watch.routing.arrays import ABSENT, Floats, Ints
from moe_watch.routing.events import (
    Change,
    Chunk,
    Event,
    Fork,
    Header,
    Marker,
    Perturbation,
    Pressures,
    Refused,
    RunWarning,
    Signals,
    State,
    Unknown,
    Vitals,
)
from moe_watch.routing.router.masks import ExpertMask
from moe_watch.routing.row_layout import RowLayout
from moe_watch.routing.usage.counts import shares
from moe_watch.sessions.export.columns import Array, Batch, Cell, Column, Table, masked
from moe_watch.sessions.reading.token_arrays import TokenArrays

TOKENS = Table(
    "tokens",
    "one token",
    (
        Column("i", "integer", "index in the run"),
        Column("t", "number", "seconds since the run began"),
        Column("phase", "label", "prefill or decode"),
        Column("source", "label", "prompt, injected or generated"),
        Column("id", "integer", "token id"),
        Column("text", "text", "decoded text, as recorded"),
        Column("logprob", "number", "log-probability at temperature 1, nats"),
        Column("top_margin", "number", "p of the likeliest token minus p of the second"),
        Column("choice_gap", "number", "p of the likeliest token minus p of this one"),
        Column("would_stop", "truth", "the model sampled end of text here, and generation was made to continue"),
        Column("router_entropy", "number", "mean over the observed layers, 0..1"),
        Column("router_margin", "number", "mean over the observed layers, 0..1"),
        Column("churn", "number", "mean over the observed layers, 0..1"),
    ),
)

_SIGNALS = {
    "router_entropy": "mean over the chunk, 0..1",
    "router_margin": "mean over the chunk, 0..1",
    "top_margin": "mean over the chunk, 0..1",
    "transition_prob": "mean overlap of successive expert sets, 0..1",
    "proximity_meso": "distance of usage from its average over 50 tokens, 0..1",
    "proximity_macro": "distance of usage from its average over 500 tokens, 0..1",
    "slow_confidence": "1 minus the distance of the two averages, 0..1",
    "coherence": "R, 0..1",
    "delta_coherence": "R minus R of the chunk before",
    "constraint_penalty": "0: no constraint is defined",
}
_PRESSURES = {
    "fast": "P_fast, -1..1",
    "mid": "P_mid, -1..1",
    "slow": "P_slow, -1..1",
    "net": "P_net, -1..1",
    "w_fast": "weight of P_fast in P_net",
    "w_mid": "weight of P_mid in P_net",
    "w_slow": "weight of P_slow in P_net",
}
_MEASURES = tuple(Column(name, "number", meaning) for name, meaning in (_SIGNALS | _PRESSURES).items())

CHUNKS = Table(
    "chunks",
    "one stretch of decode tokens",
    (
        Column("index", "integer", "number of the chunk in the run, from 0"),
        Column("context", "integer", "number of its context in the run, from 0"),
        Column("first", "integer", "index of its first token"),
        Column("last", "integer", "index of its last token"),
        Column("tokens", "integer", "decode tokens in it"),
        Column("partial", "truth", "it was cut short"),
        Column("warm_up", "truth", "it only fills the averages, and is never fitted"),
        *_MEASURES,
        Column("residual", "number", "carried to the next chunk, 0..1"),
        Column("pause", "label", "reason of the pause after it"),
    ),
)

USAGE = Table(
    "usage",
    "one expert of one layer in one phase, over the whole run",
    (
        Column("phase", "label", "prefill or decode"),
        Column("l", "integer", "position of the layer among the MoE layers, from 0"),
        Column("layer", "integer", "index of the layer in the model"),
        Column("expert", "integer", "expert id"),
        Column("selections", "integer", "number of its selections"),
        Column("rows", "integer", "tokens observed in this layer and phase"),
        Column("share", "number", "of the selections in this layer and phase, 0..1"),
    ),
)

PROBABILITIES = Table(
    "probabilities",
    "one expert of one layer at one token; only in runs that recorded router probabilities",
    (
        Column("i", "integer", "index of the token"),
        Column("l", "integer", "position of the layer among the MoE layers, from 0"),
        Column("layer", "integer", "index of the layer in the model"),
        Column("expert", "integer", "expert id"),
        Column("probability", "number", "router probability, 0..1"),
    ),
)

VITALS = Table(
    "vitals",
    "the machine at one moment",
    (
        Column("t", "number", "seconds since the run began"),
        Column("memory_total", "integer", "bytes"),
        Column("memory_used", "integer", "bytes"),
        Column("memory_available", "integer", "bytes"),
        Column("swap_total", "integer", "bytes"),
        Column("swap_used", "integer", "bytes"),
        Column("process_memory", "integer", "bytes resident in the dashboard"),
        Column("worker_memory", "integer", "bytes resident in the worker, which runs the model"),
        Column("swapped_in", "integer", "bytes read from swap since the machine's start"),
        Column("swapped_out", "integer", "bytes written to swap since the machine's start"),
        Column("worker_read", "integer", "bytes that the worker fetched from storage since its start"),
        Column("worker_faults", "integer", "major page faults of the worker since its start"),
        Column("model_active", "integer", "bytes in use by MLX's arrays"),
        Column("model_peak", "integer", "largest model_active since the worker's start"),
        Column("model_cache", "integer", "bytes that MLX keeps for further arrays"),
        Column("group_oom_kills", "integer", "processes of the control group that the OOM killer ended"),
        Column("pressure_level", "label", "memory pressure: ok, warning or critical"),
        Column("pressure_source", "text", "origin of the memory pressure"),
        Column("pressure_stalled", "number", "share of the last 10 s in which some task waited for memory"),
        Column("pressure_stalled_full", "number", "share of the last 10 s in which all tasks waited for memory"),
        Column("pressure_reason", "text", "quantity and threshold that gave the level; empty at ok"),
        Column("hottest_sensor", "text", "name of the hottest sensor"),
        Column("hottest_celsius", "number", "its temperature, °C"),
        Column("thermal_level", "label", "macOS: nominal, fair, serious or critical"),
        Column("cpu_mhz", "number", "highest clock frequency of a CPU, MHz"),
        Column("gpu_mhz", "number", "highest clock frequency of a GPU, MHz"),
        Column("throttling", "truth", "the system throttles"),
        Column("throttling_source", "text", "counter that reports it"),
    ),
)

EVENTS = Table(
    "events",
    "one event of the run other than a token, a chunk, a fork or vitals",
    (
        Column("event", "label", "perturbation, marker, refused, warning, state or change"),
        Column("i", "integer", "tokens of the run before it"),
        Column("t", "number", "seconds since the run began"),
        Column("what", "label", "form of the injection, refused command, new state, or changed setting"),
        Column("why", "text", "source of the injection, or reason of the refusal or state"),
        Column(
            "text",
            "text",
            "injected text, note or message; the new value of a changed setting, of a mask LAYER:EXPERT pairs or none",
        ),
    ),
)

FORKS = Table(
    "forks",
    "one continuation of a copied context",
    (
        Column("i", "integer", "tokens of the run before it"),
        Column("t", "number", "seconds since the run began"),
        Column("arm", "label", "none, neutral or text"),
        Column("replicate", "integer", "number within its arm"),
        Column("seed", "integer", "seed of its sampler"),
        Column("text", "text", "injected text"),
        Column("injected", "integer", "number of injected tokens"),
        Column("generated", "integer", "number of tokens of the continuation"),
        *_MEASURES,
    ),
)


_ORDER = "likeliest first; by id where no probabilities were recorded"


def routing_table(experts_per_token: int) -> Table:
    """Return the table with one row per token and MoE layer; experts by router probability, descending.

    Args:
        experts_per_token: largest number over the layers; in other layers the last columns are empty.
    """
    ranks = range(1, experts_per_token + 1)
    return Table(
        "routing",
        "one token in one MoE layer",
        (
            Column("i", "integer", "index of the token"),
            Column("phase", "label", "prefill or decode"),
            Column("l", "integer", "position of the layer among the MoE layers, from 0"),
            Column("layer", "integer", "index of the layer in the model"),
            *(Column(f"expert_{rank}", "integer", f"id of selection {rank}, {_ORDER}") for rank in ranks),
            *(Column(f"weight_{rank}", "number", f"router weight of selection {rank}") for rank in ranks),
            Column("router_entropy", "number", "divided by ln E, 0..1"),
            Column("router_margin", "number", "first minus second router probability, 0..1"),
            Column("churn", "number", "1 minus the overlap with the expert set of the token before, 0..1"),
        ),
    )


def tables(header: Header) -> dict[str, Table]:
    """Return all tables that a session may have, by name."""
    routing = routing_table(RowLayout.of(header.model).width)
    all_tables = (TOKENS, routing, CHUNKS, USAGE, PROBABILITIES, FORKS, EVENTS, VITALS)
    return {table.name: table for table in all_tables}


# -- rows of tokens


def token_batch(tokens: TokenArrays) -> Batch:
    """Return rows of `TOKENS`."""
    return {
        "i": masked(tokens.i, np.zeros(len(tokens), np.bool_)),
        "t": tokens.t,
        "phase": tokens.phase,
        "source": tokens.source,
        "id": _ids(tokens.id),
        "text": tokens.text,
        "logprob": tokens.prediction.logprob,
        "top_margin": tokens.prediction.top_margin,
        "choice_gap": tokens.prediction.choice_gap,
        "would_stop": masked(tokens.prediction.would_stop, np.zeros(len(tokens), np.bool_)),
        "router_entropy": _mean_of_known(tokens.entropy),
        "router_margin": _mean_of_known(tokens.margin),
        "churn": _mean_of_known(tokens.churn),
    }


def routing_batch(tokens: TokenArrays, header: Header) -> Batch:
    """Return rows of the routing table, token by token."""
    size, layers, chosen = tokens.experts.shape
    experts = tokens.experts.reshape(-1, chosen)
    weights = tokens.weights.reshape(-1, chosen)
    return {
        "i": _ids(np.repeat(tokens.i, layers)),
        "phase": np.repeat(np.array(tokens.phase, object), layers).tolist(),
        "l": _ids(np.tile(np.arange(layers), size)),
        "layer": _ids(np.tile(np.array(header.model.layers, np.int64), size)),
        **{f"expert_{rank + 1}": _ids(experts[:, rank]) for rank in range(chosen)},
        **{f"weight_{rank + 1}": weights[:, rank] for rank in range(chosen)},
        "router_entropy": tokens.entropy.ravel(),
        "router_margin": tokens.margin.ravel(),
        "churn": tokens.churn.ravel(),
    }


def probability_batch(tokens: TokenArrays, header: Header) -> Batch | None:
    """Return rows of `PROBABILITIES`; None if these tokens have none."""
    if tokens.probabilities is None:
        return None
    size, layers, experts = tokens.probabilities.shape
    return {
        "i": _ids(np.repeat(tokens.i, layers * experts)),
        "l": _ids(np.tile(np.repeat(np.arange(layers), experts), size)),
        "layer": _ids(np.tile(np.repeat(np.array(header.model.layers, np.int64), experts), size)),
        "expert": _ids(np.tile(np.arange(experts), size * layers)),
        "probability": tokens.probabilities.ravel(),
    }


def usage_rows(header: Header, phase: str, counts: Ints, rows: Ints) -> Iterator[list[Cell]]:
    """Yield rows of `USAGE` for one phase: `counts [L, E]` selections among `rows [L]` tokens."""
    portions = shares(counts)
    for at, layer in enumerate(header.model.layers):
        for expert in range(header.model.experts):
            yield [phase, at, layer, expert, int(counts[at, expert]), int(rows[at]), _known(portions[at, expert])]


# -- rows of other events


def rows_of(event: Event | Unknown) -> tuple[str, list[list[Cell]]] | None:
    """Return the table and the rows of an event other than a token; None if it has none."""
    match event:
        case Chunk():
            return "chunks", [_chunk(event)]
        case Vitals():
            return "vitals", [_vitals(event)]
        case Fork():
            return "forks", [_fork(event)]
        case Perturbation():
            return "events", [["perturbation", event.i, event.t, event.form, event.source, event.text]]
        case Marker():
            return "events", [["marker", event.i, event.t, None, None, event.note]]
        case Refused():
            return "events", [["refused", event.i, event.t, event.command, event.why, None]]
        case RunWarning():
            return "events", [["warning", event.i, event.t, None, None, event.text]]
        case State():
            return "events", [["state", event.i, event.t, event.state, event.why, event.message]]
        case Change():
            return "events", [["change", event.i, event.t, name, None, value] for name, value in _changes(event)]
    return None


def chunk_row(chunk: Chunk) -> Mapping[str, Cell]:
    """Return a row of `CHUNKS` by column."""
    return {column.name: value for column, value in zip(CHUNKS.columns, _chunk(chunk), strict=True)}


def _chunk(chunk: Chunk) -> list[Cell]:
    facts = [chunk.index, chunk.context, chunk.first, chunk.last, chunk.tokens, chunk.partial, chunk.warm_up]
    return [*facts, *_measures(chunk.signals, chunk.pressures), chunk.residual, chunk.pause]


def _fork(fork: Fork) -> list[Cell]:
    facts = [fork.i, fork.t, fork.arm, fork.replicate, fork.seed, fork.text, len(fork.injected), len(fork.generated)]
    return [*facts, *_measures(fork.signals, fork.pressures)]


def _measures(signals: Signals | None, pressures: Pressures | None) -> list[float | None]:
    return [
        *(None if signals is None else getattr(signals, name) for name in _SIGNALS),
        *(None if pressures is None else getattr(pressures, name) for name in _PRESSURES),
    ]


def _vitals(vitals: Vitals) -> list[Cell]:
    hottest = max(vitals.temperatures, key=lambda each: each.celsius, default=None)
    pressure = vitals.pressure
    memory, model = VITALS.columns[1:12], vitals.model_memory
    kills = None if vitals.group_events is None else vitals.group_events.get("oom_kill")
    return [
        vitals.t,
        *(getattr(vitals, column.name) for column in memory),
        *((None, None, None) if model is None else (model.active, model.peak, model.cache)),
        kills,
        *(getattr(pressure, name, None) for name in ("level", "source", "stalled", "stalled_full", "reason")),
        *((None, None) if hottest is None else (hottest.sensor, hottest.celsius)),
        vitals.thermal_level,
        *(max((each.mhz for each in vitals.clocks if each.kind == kind), default=None) for kind in ("cpu", "gpu")),
        vitals.throttling,
        vitals.throttling_source,
    ]


def _changes(change: Change) -> list[tuple[str, str]]:
    switched = {"tap": change.tap, "multistep": change.multistep}
    found = [(name, "on" if on else "off") for name, on in switched.items() if on is not None]
    if change.rate is not None:
        found.append(("rate", f"{change.rate:g}"))
    if change.mask is not UNSET:
        found.append(("mask", str(ExpertMask.from_rows(change.mask)) or "none"))
    if change.experts_per_token is not UNSET:
        found.append(("experts_per_token", str(change.experts_per_token)))
    sampling = [] if change.sampling is None else [("sampling", msgspec.json.encode(change.sampling).decode())]
    return [*found, *sampling]


def _ids(values: Ints) -> Array:
    return masked(values, values == ABSENT)


def _mean_of_known(values: Floats) -> Floats:
    """Return the mean over layers `[T]` of values that are not NaN; NaN if all are."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        result: Floats = np.where(known, values, 0.0).sum(-1) / known.sum(-1)
    return result


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
