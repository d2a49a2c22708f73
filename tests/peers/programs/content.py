"""What every server of these tests answers with, and every client expects."""

from __future__ import annotations

import random
from collections.abc import Iterator

SMALL = b"small\n"
LARGE = random.Random(4).randbytes(1_250_003)
"""No byte range of it is like another: lost, doubled and swapped pieces show."""

BLOCK = random.Random(5).randbytes(262_147)
_TWICE = BLOCK * 2


def endless(size: int) -> Iterator[bytes]:
    """BLOCK over and over, `size` bytes in all."""
    for _ in range(size // len(BLOCK)):
        yield BLOCK
    yield BLOCK[: size % len(BLOCK)]


class Meter:
    """Counts what should be BLOCK over and over. `good` is False once it was not."""

    def __init__(self) -> None:
        self.size = 0
        self.good = True

    def take(self, piece: bytes) -> None:
        for at in range(0, len(piece), len(BLOCK)):
            part = piece[at : at + len(BLOCK)]
            begin = self.size % len(BLOCK)
            self.good = self.good and _TWICE[begin : begin + len(part)] == part
            self.size += len(part)
