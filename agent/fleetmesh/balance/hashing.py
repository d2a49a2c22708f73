"""The numbers that pickers are given: 64 bits, as good as random."""

from __future__ import annotations

import hashlib
from typing import Final

BITS: Final = (1 << 64) - 1


def digest(data: bytes) -> int:
    """The same in every process, on every host and in every release."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def mixed(number: int) -> int:
    """Another number that follows from `number` (splitmix64's step)."""
    number = (number + 0x9E3779B97F4A7C15) & BITS
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & BITS
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & BITS
    return number ^ (number >> 31)
