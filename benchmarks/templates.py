"""Table of chat templates: which of them keep a conversation as it was sent and answered.

`python -m benchmarks.templates FOLDER` reads all `*.jinja` files of a folder, such as the one in the source
archive of llama.cpp, and prints the table of docs/templates.md. A second turn is asked by the code of a run, after an
answer and after an answer with thoughts; the resulting context is compared with the tokens of the whole rendered
conversation. One token per byte shows what the template does; a tokenizer that merges may lose a few tokens more.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from moe_watch.backends.engine import Messages
from moe_watch.backends.generation.next_turn import prepare_turn
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import Perturb
from moe_watch.backends.text.chat_template import ChatTemplate
from moe_watch.backends.text.dialogue import Dialogue
from moe_watch.backends.text.special_tokens import AddedTokens
from moe_watch.backends.text.template_frame import MARKER, frame_of
from moe_watch.backends.text.tokenizer import TemplateFailure, TextCodec
from moe_watch.backends.text.tokenizer_file import TokenizerFile
from moe_watch.routing.errors import UserError
from tests.backends.text.small_templates import ByteTokens

OPENING: Messages = [{"role": "user", "content": "Hello."}]
TURN = "And now?"
ANSWERS = {"plain": "Hi there.", "thoughts": "<think>\nhm\n</think>\n\nHi there."}
SYSTEM = {"role": "system", "content": "Be brief."}

KEPT = "prefix kept"
LOST_BY_THOUGHTS = "lost where the answer has thoughts"
NEVER = "never kept"
FAILS = "cannot render"
KINDS = (KEPT, LOST_BY_THOUGHTS, NEVER, FAILS)


VARIABLES: dict[str, object] = {"bos_token": "<s>", "eos_token": "</s>", "tools": None, "documents": None}


class TextOnly:
    """Engine without a model."""

    context_length = 1 << 20

    def __init__(self, codec: TextCodec) -> None:
        self.codec = codec

    def encode(self, text: str, *, turn: bool, first: bool) -> list[int]:  # noqa: ARG002 - as an engine's
        return self.codec.encode(text, first=first)


@dataclass(slots=True)
class TemplateFinding:
    """Behaviour of one template."""

    name: str
    kind: str
    note: str = ""
    cut: dict[str, int] = field(default_factory=dict)
    """Bytes cut from the context, by answer."""
    refuses_system: str = ""
    """Message for a system prompt; empty if the template takes one."""


def pocket_tokens() -> TokenizerFile:
    """Return pocket's tokenizer, which merges characters across the borders of a turn where it can."""
    folder = catalog.fetch(catalog.locate("pocket", "mlx"), lambda _: None).path
    if folder is None:
        raise ValueError("pocket has no folder")
    return TokenizerFile(folder, [])


def codec_of(source: str, tokens: TokenizerFile | ByteTokens) -> TextCodec:
    """Return a tokenizer with this template."""
    template = ChatTemplate(source, VARIABLES)
    codec = TextCodec(tokens, "archive", lambda: template, AddedTokens(tokens, lambda: VARIABLES))
    codec.replace_template(source, "archive")
    return codec


def cut_by(codec: TextCodec, answer: str) -> int:
    """Ask a second turn after this answer; return the number of tokens that leave the context.

    Raises:
        ValueError: the context is not the rendered conversation.
    """
    engine = TextOnly(codec)
    dialogue = Dialogue(OPENING, codec.ends)
    for text, source in ((codec.render([OPENING])[0], "prompt"), (answer, "generated")):
        ids = codec.encode(text, first=False)
        detokenizer = codec.detokenizer()
        dialogue.add([(token, detokenizer.add(token)) for token in ids], source)  # type: ignore[arg-type]
    turn = prepare_turn(Perturb(text=TURN, form="turn", renders_all=True), dialogue, engine).turn
    if turn is None:
        raise ValueError("the turn was appended")
    whole = codec.render([[*OPENING, {"role": "assistant", "content": answer}, {"role": "user", "content": TURN}]])[0]
    dialogue.rewind(turn.kept)
    if dialogue.ids + turn.new != codec.encode(whole, first=False):
        raise ValueError("the context is not the rendered conversation")
    return turn.cut


def finding(path: Path) -> TemplateFinding:
    """Return the behaviour of a template."""
    source = path.read_text("utf-8")
    codec = codec_of(source, ByteTokens(special=[]))
    try:
        cut = {name: cut_by(codec, answer) for name, answer in ANSWERS.items()}
        cut_by(codec_of(source, pocket_tokens()), ANSWERS["plain"])
    except UserError as error:
        return TemplateFinding(path.stem, FAILS, error.reason if isinstance(error, TemplateFailure) else str(error))
    kind = NEVER if cut["plain"] else LOST_BY_THOUGHTS if cut["thoughts"] else KEPT
    return TemplateFinding(path.stem, kind, _markers(codec), cut, _system(codec))


def _markers(codec: TextCodec) -> str:
    frame = frame_of(codec)
    return "" if frame is None else " ".join(MARKER.findall(frame.end)[:1])


def _system(codec: TextCodec) -> str:
    try:
        text = codec.render([[SYSTEM, *OPENING]])[0]
    except TemplateFailure as error:
        return error.reason
    return "" if SYSTEM["content"] in text else "dropped"


def table(findings: Iterable[TemplateFinding]) -> str:
    """Return the table in Markdown, and the totals."""
    findings = list(findings)
    counts = Counter(each.kind for each in findings)
    lines = [f"{len(findings)} templates: " + ", ".join(f"{counts[kind]} {kind}" for kind in KINDS), ""]
    lines += ["| template | the next turn | bytes cut: answer / with thoughts | system prompt |", "|---|---|---|---|"]
    for each in sorted(findings, key=lambda each: (KINDS.index(each.kind), each.name.lower())):
        cut = f"{each.cut['plain']} / {each.cut['thoughts']}" if each.cut else each.note
        lines.append(f"| {each.name} | {each.kind} | {cut} | {each.refuses_system or 'taken' if each.cut else ''} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table of a folder."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.templates FOLDER")
    paths = sorted(Path(sys.argv[1]).glob("*.jinja"))
    if not paths:
        sys.exit(f"{sys.argv[1]} has no *.jinja file")
    print(table(finding(path) for path in paths))


if __name__ == "__main__":
    main()
