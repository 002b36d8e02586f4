"""The next turn: the context becomes the rendered conversation, and what it shared with it is kept."""

from __future__ import annotations

import pytest

from moe_watch.backends.generation.injections import Turn
from moe_watch.backends.generation.next_turn import prepare_turn
from moe_watch.backends.protocol import Perturb, ShowPrompt, Stop
from moe_watch.backends.run_spec import RunSpec, TeacherTokens, TeacherTurn
from moe_watch.backends.text.dialogue import Dialogue
from moe_watch.backends.text.tokenizer import TextCodec
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Perturbation, State, Token
from tests.backends import tiny
from tests.backends.conftest import OpenModel
from tests.backends.scripted import GREEDY, Session, start
from tests.backends.text.small_templates import ALL, DROPS_THOUGHTS, KEEPS, NEVER_KEEPS, REFUSES_SYSTEM, codec

THOUGHT = "<think>\nhm\n</think>\n\nIt is é🙂."


class TextOnly:
    """Engine without a model."""

    def __init__(self, of: TextCodec, context_length: int = 10_000) -> None:
        self.codec = of
        self.context_length = context_length

    def encode(self, text: str, *, turn: bool, first: bool) -> list[int]:
        assert not turn
        return self.codec.encode(text, first=first)


def texts(of: TextCodec, ids: list[int]) -> list[tuple[int, str]]:
    detokenizer = of.detokenizer()
    return [(token, detokenizer.add(token)) for token in ids]


def asked(template: str, answer: str, *, ends: bool = False, text: str = "And now?") -> tuple[Dialogue, Turn]:
    """A conversation of one turn and its answer, and the turn that follows."""
    engine = TextOnly(codec(template))
    opening = [{"role": "user", "content": "Hello."}]
    dialogue = Dialogue(opening, engine.codec.ends)
    first = engine.encode(engine.codec.render([opening])[0], turn=False, first=False)
    dialogue.add(texts(engine.codec, first), "prompt")
    answered = engine.encode(answer, turn=False, first=False) + [tiny.EOS] * ends
    dialogue.add(texts(engine.codec, answered), "generated")
    injection = prepare_turn(Perturb(text=text, form="turn", renders_all=True), dialogue, engine)
    assert injection.turn is not None
    return dialogue, injection.turn


@pytest.mark.parametrize("answer", ["Hi there.", THOUGHT, " spaces \n", "", "[/INST] </s>"])
@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("template", ALL.values(), ids=ALL)
def test_the_context_becomes_the_tokens_of_the_rendered_conversation(template: str, answer: str, ends: bool) -> None:
    dialogue, turn = asked(template, answer, ends=ends)
    of = codec(template)
    conversation = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": answer.removesuffix("</s>")},
        {"role": "user", "content": "And now?"},
    ]
    whole = of.encode(of.render([conversation])[0], first=False)
    dialogue.rewind(turn.kept)
    assert dialogue.ids + turn.new == whole
    assert turn.new


def test_an_answer_that_is_kept_is_not_evaluated_again() -> None:
    dialogue, turn = asked(KEEPS, "Hi there.")
    assert (turn.cut, turn.again, turn.rewrites) == (0, 0, False)
    assert turn.kept == len(dialogue.ids)


def test_an_end_of_text_that_the_template_writes_too_is_kept() -> None:
    dialogue, turn = asked(KEEPS, "Hi there.", ends=True)
    assert (turn.cut, turn.rewrites, turn.kept) == (0, False, len(dialogue.ids))


def test_an_end_of_text_that_the_template_does_not_write_is_cut_and_no_new_context_begins() -> None:
    """The end token is no text of the conversation, so nothing of it is evaluated again."""
    _, turn = asked(KEEPS.replace("</s>", "\n"), "Hi there.", ends=True)
    assert (turn.cut, turn.again, turn.rewrites) == (1, 0, False)


def test_thoughts_are_cut_and_the_answer_is_evaluated_again() -> None:
    dialogue, turn = asked(DROPS_THOUGHTS, THOUGHT)
    first = len(codec(DROPS_THOUGHTS).encode("<|user|>Hello.</s><|assistant|>", first=False))
    said = "It is é🙂."
    assert turn.rewrites
    assert (turn.kept, turn.cut) == (first, len(dialogue.ids) - first)
    assert turn.again == len(said.encode())


def test_the_beginning_of_an_answer_that_is_not_in_the_past_is_cut() -> None:
    _, turn = asked(NEVER_KEEPS, "Hi.")
    marks = len(codec(NEVER_KEEPS).encode("<think></think>", first=False))
    assert turn.rewrites
    assert (turn.cut, turn.again) == (marks + 3, 3)


def test_a_trimmed_answer_is_cut_at_its_first_space() -> None:
    _, turn = asked(REFUSES_SYSTEM, " Hi.")
    assert turn.rewrites
    assert (turn.cut, turn.again) == (4, 3)


def test_a_conversation_longer_than_the_context_is_refused() -> None:
    engine = TextOnly(codec(KEEPS), context_length=20)
    dialogue = Dialogue([{"role": "user", "content": "Hello."}], engine.codec.ends)
    with pytest.raises(UserError, match=r"the whole conversation has 21 tokens, and the context holds 20"):
        prepare_turn(Perturb(text="And now?", form="turn"), dialogue, engine)


# -- with engines


def context_after(session: Session) -> list[list[int]]:
    """The contexts of a run, as a reader of its events has them."""
    contexts: list[list[int]] = [[]]
    before: list[int] = []
    for event in session.events:
        kind = type(event).__name__
        if kind == "State" and event.state == "fresh_context":
            before = contexts[-1]
            contexts.append([])
        elif kind == "Perturbation" and event.kept is not None:
            contexts[-1] = (contexts[-1] or before)[: event.kept]
        elif kind == "Token":
            contexts[-1].append(event.id)
    return contexts


