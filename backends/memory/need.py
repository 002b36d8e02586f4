"""Memory that a run needs, compared with the memory that is available."""

from __future__ import annotations

from dataclasses import dataclass

from moe_watch.backends.engine_sizes import BufferSizes, EngineSizes
from moe_watch.backends.memory.available import AvailableMemory

DASHBOARD_BYTES = 85_000_000
"""Memory of the main process with a dashboard of 120×40 (docs/performance.md, "Resources")."""

THREADS_ADDRESS_SPACE = 250_000_000
"""Address space that the threads of a run reserve and the process that asks the engine does not have: stacks of 8 MB,
and glibc's arenas of 64 MB, aligned by a mapping of twice the size (measured: docs/memory.md)."""


@dataclass(frozen=True, slots=True)
class Need:
    """Memory of a run in bytes."""

    sizes: EngineSizes

    @property
    def runtime(self) -> int:
        """Memory of the processes without the buffers."""
        return self.sizes.runtime + DASHBOARD_BYTES

    @property
    def weights(self) -> int:
        return sum(each.weights + each.mapped for each in self.sizes.buffers)

    @property
    def mapped(self) -> int:
        """Pages of the model's file: the system may evict them, and reads them again for the next token."""
        return sum(each.mapped for each in self.sizes.buffers)

    @property
    def kv(self) -> int:
        return sum(each.kv for each in self.sizes.buffers)

    @property
    def compute(self) -> int:
        return sum(each.compute for each in self.sizes.buffers)

    @property
    def on_host(self) -> int:
        """Part in the machine's memory, with the largest moment of loading."""
        running = sum(each.total for each in self.sizes.buffers if each.on_host)
        return max(running, self.sizes.loading) + self.runtime

    @property
    def total(self) -> int:
        return self.on_host + sum(each.total for each in self.sizes.buffers if not each.on_host)

    @property
    def required(self) -> int:
        """Part in the machine's memory that cannot be evicted: a run does not start, or is killed, without it."""
        return self.on_host - sum(each.mapped for each in self.sizes.buffers if each.on_host)

    def fits(self, available: AvailableMemory) -> bool:
        """Return whether everything stays in memory, the mapped weights too: every token reads them."""
        return self.compared(available) <= available.bytes and self._full_device() is None

    def starts(self, available: AvailableMemory) -> bool:
        """Return whether a run can start: weights that do not fit are read from the disk again for every token."""
        if available.counts_mapped_files:
            return self.address_space <= available.bytes
        return self.required <= available.bytes and self._full_device() is None

    @property
    def address_space(self) -> int:
        """Address space of the model's process."""
        return self.sizes.address_space + THREADS_ADDRESS_SPACE + self.on_host - self.runtime

    def compared(self, available: AvailableMemory) -> int:
        """Return the bytes that are compared with the available memory."""
        return self.address_space if available.counts_mapped_files else self.on_host

    def _full_device(self) -> str | None:
        """Return the name of the first device whose memory is too small."""
        full = (each.name for each in self.sizes.buffers if _is_full(each))
        return next(full, None)


def _is_full(buffers: BufferSizes) -> bool:
    return buffers.free is not None and buffers.total > buffers.free
