"""Models in Ollama's store: from a name to the GGUF file of its manifest. Uses no network, and not Ollama itself.

Layout, from the source of Ollama: `manifests/HOST/NAMESPACE/NAME/TAG` is JSON with layers; the layer with media type
`application/vnd.ollama.image.model` is the GGUF file `blobs/sha256-DIGEST`. `manifests-v2/` has the same paths as links
to blobs, and a manifest there may be a list of manifests, one per runner.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from moe_watch.backends.model_files.safetensors import unreadable
from moe_watch.backends.system.regular_files import read_regular
from moe_watch.routing.errors import UserError

PREFIX = "ollama:"
HOST, NAMESPACE, TAG = "registry.ollama.ai", "library", "latest"
"""Parts of a name that may be left out."""

PART = r"[A-Za-z0-9_](?:[\w.-]*[\w-])?"
NAME = re.compile(
    rf"(?:(?:(?P<host>{PART}(?::\d+)?)/)?(?P<namespace>{PART})/)?(?P<name>{PART})(?::(?P<tag>{PART}))?", re.ASCII
)
DIGEST = re.compile(r"sha256[:-](?P<hex>[0-9a-fA-F]{64})")

MODEL_LAYER = "application/vnd.ollama.image.model"
TENSOR_LAYER = "application/vnd.ollama.image.tensor"
"""Layer of a model for Ollama's MLX runner: one tensor."""
MANIFESTS = ("manifests-v2", "manifests")
LONGEST_MANIFEST = 16_000_000
"""Bytes. A manifest with one layer per tensor has some hundred kilobytes."""
SERVICE = Path("/usr/share/ollama/.ollama/models")
"""Store of the service that Ollama's installer sets up on Linux."""
NAMED_IN_ADVICE = 8


@dataclass(frozen=True, slots=True, order=True)
class OllamaName:
    """Name of a model in the store."""

    host: str
    namespace: str
    name: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> OllamaName | None:
        """Return the name with its defaults filled in; None if it has another form."""
        found = NAME.fullmatch(text)
        if found is None:
            return None
        return cls(found["host"] or HOST, found["namespace"] or NAMESPACE, found["name"], found["tag"] or TAG)

    @property
    def short(self) -> str:
        """The name with its tag, without a default host and namespace, as `ollama list` prints it."""
        host = "" if self.host == HOST else f"{self.host}/"
        namespace = "" if self.namespace == NAMESPACE and not host else f"{self.namespace}/"
        return f"{host}{namespace}{self.name}:{self.tag}"

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """Path of the manifest below its folder."""
        return self.host, self.namespace, self.name, self.tag


@dataclass(frozen=True, slots=True)
class StoredModel:
    """Manifest of a model."""

    name: OllamaName
    manifest: Path
    store: Path

    def file(self) -> Path:
        """Return the model's GGUF file.

        Raises:
            UserError: the manifest cannot be read, names no GGUF file, or the file is missing.
        """
        digest = _model_digest(self, _read(self.manifest))
        path = self.store / "blobs" / f"sha256-{digest}"
        if not path.exists():
            raise UserError(f"{path} is missing", advice=self._again)
        return path

    @property
    def _again(self) -> str:
        return f"run `ollama pull {self.name.short}`"


def stores() -> list[Path]:
    """Return the folders in which Ollama keeps models, in search order; they may not exist."""
    given = os.environ.get("OLLAMA_MODELS", "").strip()
    usual = Path("~/.ollama/models").expanduser()
    found = [Path(given).expanduser()] if given else []
    return list(dict.fromkeys([*found, usual, *([SERVICE] if sys.platform == "linux" else [])]))


def stored_models(store: Path) -> Iterator[StoredModel]:
    """Yield the models of a store, in the order of their names.

    Raises:
        OSError: a folder cannot be read.
    """
    found: dict[OllamaName, StoredModel] = {}
    for folder in MANIFESTS:
        for path in _manifests(store / folder):
            name = OllamaName(*path.relative_to(store / folder).parts)
            if OllamaName.parse(name.short) == name:
                found.setdefault(name, StoredModel(name, path, store))
    yield from (found[name] for name in sorted(found))


def find(text: str) -> Path:
    """Return the GGUF file of a model, given its name without `ollama:`.

    Raises:
        UserError: no store has the model, or its files are damaged.
    """
    name = OllamaName.parse(text)
    if name is None:
        raise UserError(f"{PREFIX + text!r} is not a name of Ollama", advice="give ollama:NAME or ollama:NAME:TAG")
    for store in stores():
        for folder in MANIFESTS:
            manifest = (store / folder).joinpath(*name.parts)
            if manifest.is_file():
                return StoredModel(name, manifest, store).file()
    raise UserError(f"Ollama has no model {name.short} on this machine", advice=_advice(name))


def _advice(name: OllamaName) -> str:
    """Return advice with the names that exist, the tags of the same model first."""
    there = sorted({each.name for store in stores() for each in _stored(store)})
    if not there:
        return f"run `ollama pull {name.short}`; there are no models in {' or '.join(map(str, stores()))}"
    near = [each for each in there if each.name == name.name] or there
    more = f" and {len(near) - NAMED_IN_ADVICE} more" if len(near) > NAMED_IN_ADVICE else ""
    return f"it has {', '.join(each.short for each in near[:NAMED_IN_ADVICE])}{more}"


def _stored(store: Path) -> list[StoredModel]:
    try:
        return list(stored_models(store))
    except OSError:
        return []


def _manifests(folder: Path) -> list[Path]:
    """Return the files four levels below a folder; none if it does not exist."""
    found = [folder]
    for level in range(4):
        below = []
        for each in found:
            try:
                with os.scandir(each) as entries:
                    below += [Path(entry.path) for entry in entries if entry.is_dir() or level == 3]
            except (FileNotFoundError, NotADirectoryError):
                continue
        found = below
    return sorted(path for path in found if not path.is_dir())


def _read(path: Path) -> Mapping[str, object]:
    try:
        manifest = json.loads(read_regular(path, LONGEST_MANIFEST))
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON", advice="pull the model again") from error
    return manifest if isinstance(manifest, dict) else {}


def _model_digest(model: StoredModel, manifest: Mapping[str, object]) -> str:
    """Return the digest of the GGUF file, from a manifest or from the first entry of a list that has one."""
    entries = [manifest, *_dictionaries(manifest.get("manifests"))]
    for entry in entries:
        layers = _dictionaries(entry.get("layers"))
        if not layers and (child := DIGEST.fullmatch(str(entry.get("digest", "")))) is not None:
            layers = _dictionaries(_read(model.store / "blobs" / f"sha256-{child['hex']}").get("layers"))
        for layer in layers:
            digest = DIGEST.fullmatch(str(layer.get("digest", "")))
            if layer.get("mediaType") == MODEL_LAYER and digest is not None:
                return digest["hex"]
        if any(layer.get("mediaType") == TENSOR_LAYER for layer in layers) and entry is entries[-1]:
            raise UserError(
                f"{PREFIX}{model.name.short} is stored as single tensors for Ollama's MLX runner, not as a GGUF file",
                advice="pull another tag",
            )
    raise UserError(f"{model.manifest} names no GGUF file", advice=f"run `ollama pull {model.name.short}`")


def _dictionaries(value: object) -> list[Mapping[str, object]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
