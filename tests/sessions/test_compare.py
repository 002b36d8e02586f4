"""Sources of a comparison, its results, and where token by token it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from moe_watch.backends.run_spec import RunSpec
from moe_watch.commands.recordings.compare_text import comparison_lines
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Event, Header, Keyframe, ModelInfo, State, Token, to_json
from moe_watch.routing.pressure.formulas import WARM_UP_CHUNKS
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.routing.stats.permutation import NoTest, Permutation
from moe_watch.routing.usage.counts import jensen_shannon_distance
from moe_watch.sessions.comparing.pairs import Comparison, SourcePair, compare
from moe_watch.sessions.comparing.result import comparison_result
from moe_watch.sessions.comparing.sources import read_source
from moe_watch.sessions.comparing.tokens import TokenComparison, compare_tokens
from moe_watch.sessions.fitting.file_fit import fit_file
from moe_watch.sessions.measuring.plan import PLAN_FILE, Plan
from tests.sessions.kit import EXPERTS, HEADER, LAYERS, MODEL, K, make_token, tokens

GOLDEN = Path(__file__).parents[1] / "golden" / "golden.moe.jsonl"
MEASURED = 40
LONG = (WARM_UP_CHUNKS + MEASURED) * HEADER.chunk_size

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a session file."""

    def written(name: str, events: Iterable[Event], header: Header = HEADER, folder: Path = tmp_path) -> Path:
        path = folder / f"{name}.moe.jsonl"
        path.write_bytes(b"".join(to_json(event) + b"\n" for event in (header, *events)))
        return path

    return written


def printed_comparison(found: Comparison) -> Any:
    """Return what `compare --json` prints."""
    return json.loads(json.dumps(msgspec.to_builtins(comparison_result(found)), allow_nan=False))


def run_of(length: int, seed: int) -> list[Token]:
    """The tokens of the kit from another place on."""
    return [msgspec.structs.replace(token, i=at) for at, token in enumerate(tokens(length, first=seed * 10_000))]


def only_pair(*paths: Path) -> SourcePair:
    (pair,) = compare(list(paths)).pairs
    return pair


def routing_differs(token: Token, layer: int) -> Token:
    """The same token with two other experts in a layer."""
    experts = np.array(token.experts).reshape(LAYERS, K)
    experts[layer] = [each for each in range(EXPERTS) if each not in experts[layer]][:K]
    return msgspec.structs.replace(token, experts=experts.ravel().tolist())


# -- reading


def test_a_session_is_read_as_the_fit_reads_it(write: Write) -> None:
    path = write("a", run_of(LONG, 1))
    (run,) = read_source(path).runs
    fit = fit_file(path).fit
    assert run.fit is not None
    assert (run.fit.p, run.fit.verdict, run.fit.half_life) == (fit.p, fit.verdict, fit.half_life)
    assert len(run.mid) == MEASURED
    assert run.positions == list(range(WARM_UP_CHUNKS, WARM_UP_CHUNKS + MEASURED))


def test_chunks_in_the_file_are_not_believed(write: Write) -> None:
    made, instruments = run_of(LONG, 1), Instruments(HEADER)
    derived = [each for token in made for each in (token, *instruments.feed(token))]
    lying = [msgspec.structs.replace(each, pressures=None) if hasattr(each, "pressures") else each for each in derived]
    assert len(lying) > len(made)
    assert read_source(write("a", lying)).runs[0].mid == read_source(write("b", made)).runs[0].mid


def test_another_pressure_can_be_asked_for(write: Write) -> None:
    path = write("a", run_of(LONG, 1))
    source = read_source(path, "chronomoe-v1")
    assert source.mode == "chronomoe-v1"
    assert source.runs[0].mid != read_source(path).runs[0].mid
    with pytest.raises(UserError, match="there is no pressure mode called 'none'"):
        read_source(path, "none")


def test_a_short_session_says_why_nothing_is_fitted(write: Write) -> None:
    (run,) = read_source(write("a", run_of(10, 1))).runs
    assert (run.fit, run.half_life) == (None, inf)
    assert run.unavailable == "no measured chunk, and a fit needs at least 5: 5 more"


