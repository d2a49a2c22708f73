"""Netlink attributes: type, length and value, padded to four bytes; a value may be attributes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_NESTED = 1 << 15
_TYPE_MASK = 0x3FFF


def netlink_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each netlink attribute; ends at the first that is malformed."""
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield kind & _TYPE_MASK, data[at + 4 : at + length]
        at += (length + 3) & ~3


def number(value: bytes | None) -> int:
    """Of a big-endian attribute; -1 where there is none."""
    return -1 if value is None else int.from_bytes(value, "big")


def value_of(data: bytes | None) -> bytes:
    """What an attribute NFTA_DATA_VALUE holds."""
    return dict(netlink_attributes(data or b"")).get(1, b"")


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def nested(kind: int, value: bytes) -> bytes:
    return attribute(kind | _NESTED, value)


def be32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))
