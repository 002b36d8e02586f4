"""Search of all places, and the list of the models in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from moe_watch.backends.discovery.candidates import FoundFiles, ModelCandidate, folder_candidate, search_tree
from moe_watch.backends.discovery.engines import engine_problem, is_installed
from moe_watch.backends.discovery.facts import FactsCache, ModelFacts, facts_of
from moe_watch.backends.discovery.places import SearchPlace
from moe_watch.backends.discovery.results import ListedModel, ModelList, OtherFile, SearchedPlace
from moe_watch.backends.discovery.stores import search_flat, search_hub, search_ollama
from moe_watch.backends.model_files.catalog import ENGINE_OF_FORMAT, POCKET, locate

Report = Callable[[int, int], None]
"""Function that receives the number of models read, and of all."""


@dataclass(slots=True)
class _Found:
    """Candidates of all places, each file once."""

    candidates: list[tuple[ModelCandidate, SearchPlace | None]] = field(default_factory=list)
    """With the place; None for the embedded model."""
    others: dict[Path, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seen: set[tuple[int, int] | Path] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def add(self, candidate: ModelCandidate, place: SearchPlace | None) -> None:
        """Add a candidate, unless the same file was found before under another path."""
        identity = file_identity(candidate.path)
        if identity in self.seen:
            return
        self.seen.add(identity)
        if candidate.name in self.names:  # the name leads to the place that is searched first
            candidate = replace(candidate, name=str(candidate.path))
        self.names.add(candidate.name)
        self.candidates.append((candidate, place))


def find_models(
    places: Sequence[SearchPlace], cache: FactsCache, available: int, report: Report = lambda _done, _total: None
) -> ModelList:
    """Search the places, and return their models.

    Args:
        places: places in the order of the search.
        cache: facts of earlier searches.
        available: memory that is available now, in bytes.
        report: receives the progress.
    """
    found = _Found()
    if (pocket := _pocket()) is not None:
        found.add(pocket, None)
    for place in places:
        content = _search(place)
        found.notes += content.notes
        found.others |= dict(content.others)
        for candidate in content.candidates:
            found.add(candidate, place)
    models, counts = [], Counter[SearchPlace | None]()
    for number, (candidate, source) in enumerate(found.candidates):
        report(number, len(found.candidates))
        facts = facts_of(candidate, cache)
        if facts.kind:
            found.others[candidate.path] = facts.kind
            continue
        models.append(_listed(candidate, facts, available))
        counts[source] += 1
    cache.save()
    return ModelList(
        models=sorted(models, key=lambda model: model.problem is not None),
        others=[OtherFile(path=str(path), kind=kind) for path, kind in found.others.items()],
        searched=[_searched(place, counts) for place in places],
        notes=found.notes,
        available_bytes=available,
    )


def candidates_in(places: Sequence[SearchPlace]) -> Iterator[ModelCandidate]:
    """Yield the candidates of the places as they are found, each file once; no header is read."""
    found = _Found()
    for place in places:
        for candidate in _search(place).candidates:
            number = len(found.candidates)
            found.add(candidate, place)
            yield from (each for each, _ in found.candidates[number:])


def _search(place: SearchPlace) -> FoundFiles:
    if not place.folder.is_dir():
        missing = place.kind in ("settings", "given")
        return FoundFiles(notes=[f"{place.folder}: no such folder"] if missing else [])
    match place.kind:
        case "Hugging Face":
            return search_hub(place.folder)
        case "llama.cpp":
            return search_flat(place.folder)
        case "Ollama":
            return search_ollama(place.folder)
        case _:
            return search_tree(place.folder, place.kind)


def _pocket() -> ModelCandidate | None:
    location = locate(POCKET)
    if location.path is None:
        return None
    if location.format == "huggingface":
        return folder_candidate(POCKET, location.path, "built in")
    return ModelCandidate(POCKET, location.path, "built in", "gguf", (location.path,))


def file_identity(path: Path) -> tuple[int, int] | Path:
    """Return the file behind links and hard links."""
    try:
        status = path.stat()
    except OSError:
        return path
    return status.st_dev, status.st_ino


def _listed(candidate: ModelCandidate, facts: ModelFacts, available: int) -> ListedModel:
    unsupported = "" if facts.problem else engine_problem(candidate.format, facts.architecture)
    problem = facts.problem or unsupported
    needed = facts.needed_bytes
    return ListedModel(
        name=candidate.name,
        path=str(candidate.path),
        place=candidate.place,
        format=candidate.format,
        engine=None if unsupported else ENGINE_OF_FORMAT[candidate.format],
        installed=is_installed(candidate.format),
        architecture=facts.architecture,
        layers=facts.layers,
        blocks=facts.blocks,
        experts=facts.experts,
        experts_per_token=facts.experts_per_token,
        whole_experts=facts.whole_experts,
        bytes=facts.weight_bytes,
        quantization=facts.quantization,
        template=facts.template,
        needed_bytes=needed,
        fits=None if needed is None or problem else needed <= available,
        problem=problem or None,
    )


def _searched(place: SearchPlace, counts: Counter[SearchPlace | None]) -> SearchedPlace:
    return SearchedPlace(place=place.kind, folder=str(place.folder), exists=place.folder.is_dir(), models=counts[place])