def test_a_session_without_tokens_is_refused(write: Write) -> None:
    with pytest.raises(UserError, match=r"empty\.moe\.jsonl: holds no token"):
        read_source(write("empty", [State(state="error", i=0, t=0.0)]))


def test_a_torn_session_is_read_with_a_warning(write: Write) -> None:
    path = write("a", run_of(20, 1))
    path.write_bytes(path.read_bytes()[:-30])
    source = read_source(path)
    assert source.runs[0].summary.tokens.generated == 19
    assert source.warnings == [f"{path}: the last line is cut off; read up to line 20"]


def test_what_was_said_of_the_model_is_said_of_a_comparison(write: Write) -> None:
    """A setting that the engine ignores makes the numbers those of another model."""
    header = msgspec.structs.replace(HEADER, warnings=["clip_qkv 8 is ignored"])
    path = write("a", run_of(20, 1), header)
    assert read_source(path).warnings == [f"{path}: clip_qkv 8 is ignored"]


def measurement(folder: Path, write: Write, seeds: Iterable[int], planned: int | None = None) -> Path:
    """A folder as `moe-watch measure` leaves it, with made-up runs."""
    folder.mkdir()
    made = list(seeds)
    seeds = list(range(planned or len(made)))
    plan = Plan(model="made", prompts=["x"], seeds=seeds, chunks=MEASURED, spec=RunSpec(chunk_size=4))
    (folder / PLAN_FILE).write_bytes(plan.to_json())
    for run, seed in zip(plan.plain_runs(), made, strict=False):
        write(run.file.removesuffix(".moe.jsonl"), run_of(LONG, seed), folder=folder)
    return folder


def test_a_measurement_is_all_its_plain_runs(tmp_path: Path, write: Write) -> None:
    folder = measurement(tmp_path / "m", write, range(3), planned=4)
    write("late-001", run_of(LONG, 9), folder=folder)
    source = read_source(folder)
    assert [run.name for run in source.runs] == [f"run-00{number}.moe.jsonl" for number in (1, 2, 3)]
    assert source.warnings == [f"{folder}: 3 of 4 runs exist"]
    assert source.usage is not None
    assert source.usage.rows.tolist() == [3 * LONG] * LAYERS
    assert source.usage.counts.sum(-1).tolist() == [3 * LONG * K] * LAYERS


def test_a_folder_that_is_no_measurement_is_refused(tmp_path: Path, write: Write) -> None:
    with pytest.raises(UserError, match="not a measurement: give a folder of `moe-watch measure`"):
        read_source(tmp_path)
    with pytest.raises(UserError, match="the measurement has no runs"):
        read_source(measurement(tmp_path / "m", write, [], planned=2))


def test_a_measurement_of_two_models_is_refused(tmp_path: Path, write: Write) -> None:
    folder = measurement(tmp_path / "m", write, range(2))
    write("run-002", run_of(LONG, 1), _header(experts=7), folder)
    with pytest.raises(UserError, match=r"run-002\.moe\.jsonl: another model than run-001\.moe\.jsonl"):
        read_source(folder)


def test_series_are_read_one_or_several_to_a_file(tmp_path: Path) -> None:
    one = {"trajectory": {"mid_pressures": [0.5, 0.4, 0.5, 0.4, 0.5, 0.4]}}
    single, several = tmp_path / "one.json", tmp_path / "several.json"
    single.write_text(json.dumps(one))
    several.write_text(json.dumps({"pressure": "measured-v1", "runs": [one, one]}))
    assert (read_source(single).kind, len(read_source(single).runs)) == ("series", 1)
    source = read_source(several)
    assert (source.kind, len(source.runs), source.mode) == ("measurement", 2, "measured-v1")
    assert (source.usage, source.header) == (None, None)
    several.write_text(json.dumps({"runs": [one, {"trajectory": {"mid_pressures": [1, "x"]}}]}))
    with pytest.raises(UserError, match=r'several\.json, run 2, trajectory\.mid_pressures, value 2 is "x"'):
        read_source(several)
    single.write_text("[0.5, 0.4]")
    with pytest.raises(UserError, match="2 measured chunks, and a fit needs at least 5"):
        read_source(single)


