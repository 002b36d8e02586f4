"""Preview of a prompt or of the next turn, between two tokens of a run or between two runs."""

from __future__ import annotations

from moe_watch.backends.engine import Engine
from moe_watch.backends.generation.next_turn import prepare_turn
from moe_watch.backends.protocol import Perturb, PromptShown, RenderedPrompt, ShowPrompt
from moe_watch.backends.text.dialogue import Dialogue
from moe_watch.backends.text.rendered_prompt import rendered_prompt, shown_tokens
from moe_watch.routing.errors import UserError


def preview(command: ShowPrompt, engine: Engine, dialogue: Dialogue | None = None) -> PromptShown:
    """Return the prompt of a command as the model would be sent it.

    Args:
        command: the prompt.
        engine: the loaded model.
        dialogue: conversation in the present context, for a turn; None if there is none.
    """
    try:
        if not command.turn:
            return PromptShown(prompt=rendered_prompt(engine, command.spec))
        if dialogue is None:
            return PromptShown(problem="no run is in progress")
        return PromptShown(prompt=_turn(command.spec.prompt, engine, dialogue))
    except UserError as error:
        return PromptShown(problem=str(error))


def _turn(text: str, engine: Engine, dialogue: Dialogue) -> RenderedPrompt:
    if not dialogue.is_conversation:
        ids = engine.encode(text, turn=True, first=False)
        tokens = shown_tokens(engine, [*dialogue.ids, *ids])
        return RenderedPrompt(tokens=tokens, template=engine.codec.template, kept=len(dialogue.ids))
    injection = prepare_turn(Perturb(text=text, form="turn", renders_all=True), dialogue, engine)
    turn = injection.turn
    kept, cut = (0, 0) if turn is None else (turn.kept, turn.cut)
    whole = injection.ids if turn is None else turn.whole
    return RenderedPrompt(tokens=shown_tokens(engine, whole), template=engine.codec.template, kept=kept, cut=cut)
