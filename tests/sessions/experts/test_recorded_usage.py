"""Usage from recordings and from files of other programs: what they have, and the reason for what they lack."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from moe_watch.routing.arrays import Ints
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Change, Header, Token, to_json
from moe_watch.routing.experts.stability import FEWEST_BLOCKS
from moe_watch.routing.experts.sums import ExpertSums, total
from moe_watch.sessions.experts.profile_maker import make_profile
from moe_watch.sessions.experts.recorded_usage import BLOCK_TOKENS, usage_of_files
from moe_watch.sessions.experts.usage_groups import ObservedUsage
from moe_watch.sessions.imports.importer import import_trace
from moe_watch.sessions.imports.traces import ImportOptions
from tests.sessions.imports import foreign_files
from tests.sessions.kit import EXPERTS, HEADER, LAYERS, MODEL, K
from tests.sessions.made_sessions import bare, made_tokens, write_session

NOTHING = ImportOptions()


def sums_of(usage: ObservedUsage) -> ExpertSums:
    return total(block for group in usage.groups for block in group.blocks)


def counted(tokens: list[Token]) -> tuple[Ints, list[list[int]]]:
    """Return selections and weights in units, counted one by one."""
    counts = np.zeros((LAYERS, EXPERTS), np.int64)
    weights = [[0] * EXPERTS for _ in range(LAYERS)]
    for token in tokens:
        assert token.experts is not None
        assert token.weights is not None
        for at, (expert, weight) in enumerate(zip(token.experts, token.weights, strict=True)):
            if expert is not None:
                counts[at // K, expert] += 1
                weights[at // K][expert] += weight or 0
    return counts, weights


def test_a_recording(tmp_path: Path) -> None:
    number = BLOCK_TOKENS * 2 + 10
    path = write_session(tmp_path / "a.moe.jsonl", number)
    usage = usage_of_files([path], NOTHING)
    counts, weights = counted(made_tokens(number))
    sums = sums_of(usage)
    assert sums.counts.tolist() == counts.tolist()
    assert sums.rows.tolist() == [number] * LAYERS
    np.testing.assert_allclose(sums.weights, np.array(weights) * 1e-4)
    entropy = np.array([token.entropy for token in made_tokens(number)]) * 1e-4
    np.testing.assert_allclose(sums.mean_entropy, entropy.mean(0))
    assert [int(each.rows[0]) for each in usage.groups[0].blocks] == [BLOCK_TOKENS, BLOCK_TOKENS, 10]
    assert (usage.block, usage.groups[0].tokens, usage.groups[0].name) == ("tokens", number, "a.moe.jsonl")
    assert set(usage.absent) == {"saliency", "saliency_mass"}
    assert (usage.model.name, usage.model.layers, usage.model.engine) == (MODEL.name, [1, 2, 4], "script")
    profile = make_profile(usage)
    assert set(profile.unavailable) == {"saliency", "saliency_mass", "num_hidden_layers", "fingerprint", "stability"}
    assert "3 blocks cannot be resampled" in profile.unavailable["stability"]


def test_a_long_recording_is_resampled(tmp_path: Path) -> None:
    path = write_session(tmp_path / "a.moe.jsonl", BLOCK_TOKENS * FEWEST_BLOCKS)
    stability = make_profile(usage_of_files([path], NOTHING)).stability
    assert stability is not None
    assert (stability.block, stability.blocks) == ("tokens", FEWEST_BLOCKS)
    assert set(stability.within) == {"count", "weight_mass"}


def test_a_recording_without_weights(tmp_path: Path) -> None:
    path = write_session(tmp_path / "a.moe.jsonl", events=[bare(token) for token in made_tokens(30)])
    usage = usage_of_files([path], NOTHING)
    assert sums_of(usage).weights is None
    assert usage.absent["weight_mass"] == "a.moe.jsonl has no router weights"
    assert usage.absent["router_entropy"] == "a.moe.jsonl has no router entropy"
    assert make_profile(usage).weight_mass is None


def test_unobserved_rows_are_not_counted(tmp_path: Path) -> None:
    events = made_tokens(30)
    for at in (3, 4):
        events[at] = msgspec.structs.replace(
            events[at],
            experts=[*events[at].experts[: 2 * K], None, None],  # type: ignore[index]
            weights=[*events[at].weights[: 2 * K], None, None],  # type: ignore[index]
            entropy=[*events[at].entropy[:2], None],  # type: ignore[index]
            margin=[*events[at].margin[:2], None],  # type: ignore[index]
        )
    events[7] = msgspec.structs.replace(events[7], experts=[None] * LAYERS * K, weights=None, entropy=None, margin=None)
    path = write_session(tmp_path / "a.moe.jsonl", events=events)
    usage = usage_of_files([path], NOTHING)
    counts, weights = counted([each for each in events if each.weights is not None])
    assert sums_of(usage).rows.tolist() == [29, 29, 27]
    assert sums_of(usage).counts.tolist() == counts.tolist()
    np.testing.assert_allclose(sums_of(usage).weights, np.array(weights) * 1e-4)
    assert usage.groups[0].tokens == 29


def test_several_recordings_are_groups(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    paths = [write_session(tmp_path / "a.moe.jsonl", 20), write_session(tmp_path / "b" / "a.moe.jsonl", 40)]
    usage = usage_of_files(paths, NOTHING)
    assert [(each.name, each.tokens) for each in usage.groups] == [("a.moe.jsonl", 20), ("a.moe.jsonl (2)", 40)]
    profile = make_profile(usage)
    assert profile.calibration_examples == 2
    assert profile.stability is not None
    assert profile.stability.across is not None


def test_masked_experts_and_another_k_are_warned_about(tmp_path: Path) -> None:
    tokens = made_tokens(30)
    masked = Change(i=5, t=1.0, mask=[(1, [0])])
    header = msgspec.structs.replace(HEADER, model=msgspec.structs.replace(MODEL, own_experts_per_token=3))
    path = write_session(tmp_path / "a.moe.jsonl", header=header, events=[*tokens[:5], masked, *tokens[5:]])  # type: ignore[list-item]
    warnings = usage_of_files([path], NOTHING).warnings
    assert any("experts were switched off in the run" in each for each in warnings)
    assert any("the run has 2 experts per token, the model itself has 3" in each for each in warnings)


def test_counts_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    foreign_files.write_imatrix(path)
    usage = usage_of_files([path], NOTHING)
    assert sums_of(usage).counts.tolist() == foreign_files.counts().tolist()
    assert usage.block is None
    assert usage.absent["weight_mass"] == "imatrix.gguf has no router weights"
    profile = make_profile(usage)
    assert profile.calibration_tokens == foreign_files.TOKENS
    assert "only sums of counts" in profile.unavailable["stability"]
    assert "prefill" in profile.warnings[0]


def test_an_import_has_the_counts_of_its_source(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    foreign_files.write_imatrix(path)
    session = import_trace(path, NOTHING, output=tmp_path / "counts.moe.jsonl").path
    usage = usage_of_files([session], NOTHING)
    assert sums_of(usage).counts.tolist() == foreign_files.counts().tolist()
    assert (usage.block, usage.groups[0].tokens) == (None, foreign_files.TOKENS)


def test_counts_by_step_are_blocks(tmp_path: Path) -> None:
    steps = np.random.default_rng(1).integers(0, 50, (12, 2, 4))
    steps[:, :, 0] += steps.sum(2) % 2  # whole tokens, top-2
    path = tmp_path / "dump.npz"
    np.savez(path, logical_count=steps)
    options = ImportOptions(experts=4, experts_per_token=2)
    usage = usage_of_files([path], options)
    assert (usage.block, len(usage.groups[0].blocks)) == ("step", 12)
    assert sums_of(usage).counts.tolist() == steps.sum(0).tolist()
    session = import_trace(path, options, output=tmp_path / "steps.moe.jsonl").path
    again = usage_of_files([session], NOTHING)
    assert (again.block, len(again.groups[0].blocks)) == ("step", 12)
    assert sums_of(again).counts.tolist() == steps.sum(0).tolist()


def test_routing_of_another_program(tmp_path: Path) -> None:
    example = foreign_files.EXAMPLES["csv"]
    usage = usage_of_files([example.write(tmp_path)], example.options)
    assert sums_of(usage).counts.tolist() == foreign_files.counts().tolist()
    assert (usage.block, usage.groups[0].tokens) == ("tokens", foreign_files.TOKENS)


def test_a_profile_of_the_reference_tool_can_be_imported(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    counts = {str(at): row for at, row in enumerate(foreign_files.counts().tolist())}
    path.write_bytes(msgspec.json.encode({"activation_counts": counts, "num_experts_per_tok": foreign_files.K}))
    usage = usage_of_files([import_trace(path, NOTHING, output=tmp_path / "a.moe.jsonl").path], NOTHING)
    assert sums_of(usage).counts.tolist() == foreign_files.counts().tolist()


def other_header(**changes: object) -> Header:
    return msgspec.structs.replace(HEADER, model=msgspec.structs.replace(MODEL, **changes))


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ({"layers": [1, 2, 4]}, {"layers": [1, 2, 3]}, "different layers or experts"),
        ({"fingerprint": "a"}, {"fingerprint": "b"}, "different models (another fingerprint)"),
        ({"gate": "top_k_softmax"}, {"gate": "softmax_top_k"}, "different models (another gate)"),
    ],
)
def test_recordings_of_different_models_are_refused(
    tmp_path: Path, a: dict[str, object], b: dict[str, object], said: str
) -> None:
    paths = [
        write_session(tmp_path / f"{name}.moe.jsonl", 10, header=other_header(**changes))
        for name, changes in (("a", a), ("b", b))
    ]
    with pytest.raises(UserError) as caught:
        usage_of_files(paths, NOTHING)
    assert said in str(caught.value)


def test_a_dense_recording_is_refused(tmp_path: Path, golden_path: Path) -> None:
    with pytest.raises(UserError, match="dense"):
        usage_of_files([golden_path.with_name("golden-1.3-dense.moe.jsonl")], NOTHING)


def test_a_recording_without_routing_is_refused(tmp_path: Path) -> None:
    unobserved = [
        msgspec.structs.replace(token, experts=[None] * LAYERS * K, weights=None, entropy=None, margin=None)
        for token in made_tokens(10)
    ]
    path = write_session(tmp_path / "a.moe.jsonl", events=unobserved)
    with pytest.raises(UserError, match="no routing in it"):
        usage_of_files([path], NOTHING)


def test_a_model_in_place_of_a_file_names_the_option(tmp_path: Path) -> None:
    from moe_watch.backends.model_files.catalog import POCKET_FOLDER, POCKET_GGUF

    for path in (POCKET_GGUF, POCKET_FOLDER, Path("pocket"), Path("owner/model")):
        with pytest.raises(UserError, match=r"--corpus FILE\.jsonl"):
            usage_of_files([path], NOTHING)


def test_a_damaged_recording_is_refused(tmp_path: Path) -> None:
    path = write_session(tmp_path / "a.moe.jsonl", 10)
    lines = path.read_bytes().split(b"\n")
    lines[4] = b'{"event": "token"'
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(UserError, match="line 5"):
        usage_of_files([path], NOTHING)


def test_experts_per_token_by_layer(tmp_path: Path, golden_path: Path) -> None:
    usage = usage_of_files([golden_path.with_name("golden-by-layer.moe.jsonl")], NOTHING)
    assert len(set(usage.model.k)) > 1
    profile = make_profile(usage)
    assert profile.num_experts_per_tok == usage.model.k
    assert profile.rows is not None
    for k, (layer, counts) in zip(usage.model.k, profile.activation_counts.items(), strict=True):
        assert sum(counts) == profile.rows[layer] * k


def test_a_recording_that_begins_in_the_middle_of_a_run(tmp_path: Path) -> None:
    from moe_watch.routing.pressure.instruments import Instruments

    instruments = Instruments(HEADER)
    for token in made_tokens(10):
        list(instruments.feed(token))
    rest = made_tokens(40)[10:]
    lines = [to_json(each) for each in (HEADER, instruments.keyframe(), *rest)]
    path = tmp_path / "a.moe.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    usage = usage_of_files([path], NOTHING)
    assert sums_of(usage).counts.tolist() == counted(rest)[0].tolist()
    assert any("tokens before 10 are missing, and not counted" in each for each in usage.warnings)


def test_a_model_is_named_by_the_file_that_states_it(tmp_path: Path) -> None:
    header = other_header(name="unknown")
    paths = [write_session(tmp_path / "a.moe.jsonl", 9, header=header), write_session(tmp_path / "b.moe.jsonl", 9)]
    assert usage_of_files(paths, NOTHING).model.name == MODEL.name