# -- tests between sources


def test_single_runs_are_tested_chunk_by_chunk(write: Write) -> None:
    pair = only_pair(write("a", run_of(LONG, 1)), write("b", run_of(LONG, 2)))
    assert isinstance(pair.trend.outcome, Permutation)
    assert (pair.trend.outcome.ways, pair.trend.corrected) == (5040, pair.trend.outcome.p)
    assert pair.trend.permuted.startswith("blocks of the difference")
    assert isinstance(pair.half_life.outcome, NoTest)
    assert pair.half_life.outcome.why.startswith("one run each")


def test_groups_are_tested_run_by_run(tmp_path: Path, write: Write) -> None:
    a = measurement(tmp_path / "a", write, range(4))
    b = measurement(tmp_path / "b", write, range(4, 8))
    pair = only_pair(a, b)
    assert isinstance(pair.trend.outcome, Permutation)
    assert (pair.trend.outcome.ways, pair.trend.permuted) == (70, "runs between the two")
    assert pair.half_life.outcome == NoTest("no run has a half-life within 40 chunks")
    assert pair.tokens == "a is not a session; give one run of each to compare token by token"


def test_half_lives_of_groups(tmp_path: Path) -> None:
    def series(name: str, half_life: float) -> Path:
        rng, t = np.random.default_rng(0), np.arange(50)
        runs = [0.6 * 2 ** (-t / half_life) + rng.normal(0, 0.01, 50) for _ in range(4)]
        path = tmp_path / name
        path.write_text(json.dumps({"runs": [{"trajectory": {"mid_pressures": run.tolist()}} for run in runs]}))
        return path

    outcome = only_pair(series("a.json", 12), series("b.json", 25)).half_life.outcome
    assert isinstance(outcome, Permutation)
    assert (outcome.p, outcome.difference) == (2 / 70, 4.0)


def test_several_pairs_have_their_p_corrected(write: Write) -> None:
    paths = [write(name, run_of(LONG, seed)) for seed, name in enumerate("abc")]
    trends = [pair.trend for pair in compare(paths).pairs]
    ps = [trend.outcome.p for trend in trends if isinstance(trend.outcome, Permutation)]
    assert len(ps) == 2
    assert min(trend.corrected for trend in trends if trend.corrected is not None) == min(1.0, 2 * min(ps))


def test_pressures_that_are_not_the_same_quantity_are_not_tested(write: Write) -> None:
    a = write("a", run_of(LONG, 1))
    other = msgspec.structs.replace(HEADER, pressure="chronomoe-v1")
    coarse = msgspec.structs.replace(HEADER, chunk_size=5)
    pair = only_pair(a, write("b", run_of(LONG, 2), other))
    why = "their pressure modes differ: measured-v2, chronomoe-v1"
    assert (pair.trend.outcome, pair.half_life.outcome) == (NoTest(why), NoTest(why))
    assert only_pair(a, write("c", run_of(LONG, 2), coarse)).trend.outcome == NoTest("their chunks have 4 and 5 tokens")


def test_usage_distance_of_generated_tokens(write: Write) -> None:
    a, b = run_of(50, 1), run_of(70, 2)
    pair = only_pair(write("a", [make_token(0, "prompt"), *_from(1, a)]), write("b", b))
    assert not isinstance(pair.usage, str)
    expected = [jensen_shannon_distance(_usage(a, layer), _usage(b, layer)) for layer in range(LAYERS)]
    np.testing.assert_allclose(pair.usage.distance, expected)
    assert (pair.usage.rows_a.tolist(), pair.usage.rows_b.tolist()) == ([50] * LAYERS, [70] * LAYERS)


