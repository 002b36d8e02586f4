"""Measured windows of an ablation, kept in a file so that an interrupted measurement can be resumed.

The file has one JSON object per line: the plan, then each evaluation as it is measured. Numbers are stored exactly, so
that a resumed measurement has the same result.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np

from moe_watch.backends.scoring_messages import UsageSums
from moe_watch.routing.arrays import Floats, packed, unpacked
from moe_watch.routing.errors import UserError, system_error
from moe_watch.routing.header import BackendInfo, ModelInfo
from moe_watch.sessions import paths

FORMAT = 1
ENDING = ".partial"
"""Ending of the file's name, after the name of the result."""


class AblationPlan(msgspec.Struct, frozen=True, kw_only=True, tag="ablation"):
    """Model, engine, tokens and choice of experts: all that the numbers depend on."""

    format: int = FORMAT
    model: ModelInfo
    backend: BackendInfo
    tokens: str
    """SHA-256 of the windows' tokens."""
    window: int
    layers: list[int]
    """Model layer indices of the layers to measure."""
    experts: int | None
    """Experts to measure of each layer; None for all."""
    saliency: bool


class WholeWindow(msgspec.Struct, frozen=True, kw_only=True, tag="whole"):
    """Evaluation of a window with all experts on."""

    window: int
    surprisal: bytes
    """64-bit floats, little-endian: sum over each block of tokens."""
    usage: UsageSums


class MaskedWindow(msgspec.Struct, frozen=True, kw_only=True, tag="masked"):
    """Evaluation of a window with one expert off."""

    window: int
    layer: int
    """Model layer index."""
    expert: int
    delta: bytes
    """64-bit floats, little-endian: sum of Δ surprisal over each block; empty if no token selects the expert."""
    divergence: bytes
    """The same of KL."""


Evaluation = WholeWindow | MaskedWindow
_lines = msgspec.json.Decoder(AblationPlan | WholeWindow | MaskedWindow)


