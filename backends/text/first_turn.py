"""First turn of a conversation: the system prompt and the user's text, as the chat template writes them."""

from __future__ import annotations

from moe_watch.backends.engine import Codec, Engine, Messages
from moe_watch.backends.run_spec import RunSpec
from moe_watch.backends.text.tokenizer import TemplateFailure
from moe_watch.routing.errors import UserError

IN_THE_PROMPT = "put its text at the beginning of the prompt, and leave out --system"


def user_says(text: str) -> dict[str, str]:
    """Return a message of the user."""
    return {"role": "user", "content": text}


def opening(spec: RunSpec) -> Messages:
    """Return the messages that a run begins with."""
    system = [] if spec.system is None else [{"role": "system", "content": spec.system}]
    return [*system, user_says(spec.prompt)]


def is_turn(codec: Codec, spec: RunSpec) -> bool:
    """Return whether the model's chat template formats the prompt."""
    return codec.has_chat_template and not spec.raw and spec.teacher is None


def first_text(codec: Codec, name: str, spec: RunSpec) -> str:
    """Return the text of a run's first turn, up to the start of the model's answer.

    Args:
        codec: tokenizer and chat template of the model.
        name: name of the model, for messages.
        spec: options of the run.

    Raises:
        UserError: the template fails, or it refuses the system prompt.
    """
    try:
        return codec.render([opening(spec)])[0]
    except TemplateFailure as error:
        if spec.system is not None and _renders(codec, [user_says(spec.prompt)]):
            what = f"the chat template of {name} refuses a system prompt ({error.reason})"
            raise UserError(what, advice=IN_THE_PROMPT) from error
        raise


def _renders(codec: Codec, messages: Messages) -> bool:
    try:
        codec.render([messages])
    except TemplateFailure:
        return False
    return True


def prompt_tokens(engine: Engine, spec: RunSpec) -> list[int]:
    """Return the token ids of a run's prompt.

    Raises:
        UserError: the template fails, or there is no place for the system prompt.
    """
    check_system(engine.codec, engine.model.name, spec)
    if not is_turn(engine.codec, spec):
        return engine.encode(spec.prompt, turn=False, first=True)
    return engine.encode(first_text(engine.codec, engine.model.name, spec), turn=False, first=False)


def check_system(codec: Codec, name: str, spec: RunSpec) -> None:
    """Refuse a system prompt that no template would format.

    Raises:
        UserError: the prompt is raw, or the model has no chat template.
    """
    if spec.system is None or is_turn(codec, spec):
        return
    if not codec.has_chat_template:
        raise UserError(
            f"{name} has no chat template, so it takes no system prompt",
            advice="put its text at the beginning of the prompt, or give a --template",
        )
    raise UserError("a raw prompt takes no system prompt", advice="leave out --raw or --system")