def _from(first: int, made: Iterable[Token]) -> list[Token]:
    return [msgspec.structs.replace(token, i=first + at) for at, token in enumerate(made)]


def _usage(made: list[Token], layer: int) -> Any:
    chosen = [expert for token in made for expert in token.experts[layer * K : (layer + 1) * K]]
    return np.bincount(np.array(chosen, np.int64), minlength=EXPERTS) / len(chosen)


# -- token by token


def compared(a: Path, b: Path) -> TokenComparison:
    found = compare_tokens(a, b)
    assert not isinstance(found, str)
    assert found.routing is None or found.routing.tokens == found.tokens
    return found


def test_the_same_session_agrees_with_itself(write: Write) -> None:
    path = write("a", run_of(600, 1))
    found = compared(path, path)
    assert (found.tokens, found.ended, found.not_comparable) == (600, "", "")
    assert found.routing is not None
    assert found.routing.rows.tolist() == found.routing.order.tolist() == [600] * LAYERS
    assert found.routing.difference.tolist() == [0.0] * LAYERS


def test_the_golden_session_agrees_with_itself_where_rows_were_computed() -> None:
    found = compared(GOLDEN, GOLDEN)
    assert (found.tokens, found.ended) == (9, "")
    assert found.routing is not None
    assert 0 < found.routing.rows.sum() == found.routing.order.sum()


def test_differences_are_counted_in_their_layer(write: Write) -> None:
    made = run_of(300, 1)
    other = [routing_differs(token, 1) if token.i % 3 == 0 else token for token in made]
    routing = compared(write("a", made), write("b", other)).routing
    assert routing is not None
    assert routing.rows.tolist() == [300] * LAYERS
    assert routing.sets.tolist() == [300, 200, 300]
    assert routing.rank_of_top_1.tolist() == [[300, 0, 0], [200, 0, 100], [300, 0, 0]]


def test_routing_is_compared_up_to_the_first_other_token(write: Write) -> None:
    made = run_of(100, 1)
    other = [msgspec.structs.replace(token, id=10**6) if token.i == 60 else token for token in made]
    changed = [routing_differs(token, 0) if token.i >= 60 else token for token in other]
    found = compared(write("a", made), write("b", changed))
    assert found.tokens == 60
    assert found.ended.startswith("the tokens differ from token 60 on: ")
    assert found.routing is not None
    assert found.routing.sets.tolist() == [60] * LAYERS


@pytest.mark.parametrize("first", [True, False])
def test_a_session_that_ends_earlier(write: Write, first: bool) -> None:
    paths = [write("a", run_of(30, 1)), write("b", run_of(20, 1))]
    found = compared(*(paths[::-1] if first else paths))
    assert found.ended == f"{'the first' if first else 'the second'} ends after 20 tokens"
    assert found.tokens == 20


def test_tokens_that_differ_from_the_first_one_on_leave_nothing_to_compare(write: Write) -> None:
    found = compared(write("a", run_of(9, 1)), write("b", run_of(9, 2)))
    assert (found.tokens, found.routing) == (0, None)
    assert found.not_comparable.startswith("the tokens differ from token 0 on")


def test_a_context_that_only_one_run_began_anew_ends_it(write: Write) -> None:
    made = run_of(20, 1)
    anew = [*made[:12], State(state="fresh_context", i=12, t=0.0, why="context"), *made[12:]]
    found = compared(write("a", made), write("b", anew))
    assert (found.tokens, found.ended) == (12, "the second begins a fresh context at token 12")
    assert compared(write("b", anew), write("c", anew)).tokens == 20


def test_a_recording_that_begins_in_the_middle_is_not_compared(write: Write) -> None:
    made, instruments = run_of(20, 1), Instruments(HEADER)
    for token in made[:8]:
        instruments.feed(token)
    frame = instruments.keyframe()
    assert isinstance(frame, Keyframe)
    found = compared(write("a", made), write("b", [frame, *made[8:]]))
    assert (found.routing, found.not_comparable) == (None, "the second begins in the middle of its run")