class AblationRecords:
    """Measured windows. Use as a context manager.

    Args:
        plan: the measurement.
        blocks: number of blocks of each window.
        path: the file; None keeps the windows in memory only.

    Raises:
        UserError: on entering, the file is of another measurement, is damaged or in use, or cannot be written.
    """

    def __init__(self, plan: AblationPlan, blocks: list[int], path: Path | None) -> None:
        self._plan = plan
        self._blocks = blocks
        self._path = path
        self._descriptor = -1
        self.whole: dict[int, WholeWindow] = {}
        """By window."""
        self._masked: list[dict[tuple[int, int], tuple[Floats, Floats]]] = [{} for _ in blocks]
        """By window, then by model layer index and expert: block sums of Δ surprisal and of KL."""

    def __enter__(self) -> AblationRecords:
        if self._path is not None:
            with _converted(self._path):
                paths.make_private(self._path.parent)
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
                self._descriptor = os.open(self._path, flags, 0o600)
            try:
                self._claim(self._path)
                self._load(self._path)
            except BaseException:
                os.close(self._descriptor)
                raise
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if self._descriptor >= 0:
            if not self.is_resumed:  # the plan alone is nothing to resume
                with suppress(OSError):
                    self.discard()
            os.close(self._descriptor)

    @property
    def is_resumed(self) -> bool:
        """True if windows are there, of this or an earlier attempt."""
        return bool(self.whole) or any(self._masked)

    def measured(self, window: int) -> set[tuple[int, int]]:
        """Return the experts that are measured in a window, by model layer index and number."""
        return set(self._masked[window])

    def sums(self, layer: int, expert: int) -> tuple[Floats, Floats]:
        """Return the sums of Δ surprisal and of KL of an expert over the blocks of all windows, [B] each."""
        found = [each[layer, expert] for each in self._masked]
        return np.concatenate([each[0] for each in found]), np.concatenate([each[1] for each in found])

    def add(self, measured: Evaluation) -> None:
        """Store an evaluation.

        Raises:
            UserError: the file cannot be written.
        """
        self._keep(measured)
        self._append(measured)

    def sync(self) -> None:
        """Write the file to disk.

        Raises:
            UserError: it cannot be written.
        """
        if self._path is not None:
            with _converted(self._path):
                os.fsync(self._descriptor)

    def discard(self) -> None:
        """Remove the file; its windows are part of the result."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _append(self, line: AblationPlan | Evaluation) -> None:
        if self._path is None:
            return
        left = memoryview(msgspec.json.encode(line) + b"\n")
        with _converted(self._path):
            while left:
                left = left[os.write(self._descriptor, left) :]

    def _claim(self, path: Path) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{path}: another ablation is writing it", advice="wait for it to end") from error

    def _load(self, path: Path) -> None:
        """Read the lines of an earlier attempt, cut off a torn last line, and write the plan into a new file."""
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise _damaged(path)
        with _converted(path), open(self._descriptor, "rb", closefd=False) as file:
            content = file.read()
        whole = content.rfind(b"\n") + 1
        lines = content[:whole].splitlines()
        if lines:
            kept = _decoded(lines[0], path)
            if not isinstance(kept, AblationPlan):
                raise _damaged(path)
            _require_same(kept, self._plan, path)
        for line in lines[1:]:
            found = _decoded(line, path)
            if isinstance(found, AblationPlan) or not self._fits(found):
                raise _damaged(path)
            self._keep(found)
        with _converted(path):
            os.ftruncate(self._descriptor, whole)
            os.lseek(self._descriptor, whole, os.SEEK_SET)
        if not lines:
            self._append(self._plan)

    def _fits(self, found: Evaluation) -> bool:
        """Return whether an evaluation is of a window and an expert of the plan."""
        if not 0 <= found.window < len(self._blocks):
            return False
        blocks, model = self._blocks[found.window], self._plan.model
        if isinstance(found, WholeWindow):
            return _are_numbers(found.surprisal, blocks) and _fits(found.usage, self._plan)
        known = found.layer in self._plan.layers and 0 <= found.expert < model.experts
        if not found.delta and not found.divergence:
            return known
        return known and _are_numbers(found.delta, blocks) and _are_numbers(found.divergence, blocks)

    def _keep(self, measured: Evaluation) -> None:
        if isinstance(measured, WholeWindow):
            self.whole[measured.window] = measured
            return
        zero = np.zeros(self._blocks[measured.window])
        self._masked[measured.window][measured.layer, measured.expert] = (
            unpacked(measured.delta) if measured.delta else zero,
            unpacked(measured.divergence) if measured.divergence else zero,
        )


def masked_window(window: int, expert: tuple[int, int], delta: Floats, divergence: Floats) -> MaskedWindow:
    """Return the record of an evaluation with one expert off, from its block sums [B]; empty if not evaluated."""
    layer, number = expert
    return MaskedWindow(window=window, layer=layer, expert=number, delta=packed(delta), divergence=packed(divergence))


def partial_file(output: Path) -> Path:
    """Return the file of the measured windows, beside the file of the result."""
    return output.with_name(output.name + ENDING)


def _decoded(line: bytes, path: Path) -> AblationPlan | Evaluation:
    try:
        found: AblationPlan | Evaluation = _lines.decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _damaged(path) from error
    return found


def _are_numbers(content: bytes, count: int) -> bool:
    """Return whether the bytes are this number of finite numbers."""
    return len(content) == 8 * count and bool(np.isfinite(unpacked(content)).all())


def _fits(usage: UsageSums, plan: AblationPlan) -> bool:
    """Return whether the sums have the shape of the plan's model, and possible values."""
    layers, experts = len(plan.model.layers), plan.model.experts
    tables = [usage.counts, usage.weights, usage.norms]
    rows = [usage.rows, usage.entropy]
    return (
        (usage.norms is not None) == plan.saliency
        and all(table is None or [len(row) for row in table] == [experts] * layers for table in tables)
        and all(row is None or len(row) == layers for row in rows)
        and all(value >= 0 for table in tables for row in table or () for value in row)
        and all(value >= 0 for row in rows for value in row or ())
    )


def _damaged(path: Path) -> UserError:
    return UserError(f"{path}: not the windows of an ablation", advice="delete it to start over, or give another -o")


def _require_same(kept: AblationPlan, plan: AblationPlan, path: Path) -> None:
    """Refuse to resume the measurement of another model, engine, text or choice of experts."""
    names = [name for name in plan.__struct_fields__ if getattr(kept, name) != getattr(plan, name)]
    for name in ("model", "backend"):
        if name in names:
            one, other = getattr(kept, name), getattr(plan, name)
            fields = [each for each in one.__struct_fields__ if getattr(one, each) != getattr(other, each)]
            names[names.index(name)] = f"{name} {', '.join(fields)}"
    if names:
        raise UserError(
            f"{path}: begun with other settings ({'; '.join(names)})",
            advice="repeat its options to resume it, give another -o, or delete it",
        )


@contextmanager
def _converted(path: Path) -> Iterator[None]:
    """Turn an `OSError` on the file into a `UserError`."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise system_error(path, error, failed="cannot be written", advice="choose another place with -o") from error
