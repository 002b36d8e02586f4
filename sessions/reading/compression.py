"""Sessions compressed with zstd, told by their content and not by their name."""

from __future__ import annotations

from collections.abc import Iterator

import zstandard

ZSTANDARD = b"\x28\xb5\x2f\xfd"
"""What a zstd frame begins with."""
MAX_WINDOW = 1 << 27
"""Bytes that unpacking may take: what `zstd --long` needs, and no more because a file asks for it."""

PIECE = 512
"""Bytes that are unpacked at once: a block of four gives up to 128 KiB, so that these give 16 MiB at most."""
MOST_TIMES = 200
"""How much larger than its packed size a session may become. Ours are 2.5 to 4 times as large, and made-up ones 50."""
ALWAYS_ALLOWED = 1 << 26
"""Bytes that anything may unpack to."""


class DecompressionError(ValueError):
    """Bytes that are no zstd; `str()` says what is wrong."""


class Decompressor:
    """Unpacks frames that come one after another, in pieces of any size. A frame that is cut off gives what it has."""

    def __init__(self) -> None:
        self._context = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._frame = self._context.decompressobj()
        self._packed = self._unpacked = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What these bytes unpack to, in pieces of bounded size.

        Raises:
            DecompressionError: they are no zstd, or unpack to far more than a session does.
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
            raise DecompressionError(f"unpacks to more than {MOST_TIMES} times its size, as no session does")
        return b"".join(unpacked)