def test_models_of_other_shapes_are_not_compared(write: Write) -> None:
    a = write("a", run_of(9, 1))
    more = _header(layers=[1, 2, 4], experts=7, experts_per_token=2)
    elsewhere = _header(layers=[0, 1, 2], experts=EXPERTS, experts_per_token=K)
    found = compared(a, write("b", run_of(9, 1), more))
    shapes = "3 layers × 5 experts, top-2 and 3 layers × 7 experts, top-2"
    assert (found.tokens, found.routing, found.not_comparable) == (9, None, f"the models differ in shape: {shapes}")
    assert compared(a, write("c", run_of(9, 1), elsewhere)).not_comparable == (
        "the models differ in their MoE layers: 1, 2, 4 and 0, 1, 2"
    )


def _header(**shape: Any) -> Header:
    model: ModelInfo = msgspec.structs.replace(MODEL, **shape)
    return msgspec.structs.replace(HEADER, model=model)


def test_observation_that_was_switched_off_leaves_rows_out(write: Write) -> None:
    made = run_of(20, 1)
    nothing: list[int | None] = [None] * (LAYERS * K)
    dark = [
        msgspec.structs.replace(token, experts=nothing, weights=None, entropy=None, margin=None)
        if token.i >= 15
        else token
        for token in made
    ]
    routing = compared(write("a", made), write("b", dark)).routing
    assert routing is not None
    assert (routing.rows.tolist(), routing.unmatched.only_a.tolist()) == ([15] * LAYERS, [5] * LAYERS)


# -- JSON


def test_everything_is_said_in_json(write: Write) -> None:
    a, b = write("a", run_of(LONG, 1)), write("b", run_of(LONG, 1))
    found = printed_comparison(compare([a, b]))
    assert [each["file"] for each in found["sources"]] == ["a.moe.jsonl", "b.moe.jsonl"]
    assert found["sources"][0]["runs"][0]["fit"]["chunks"] == MEASURED
    (pair,) = found["pairs"]
    agreement = pair["agreement"]
    assert (agreement["tokens"], agreement["ended"], agreement["unavailable"]) == (LONG, None, None)
    routing = agreement["routing"]
    assert (routing["rows"], routing["sets"], routing["top_1"], routing["order"]) == (LAYERS * LONG, 1.0, 1.0, 1.0)
    assert [layer["rows"] for layer in routing["per_layer"]] == [LONG] * LAYERS
    assert pair["usage_distance"]["mean"] == 0.0
    assert pair["usage_distance"]["rows"] == [[LONG] * LAYERS] * 2
    assert pair["trend"]["p"] == 1.0
    assert pair["half_life"]["p"] is None
    assert pair["half_life"]["unavailable"].startswith("one run each")


def test_what_is_not_there_is_null_with_its_reason(write: Write, tmp_path: Path) -> None:
    series = tmp_path / "s.json"
    series.write_text("[0.5, 0.4, 0.5, 0.4, 0.5, 0.4]")
    found = printed_comparison(compare([write("a", run_of(12, 1)), series]))
    assert found["sources"][0]["runs"][0]["fit"] is None
    assert found["sources"][1]["quantization"] is None
    (pair,) = found["pairs"]
    assert pair["usage_distance"] == {"mean": None, "unavailable": "s.json holds no routing"}
    assert pair["agreement"]["tokens"] is None
    assert "not a session" in pair["agreement"]["unavailable"]


def test_usage_of_a_session_without_generated_tokens_is_not_known(write: Write) -> None:
    prompt = [make_token(at, "prompt") for at in range(5)]
    pair = only_pair(write("a", prompt), write("b", run_of(5, 1)))
    assert pair.usage == "no layer has generated tokens with known routing in both"
    assert printed_comparison(compare([pair.a.path, pair.b.path]))["pairs"][0]["usage_distance"]["mean"] is None


def test_one_run_against_few_is_not_tested(tmp_path: Path, write: Write) -> None:
    pair = only_pair(write("one", run_of(LONG, 9)), measurement(tmp_path / "m", write, range(3)))
    assert isinstance(pair.trend.outcome, NoTest)
    few = "4 ways to divide runs into groups of 1 and 3, so p cannot fall below 0.25"
    assert pair.trend.outcome.why.startswith(few)


