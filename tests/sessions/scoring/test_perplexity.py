"""Windows of a text, and the scored half of each, with a worker that answers from a table."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from moe_watch.backends.scoring_messages import Scored, Tokenized
from moe_watch.routing.errors import UserError
from moe_watch.routing.router.masks import parse_mask
from moe_watch.sessions.scoring.perplexity import read_text, score_windows, text_windows

BEGIN = 1000


class LetterWorker:
    """Worker whose tokens are the letters of a text, and whose surprisal of token `t` is ln of its id."""

    def __init__(self, begin=BEGIN, value=None):
        self.begin, self.value, self.commands, self.plain = begin, value, [], None

    def tokenize(self, texts, *, plain=False):
        self.plain = plain
        return Tokenized(ids=[[ord(letter) for letter in text] for text in texts], begin=self.begin)

    def score(self, command):
        self.commands.append(command)
        ids = np.array(command.ids[1:], float)
        surprisal = np.log(ids) if self.value is None else np.full(len(ids), self.value)
        yield Scored(mask=-1, surprisal=surprisal.astype("<f8").tobytes())


def letters(count):
    return "".join(chr(100 + at % 50) for at in range(count))


def test_whole_windows_and_one_last_newline_less():
    worker = LetterWorker()
    text = text_windows(worker, letters(44) + "\n", 10)
    assert (len(text.ids), text.tokens, text.begin) == (4, 44, BEGIN)
    assert [token for window in text.ids for token in window] == [ord(letter) for letter in letters(40)]
    assert worker.plain
    assert len(text_windows(worker, letters(44), 10, most=2).ids) == 2


def test_only_the_last_newline_is_left_out():
    assert text_windows(LetterWorker(), letters(20) + "\n\n", 10).tokens == 21


def test_the_first_token_is_replaced_and_the_second_half_is_scored():
    worker, told = LetterWorker(), []
    text = text_windows(worker, letters(20), 10)
    found = score_windows(worker, text, parse_mask("0:1"), told.append)
    assert [command.ids[0] for command in worker.commands] == [BEGIN, BEGIN]
    assert [command.ids[1:] for command in worker.commands] == [ids[1:] for ids in text.ids]
    assert {command.window for command in worker.commands} == {10}
    assert [command.base for command in worker.commands] == [[(0, [1])], [(0, [1])]]
    for window, surprisal in zip(text.ids, found, strict=True):
        assert surprisal.tolist() == [log(token) for token in window[6:]]
    assert told == [1, 2]


def test_a_vocabulary_without_a_begin_token_keeps_the_first_one():
    worker = LetterWorker(begin=None)
    text = text_windows(worker, letters(20), 10)
    score_windows(worker, text, parse_mask("0:1"), lambda _: None)
    assert [command.ids for command in worker.commands] == text.ids


def test_a_text_of_less_than_two_windows_is_refused():
    with pytest.raises(UserError, match=r"19 tokens, fewer than 2 windows of 10: give a longer text"):
        text_windows(LetterWorker(), letters(19), 10)
    with pytest.raises(UserError, match=r"the text has 1 token, fewer than 2 windows"):
        text_windows(LetterWorker(), letters(1), 10)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_predictions_that_are_no_numbers_are_refused(value):
    worker = LetterWorker(value=value)
    with pytest.raises(UserError, match="predictions in window 0 are not numbers"):
        score_windows(worker, text_windows(worker, letters(20), 10), parse_mask("0:1"), lambda _: None)


def test_a_text_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_text(tmp_path / "none.txt", None, None)
    with pytest.raises(UserError, match="Is a directory"):
        read_text(tmp_path, None, None)
    (tmp_path / "latin.txt").write_bytes(b"abc\xff")
    with pytest.raises(UserError, match=r"latin.txt is not UTF-8 text \(byte 3\)"):
        read_text(tmp_path / "latin.txt", None, None)
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\n")
    with pytest.raises(UserError, match="--context is 7: use at least 8"):
        read_text(tmp_path / "text.txt", 7, None)
    found = read_text(tmp_path / "text.txt", None, None)
    assert (found.text, found.window, found.name) == ("\ufeffa\r\nb\n", 512, "text.txt")
