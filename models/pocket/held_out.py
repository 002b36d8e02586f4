"""Write the source files that pocket was not trained on as two halves: one to rank experts, one to score models.

    python models/pocket/held_out.py

It needs the interpreter that pocket was trained with: the corpus is the source of its standard library.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import sysconfig

from corpus import read_corpus

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = pathlib.Path(__file__).with_name("held_out")


def main() -> None:
    """Check the corpus, and write both halves and the licence of the text."""
    provenance = json.loads((ROOT / "backends" / "pocket" / "provenance.json").read_text(encoding="utf-8"))
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    corpus = read_corpus(library, seed=provenance["recipe"]["seed"])
    if corpus.sha256 != provenance["corpus_sha256"]:
        raise SystemExit(f"this interpreter's library is another one: run it with Python {provenance['python']}")
    names = {path.read_bytes(): path.relative_to(library).as_posix() for path in library.rglob("*.py")}
    files = sorted((names[text.encode()], text) for text in corpus.held_out)
    rank, score = halves(files)
    FOLDER.mkdir(exist_ok=True)
    lines = [json.dumps({"name": name, "text": text}, ensure_ascii=False) + "\n" for name, text in rank]
    (FOLDER / "rank.jsonl").write_text("".join(lines), encoding="utf-8")
    (FOLDER / "score.txt").write_text("\n".join(text for _, text in score), encoding="utf-8")
    shutil.copyfile(library / "LICENSE.txt", FOLDER / "LICENSE.txt")
    for half, of in (("rank.jsonl", rank), ("score.txt", score)):
        print(f"{half}: {', '.join(name for name, _ in of)}")


def halves(files: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Divide whole files into halves of about equal length: the longest file first, each to the shorter half."""
    divided: tuple[list[tuple[str, str]], list[tuple[str, str]]] = ([], [])
    for file in sorted(files, key=lambda file: len(file[1]), reverse=True):
        min(divided, key=lambda half: sum(len(text) for _, text in half)).append(file)
    return sorted(divided[0]), sorted(divided[1])


if __name__ == "__main__":
    main()
