"""Check of the project's English: docstring openings, and words that docs/glossary.md replaces.

`python -m tests.house.language [PATH …]` prints every place, and a table; `make lint` runs it.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("moe_watch", "routing", "vitals", "backends", "sessions", "tui", "commands", "benchmarks", "models")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs")
GLOSSARY = ROOT / "docs" / "glossary.md"
"""Names the replaced words itself."""

MAX_OPENING_SHARE = 0.03
MAX_DIALECT_SHARE = 0.001

OPENING = re.compile(
    r"(what|how|whether|those|where|whoever|whose|which|that|when|why|as many|as much|so many|so much)\b", re.IGNORECASE
)
DIALECT = re.compile(
    r"\b(somebody|someone|whoever|whatever|nobody|anybody|so many|as many as|so much|goes on|go on with|going on|"
    r"comes? to|came to|lies|stands?|stood|a person|persons?|anew|those of|those that|those who|tells?|told|let be|"
    r"made of|of its own|of their own|of theirs|brought|brings?|wants?|knows?|knew|known to|says so|said so|"
    r"looked for|looks? for|looked at|happens? to|hand of|thereof|therein|hence|whereof|such as it is|likewise|"
    r"cannot be had|can be had|be had|gone through|goes through|at hand|"
    r"turns? out|put together|what is|what are)\b",
    re.IGNORECASE,
)
WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


class Piece(NamedTuple):
    """One text: a docstring, a comment, a message or a page."""

    path: Path
    line: int
    kind: str
    text: str


def pieces(path: Path) -> Iterator[Piece]:
    """Yield the English texts of a Python file or a page."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield Piece(path, 1, "page", CODE.sub(" ", source))
        return
    places = set()
    for node in ast.walk(ast.parse(source)):
        for statement in getattr(node, "body", None) or () if not isinstance(node, ast.Lambda | ast.IfExp) else ():
            value = getattr(statement, "value", None)
            if isinstance(statement, ast.Expr) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                places.add((value.lineno, value.col_offset))
                yield Piece(path, value.lineno, "docstring", CODE.sub(" ` ", value.value))
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and (node.lineno, node.col_offset) not in places
        ):
            yield Piece(path, node.lineno, "message", CODE.sub(" ", node.value) if node.value.count(" ") > 1 else "")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Piece(path, token.start[0], "comment", CODE.sub(" ", token.string.lstrip("# ")))


def files(names: Iterable[str | Path]) -> Iterator[Path]:
    """Yield the Python files and pages under the given names, each once."""
    for name in names:
        path = ROOT / name
        found = [path] if path.is_file() else sorted(each for end in ("*.py", "*.md") for each in path.rglob(end))
        yield from (each for each in found if each != GLOSSARY and "pocket" not in each.parts[-2:-1])


def opens_badly(piece: Piece) -> bool:
    """Return whether a docstring opens with a word that names no action and no thing."""
    return piece.kind == "docstring" and OPENING.match(piece.text.strip()) is not None


def main(arguments: list[str]) -> int:
    """Print the places and the shares, and return 1 if a share is above its bound."""
    found = [piece for path in files(arguments or [*PRODUCT, *PAGES]) for piece in pieces(path)]
    openings = [piece for piece in found if opens_badly(piece)]
    docstrings = sum(piece.kind == "docstring" for piece in found)
    words, hits = 0, 0
    for piece in found:
        words += len(WORD.findall(piece.text))
        for match in DIALECT.finditer(piece.text):
            hits += 1
            line = piece.line + piece.text[: match.start()].count("\n")
            print(f"{piece.path.relative_to(ROOT)}:{line}: {piece.kind}: {match[0]!r}")
    for piece in openings:
        print(f"{piece.path.relative_to(ROOT)}:{piece.line}: opening: {piece.text.strip()[:60]!r}")
    print(f"openings {len(openings)} of {docstrings} docstrings, dialect {hits} of {words} words")
    bad = len(openings) > MAX_OPENING_SHARE * docstrings or hits > MAX_DIALECT_SHARE * words
    return int(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
