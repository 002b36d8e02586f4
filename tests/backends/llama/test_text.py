"""Text to tokens and back with llama.cpp, and conversations."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import gguf
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.engine import Engine
from moe_watch.routing.errors import UserError
from tests.backends import llama_files, tiny
from tests.backends.llama_files import Open
from tests.backends.mlx.test_engine import begin


@pytest.fixture(scope="module")
def open_gguf() -> Iterator[Open]:
    with llama_files.opening() as load_path:
        yield load_path


@pytest.fixture(scope="module")
def mixtral_gguf(open_gguf: Open, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return open_gguf(llama_files.write_gguf(tmp_path_factory.mktemp("gguf") / "mixtral.gguf"))


@pytest.fixture(scope="module")
def pocket(open_gguf: Open) -> Engine:
    return open_gguf("pocket")


def test_characters_come_whole(mixtral_gguf: Engine) -> None:
    ids = mixtral_gguf.encode("é日本😀 a", turn=False, first=False)
    detokenizer = mixtral_gguf.detokenizer()
    assert [detokenizer.add(token) for token in ids] == [
        "", "é", "", "", "日", "", "", "本", "", "", "", "😀", " ", "a",
    ]  # fmt: skip
    broken = mixtral_gguf.detokenizer()
    assert "".join(broken.add(token) for token in [ids[0], ids[-1], tiny.EOS]) == "\N{REPLACEMENT CHARACTER}a</s>"


@pytest.mark.parametrize(
    "text", ["", "def f(x):\n    return x", "naïve 中文 🐍\ttab\r\n", "</s> inside", "a\0b", "\udc80 lone"]
)
def test_text_comes_back(pocket: Engine, text: str) -> None:
    ids = pocket.encode(text, turn=False, first=False)
    detokenizer = pocket.detokenizer()
    assert "".join(map(detokenizer.add, ids)) == text.encode(errors="replace").decode()


def test_raw_text_begins_once(mixtral_gguf: Engine) -> None:
    assert mixtral_gguf.encode("a", turn=False, first=True)[0] == tiny.BOS
    assert tiny.BOS not in mixtral_gguf.encode("a", turn=False, first=False)


def test_a_turn_begins_and_continues_a_conversation(open_gguf: Open, tmp_path: pathlib.Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_chat_template(tiny.CHAT_TEMPLATE)

    chat = open_gguf(llama_files.write_gguf(tmp_path / "chat.gguf", change=change))
    assert chat.has_chat_template
    codec = tiny.byte_tokenizer()
    first = chat.encode("hi", turn=True, first=True)
    assert codec.decode(first, skip_special_tokens=False) == "[user]hi</s>[assistant]"
    begin(chat, prompt=first)
    chat.draw(last=True)
    following = chat.encode("go on", turn=True, first=False)
    assert codec.decode(following, skip_special_tokens=False) == "</s>[user]go on</s>[assistant]"
    list(chat.prefill([tiny.EOS], lambda _: None))
    following = chat.encode("go on", turn=True, first=False)
    assert codec.decode(following, skip_special_tokens=False) == "[user]go on</s>[assistant]"


def test_a_failing_template_is_a_plain_error(open_gguf: Open, tmp_path: pathlib.Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_chat_template("{{ raise_exception('no users here') }}")

    engine = open_gguf(llama_files.write_gguf(tmp_path / "m.gguf", change=change))
    with pytest.raises(UserError, match=r"no users here.*--raw"):
        engine.encode("hi", turn=True, first=True)


def sentence_piece(writer: gguf.GGUFWriter) -> None:
    """A vocabulary of words that begin with a space, and of single bytes for all that is no word."""
    pieces = ["<s>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", "a", "b", "▁ab"]
    kinds = gguf.TokenType
    types = [kinds.CONTROL, kinds.CONTROL, kinds.UNKNOWN, *[kinds.BYTE] * 256, *[kinds.NORMAL] * 5]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([float(number) for number in range(len(pieces))])
    writer.add_token_types(types)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


def test_the_space_in_front_of_a_text_is_no_part_of_it(open_gguf: Open, tmp_path: pathlib.Path) -> None:
    config = tiny.MIXTRAL | {"vocab_size": 264}
    engine = open_gguf(llama_files.write_gguf(tmp_path / "spm.gguf", config, tokenizer=sentence_piece))
    ids = engine.encode("ab aé", turn=False, first=False)
    detokenizer = engine.detokenizer()
    assert [detokenizer.add(token) for token in ids] == ["ab", " a", "", "é"]
