"""Format check: comparison of the text that a model is sent with what its chat template and its tokenizer demand.

A wrong format is no error of the engine: the model answers, only worse. docs/templates.md lists the checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moe_watch.backends.engine import Codec, Engine
from moe_watch.backends.run_spec import RunSpec
from moe_watch.backends.text.first_turn import is_turn
from moe_watch.backends.text.template_frame import PROBE, TemplateFrame, frame_of
from moe_watch.backends.text.turn_check import contains, left_out

FAMILIES = {
    "<|im_start|>": "ChatML",
    "<|im_end|>": "ChatML",
    "<|start_header_id|>": "Llama 3",
    "<|eot_id|>": "Llama 3",
    "<<SYS>>": "Llama 2",
    "[INST]": "Mistral",
    "[/INST]": "Mistral",
    "<start_of_turn>": "Gemma",
    "<end_of_turn>": "Gemma",
    "<|user|>": "Phi and GLM",
    "<|assistant|>": "Phi and GLM",
    "<｜User｜>": "DeepSeek",
    "<｜Assistant｜>": "DeepSeek",
    "<|START_OF_TURN_TOKEN|>": "Command R",
    "<|start_of_role|>": "Granite",
}
"""Turn markers, and the family of templates that each is known from."""


def template_warnings(engine: Engine) -> list[str]:
    """Return warnings for the header about a chat template. A template that fails is refused when it is used."""
    frame = frame_of(engine.codec)
    if frame is None:
        return []
    ids = engine.codec.encode(frame.turn, first=False)
    found = [*_begin_warnings(engine.codec, ids, "the chat template"), *_end_warnings(engine.codec, frame)]
    if not contains(engine, ids, PROBE):
        found.insert(0, f"{left_out(engine, ids)}; give --raw, and inject texts raw")
    return found


def prompt_warnings(engine: Engine, spec: RunSpec, ids: Sequence[int]) -> list[str]:
    """Return warnings about the prompt of a run.

    Args:
        engine: engine of the run.
        spec: options of the run.
        ids: tokens of the prompt.
    """
    if spec.teacher is not None:
        return []
    codec, frame = engine.codec, frame_of(engine.codec)
    if is_turn(codec, spec):
        return [*_turn_warnings(engine, spec, ids, frame), *_foreign_markers(codec, spec, frame)]
    warnings = [*_begin_warnings(codec, ids, "the prompt"), *_foreign_markers(codec, spec, frame)]
    if frame is not None and frame.markers and not any(marker in spec.prompt for marker in frame.markers):
        markers = ", ".join(frame.markers)
        warnings.append(
            f"the raw prompt has none of the turn markers that this model was trained with ({markers}): "
            "leave out --raw to have them written"
        )
    return warnings


def _turn_warnings(engine: Engine, spec: RunSpec, ids: Sequence[int], frame: TemplateFrame | None) -> Iterator[str]:
    if not contains(engine, ids, spec.prompt):
        yield left_out(engine, ids)
    if spec.system and not contains(engine, ids, spec.system):
        yield "the chat template leaves out the system prompt: put its text at the beginning of the prompt"
    own = [marker for marker in _brackets(frame) if marker in spec.prompt]
    if own:
        yield f"the prompt has turn markers ({', '.join(own)}), and the chat template adds them again: give --raw"
    elif spec.prompt and _begins_twice(engine.codec, ids) and not _template_begins_twice(engine.codec, frame):
        yield f"the prompt begins with {engine.codec.decode([ids[0]])} twice: leave it out of the prompt"


def _brackets(frame: TemplateFrame | None) -> tuple[str, ...]:
    """Return the turn markers of a template that are no ordinary words."""
    return () if frame is None else tuple(marker for marker in frame.markers if not marker.strip(":").isalpha())


def _begin_warnings(codec: Codec, ids: Sequence[int], what: str) -> Iterator[str]:
    begin = codec.begin
    if _begins_twice(codec, ids):
        yield f"{what} begins with {codec.decode([ids[0]])} twice: the model was trained with one"
    elif begin is not None and list(ids[:1]) != [begin]:
        yield f"{what} does not begin with {codec.decode([begin])}, which the tokenizer puts before every text"


def _begins_twice(codec: Codec, ids: Sequence[int]) -> bool:
    """Return whether the text begins with its begin-of-text token and the same token again."""
    return len(ids) > 1 and ids[0] == ids[1] and codec.is_special(ids[0])


def _template_begins_twice(codec: Codec, frame: TemplateFrame | None) -> bool:
    """Return whether the fault is the template's own, which `template_warnings` has."""
    return frame is not None and _begins_twice(codec, codec.encode(frame.turn, first=False))


def _end_warnings(codec: Codec, frame: TemplateFrame) -> Iterator[str]:
    """Warn if the token that ends an answer in the template does not end a run."""
    marker = frame.end_marker
    if not marker:
        return
    ids = codec.encode(marker, first=False)
    if len(ids) == 1 and ids[0] in codec.ends:
        return
    plain = f" (plain text of {len(ids)} tokens)" if len(ids) > 1 else ""
    stops = ", ".join(codec.decode([token]) for token in sorted(codec.ends)[:3]) or "nothing"
    yield f"the chat template ends an answer with {marker}{plain}, and a run stops at {stops}: answers may run on"


def _foreign_markers(codec: Codec, spec: RunSpec, frame: TemplateFrame | None) -> Iterator[str]:
    """Warn about turn markers of other families, which this model reads as plain text."""
    own = "" if frame is None else frame.turn + frame.end
    for marker, family in FAMILIES.items():
        if marker in spec.prompt and marker not in own:
            ids = codec.encode(marker, first=False)
            if len(ids) > 1:
                yield (
                    f"the prompt has {marker}, a turn marker of {family}, "
                    f"which is plain text of {len(ids)} tokens for this model"
                )
                return