# -- what is absent is not equal


def changed(made: list[Token], **fields: Any) -> list[Token]:
    return [msgspec.structs.replace(token, **fields) for token in made]


def unordered(made: list[Token]) -> list[Token]:
    """As an import or a router of an unknown gate gives them: by id, and nothing beside."""
    plain = changed(made, weights=None, entropy=None, margin=None)
    rows = [np.sort(np.array(token.experts).reshape(LAYERS, K)).ravel().tolist() for token in plain]
    return [msgspec.structs.replace(token, experts=row) for token, row in zip(plain, rows, strict=True)]


ONLY_EXPERTS = msgspec.structs.replace(HEADER, capture=["experts"])


@pytest.mark.parametrize("without", ["both", "the first", "the second"])
def test_absent_ids_are_not_equal_ids(write: Write, without: str) -> None:
    made = run_of(60, 1)
    bare = changed(made, id=-1)
    a, b = write("a", made if without == "the second" else bare), write("b", made if without == "the first" else bare)
    which = "the second" if without == "the second" else "the first"
    said = f"{which} holds no token ids, so equal tokens cannot be determined"
    assert compare_tokens(a, b) == said
    assert printed_comparison(compare([a, b]))["pairs"][0]["agreement"] == {"tokens": None, "unavailable": said}


def test_routing_is_compared_up_to_the_first_token_without_an_id(write: Write) -> None:
    """vLLM's last token has none."""
    made = run_of(20, 1)
    found = compared(write("a", made), write("b", [*made[:19], *changed(made[19:], id=-1)]))
    assert (found.tokens, found.ended) == (19, "the second has no id for token 19")


def test_equal_ids_of_other_texts_are_other_vocabularies(write: Write) -> None:
    made = changed(run_of(60, 1), text=" a")
    other = changed(made, text="b ")
    assert compare_tokens(write("a", made), write("b", other)) == (
        f"the vocabularies differ: token 0 has id {made[0].id} in both, but texts ' a' and 'b '"
    )


def test_one_vocabulary_may_show_some_tokens_differently(write: Write) -> None:
    """As engines do with special tokens, and with the space before the first word."""
    made = changed(run_of(60, 1), text=" a")
    shown = [*changed(made[:20], text="<s>"), *changed(made[20:40], text=""), *changed(made[40:], text="a")]
    assert compared(write("a", made), write("b", shown)).tokens == 60


@pytest.mark.parametrize("both", [True, False])
def test_experts_by_id_have_no_first_one_and_no_order(write: Write, both: bool) -> None:
    made = run_of(300, 1)
    a = write("a", unordered(made), ONLY_EXPERTS)
    b = write("b", unordered(made), ONLY_EXPERTS) if both else write("b", made)
    routing = compared(a, b).routing
    assert routing is not None
    assert not routing.ordered
    assert routing.sets.tolist() == [300] * LAYERS
    found = printed_comparison(compare([a, b]))["pairs"][0]["agreement"]["routing"]
    assert (found["sets"], found["top_1"], found["order"]) == (1.0, None, None)
    assert found["order_unavailable"].startswith("a recording without router probabilities has experts by id")
    assert {layer["rank_of_top_1"] for layer in found["per_layer"]} == {None}
    lines = comparison_lines(compare([a, b]))
    assert sum("top-1" in line and "equal" in line for line in lines) == 0
    assert sum("top-1 and order: n/a: a recording without router probabilities" in line for line in lines) == 1


def test_an_ordered_recording_says_so(write: Write) -> None:
    path = write("a", run_of(20, 1))
    routing = compared(path, path).routing
    assert routing is not None
    assert routing.ordered
    found = printed_comparison(compare([path, path]))["pairs"][0]["agreement"]["routing"]
    assert (found["top_1"], found["order_unavailable"]) == (1.0, None)
