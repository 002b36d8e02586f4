"""Decompression of zstd sessions, which are detected by content and not by name."""

from __future__ import annotations

from collections.abc import Iterator

import zstandard

ZSTANDARD = b"\x28\xb5\x2f\xfd"
"""Magic number of a zstd frame."""
MAX_WINDOW = 1 << 27
"""Memory limit for decompression in bytes: the window of `zstd --long`. A file cannot request more."""

PIECE = 512
"""Bytes decompressed in one step. A block of 4 bytes gives up to 128 KiB, so one step gives 16 MiB at most."""
MOST_TIMES = 200
"""Maximum compression ratio. Sessions of moe-watch have 2.5 to 4, synthetic ones 50."""
ALWAYS_ALLOWED = 1 << 26
"""Decompressed bytes that are accepted at any ratio."""


class DecompressionError(ValueError):
    """Bytes that are not zstd; `str()` is the reason."""


class Decompressor:
    """Streaming decompressor of successive frames. A truncated frame gives its readable part."""

    def __init__(self) -> None:
        self._context = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._frame = self._context.decompressobj()
        self._packed = self._unpacked = 0

    @property
    def is_inside_frame(self) -> bool:
        """True while the last frame has no end."""
        return not self._frame.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decompressed bytes in pieces of bounded size.

        Raises:
            DecompressionError: the bytes are not zstd, or exceed the maximum compression ratio.
        """
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            self._packed += len(piece)
            yield self._unpack(piece)

    def _unpack(self, data: bytes) -> bytes:
        unpacked = []
        try:
            while data:
                if self._frame.eof:
                    self._frame = self._context.decompressobj()
                unpacked.append(self._frame.decompress(data))
                data = self._frame.unused_data if self._frame.eof else b""
        except zstandard.ZstdError as error:
            raise DecompressionError(str(error)) from error
        self._unpacked += sum(map(len, unpacked))
        if self._unpacked > ALWAYS_ALLOWED + MOST_TIMES * self._packed:
            raise DecompressionError(f"unpacks to more than {MOST_TIMES} times its size, which no session does")
        return b"".join(unpacked)