TEMPLATES = {name: source for name, source in ALL.items() if name != "inst"}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_two_turns_give_the_context_and_the_predictions_of_the_rendered_conversation(
    open_model: OpenModel, template: str
) -> None:
    engine = open_model(template)
    first = len(engine.encode("Hello.", turn=True, first=True)) + 5
    turns = [Perturb(text=text, form="turn", at_once=True, renders_all=True) for text in ("And now?", "Last?")]
    session = Session(engine).run(start("Hello."), (first, turns[0]), (first + 90, turns[1]), (first + 300, Stop()))
    assert session.refusals == []
    assert [each.text for each in session.perturbations] == ["And now?", "Last?"]
    context = context_after(session)[-1]
    assert engine.position == len(context)
    last = session.perturbations[-1]
    assert last.kept is not None
    length = last.kept + len(last.ids)
    assert context[last.kept : length] == last.ids

    # The same tokens in an empty context: the model predicts the same.
    engine.reset()
    engine.configure(GREEDY, reseed=True)
    list(engine.prefill(context[:length], lambda _: None))
    assert [engine.draw().id for _ in range(5)] == context[length : length + 5]


def test_a_cache_that_cannot_be_cut_is_filled_again(open_model: OpenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_model(NEVER_KEEPS)
    monkeypatch.setattr(type(engine), "truncate", lambda self, length: False)
    turn = Perturb(text="And now?", form="turn", at_once=True, renders_all=True)
    session = Session(engine).run(start("Hello.", tokens=8), (0, turn))
    [event] = session.perturbations
    assert event.kept == 0
    assert ("fresh_context", "turn") in [state[:2] for state in session.states]
    assert engine.position == len(context_after(session)[-1])
    assert event.ids == context_after(session)[-1][: len(event.ids)]


@pytest.mark.parametrize("can_cut", [True, False], ids=["cut", "filled again"])
@pytest.mark.parametrize("template", [NEVER_KEEPS, KEEPS.replace("</s>", "\n")], ids=["rewrites", "ends otherwise"])
def test_teacher_forcing_repeats_the_cuts(
    open_model: OpenModel, monkeypatch: pytest.MonkeyPatch, template: str, can_cut: bool
) -> None:
    engine = open_model(template)
    first = len(engine.encode("Hello.", turn=True, first=True)) + 5
    turn = Perturb(text="And now?", form="turn", at_once=True, renders_all=True)
    taught = Session(engine).run(start("Hello."), (first, turn), (first + 150, Stop()))
    pieces = pieces_of(taught)
    if not can_cut:
        monkeypatch.setattr(type(engine), "truncate", lambda self, length: False)
    forced = Session(engine).run(start("", teacher=pieces))
    assert [(token.i, token.id, token.source) for token in forced.tokens] == [
        (token.i, token.id, token.source) for token in taught.tokens
    ]
    assert context_after(forced) == context_after(taught)
    assert [(each.kept, each.cut, each.again) for each in forced.perturbations] == [
        (each.kept, each.cut, each.again) for each in taught.perturbations
    ]
    differences = [
        abs(a.logprob - b.logprob)
        for a, b in zip(forced.tokens, taught.tokens, strict=True)
        if a.logprob is not None and b.logprob is not None
    ]
    assert differences
    assert max(differences) < 1e-3


def pieces_of(session: Session) -> list[TeacherTokens]:
    """The tokens of a run in the form that another run takes."""
    found: list[TeacherTokens] = []
    fresh, ended, turn = False, True, None
    for event in session.events:
        if isinstance(event, State) and event.state == "fresh_context":
            fresh = ended = True
        elif isinstance(event, Perturbation):
            turn = None if event.kept is None else TeacherTurn(event.kept, event.again, fresh)
            ended = True
        elif isinstance(event, Token):
            if ended or found[-1].source != event.source:
                found.append(TeacherTokens(event.source, [], "", turn))
            last = found[-1]
            found[-1] = TeacherTokens(last.source, [*last.ids, event.id], last.text + event.text, last.turn)
            fresh, ended, turn = False, False, None
    return found


def test_a_raw_prompt_is_no_conversation_and_its_turn_is_appended(open_model: OpenModel) -> None:
    engine = open_model(NEVER_KEEPS)
    turn = Perturb(text="And now?", form="turn", at_once=True, renders_all=True)
    session = Session(engine).run(start("Hello.", raw=True, tokens=8), (0, turn))
    [event] = session.perturbations
    assert (event.kept, event.cut, event.form) == (None, 0, "turn")


def test_the_next_turn_can_be_seen_before_it_is_sent(open_model: OpenModel) -> None:
    engine = open_model(NEVER_KEEPS)
    first = len(engine.encode("Hello.", turn=True, first=True)) + 5
    show = ShowPrompt(spec=RunSpec(prompt="And now?"), turn=True)
    turn = Perturb(text="And now?", form="turn", at_once=True, renders_all=True)
    session = Session(engine).run(start("Hello."), (first, show), (first, turn), (first + 60, Stop()))
    [shown] = session.previews
    [event] = session.perturbations
    assert shown.prompt is not None
    last = shown.prompt.tokens[shown.prompt.kept :]
    assert "And now?" in shown.prompt.text
    assert (shown.prompt.kept, shown.prompt.cut + 1) == (event.kept, event.cut)  # one token later
    assert last[0].id == event.ids[0]
