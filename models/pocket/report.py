"""Renderer of pocket's README from its template and the evaluation's numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from string import Template
from typing import Any

Json = dict[str, Any]
Row = Sequence[object]


def table(header: Row, rows: Iterable[Row]) -> str:
    """Return a Markdown table, with numbers aligned right."""
    rule = ["---:"] * len(header)
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (header, rule, *rows))


def loss_table(training: Json) -> str:
    if "curve" not in training:
        return "(The training log was not given to this evaluation.)"
    rows = [(f"{row['step']:,}", f"{row['nats_per_token']:.3f}", f"{row['balance']:.3f}") for row in training["curve"]]
    return table(("step", "nats per token", "balance loss"), rows)


def position_table(rows: list[Json]) -> str:
    return table(
        ("position", "tokens", "nats per token", "router entropy"),
        [
            (
                f"{row['from']:,}–{row['to']:,}",
                f"{row['tokens']:,}",
                f"{row['nats_per_token']:.3f}",
                f"{row['router_entropy']:.3f}",
            )
            for row in rows
        ],
    )


def usage_table(usage: Json) -> str:
    experts = len(usage["shares"][0])
    header = ("layer", *(f"e{e}" for e in range(experts)), "usage entropy", "router entropy", "dead")
    columns = zip(usage["shares"], usage["usage_entropy"], usage["router_entropy"], usage["dead"], strict=True)
    rows = [
        (layer, *(f"{100 * share:.1f}" for share in portions), f"{evenness:.3f}", f"{entropy:.3f}", unused)
        for layer, (portions, evenness, entropy, unused) in enumerate(columns)
    ]
    return table(header, rows)


def specialisation_table(found: Json) -> str:
    columns = zip(found["distance"], found["null_median"], found["null_95"], found["p"], strict=True)
    rows = [
        (layer, f"{distance:.3f}", f"{median:.3f}", f"{high:.3f}", f"{p:.3f}")
        for layer, (distance, median, high, p) in enumerate(columns)
    ]
    return table(("layer", "distance", "null, median", "null, 95 %", "p"), rows)


def dead_experts(usage: Json) -> str:
    unused = sum(usage["dead"])
    return f"{unused} experts were never selected" if unused else "Every expert was selected"


def phases(recipe: Json) -> str:
    return " and then ".join(f"{steps:,} steps of {length:,}-token" for steps, length in recipe["phases"])


def running_time(training: Json) -> str:
    return f", in {training['minutes']:.0f} minutes" if "minutes" in training else ""


def render(evaluation: Json, template: str) -> str:
    """Fill the template.

    Raises:
        KeyError: the template has a name without a value.
    """
    training, held_out, found = evaluation["training"], evaluation["held_out"], evaluation["specialisation"]
    provenance, sample = evaluation["provenance"], evaluation["sample"]
    return Template(template).substitute(
        parameters=f"{evaluation['parameters']:,}",
        python=provenance["python"],
        corpus_sha256=provenance["corpus_sha256"],
        files=provenance["files"],
        megabytes=provenance["corpus_megabytes"],
        torch=provenance["torch"],
        transformers=provenance["transformers"],
        seed=provenance["recipe"]["seed"],
        phases=" and then ".join(
            f"{steps:,} steps of {length:,}-token" for steps, length in provenance["recipe"]["phases"]
        ),
        tokens_per_step=f"{provenance['recipe']['tokens_per_step']:,}",
        corpus_tokens=f"{training['corpus_tokens'] / 1e6:.2f}",
        tokens_seen=f"{training['tokens_seen'] / 1e6:.1f}",
        epochs=f"{training['epochs']:.1f}",
        running_time=running_time(training),
        loss_table=loss_table(training),
        held_out_files=held_out["files"],
        held_out_tokens=f"{held_out['tokens']:,}",
        nats=f"{held_out['nats_per_token']:.3f}",
        bits=f"{held_out['bits_per_byte']:.3f}",
        position_table=position_table(evaluation["by_position"]),
        usage_table=usage_table(evaluation["usage"]),
        dead_experts=dead_experts(evaluation["usage"]),
        permutations=found["permutations"],
        permutations_and_found=f"{found['permutations'] + 1:,}",
        runs=f"{found['runs']:,}",
        prose_tokens=f"{found['prose_tokens']:,}",
        code_tokens=f"{found['code_tokens']:,}",
        specialisation_table=specialisation_table(found),
        sample_seed=sample["seed"],
        sample_prompt=sample["prompt"],
        sample_text=sample["text"],
    )
