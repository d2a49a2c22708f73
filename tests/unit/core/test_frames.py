"""One connection's frames, cut anywhere."""

from __future__ import annotations

import random

from fleetmesh.core.frames import MAX_LENGTH, FrameReader, Mark, framed


def read(reader: FrameReader, *pieces: bytes) -> list[bytes | Mark]:
    """What they bring, neighbouring contents joined."""
    found: list[bytes | Mark] = []
    for piece in pieces:
        for item in reader.feed(piece):
            if isinstance(item, bytes) and found and isinstance(found[-1], bytes):
                found[-1] += item
            else:
                found.append(item)
    return found


def test_streams_cut_anywhere_are_the_same_streams() -> None:
    """Content that looks like a mark is content all the same."""
    chance = random.Random(1)
    expected: list[bytes | Mark] = []
    wire = b""
    for _ in range(200):
        expected.append(Mark.OPEN)
        wire += Mark.OPEN.value
        content = b"".join(
            chance.choice([b"x" * chance.randrange(1, 9), Mark.END.value, Mark.RAW.value])
            for _ in range(chance.randrange(1, 5))
        )
        expected += [content, Mark.END]
        wire += framed(content) + Mark.END.value
    pieces = []
    while wire:
        size = chance.randrange(1, 12)
        pieces.append(wire[:size])
        wire = wire[size:]
    assert read(FrameReader(), *pieces) == expected


def test_after_raw_everything_is_content() -> None:
    reader = FrameReader()
    wire = framed(b"a") + Mark.RAW.value + Mark.END.value + b"b"
    assert read(reader, wire[:6], wire[6:]) == [b"a", Mark.RAW, Mark.END.value + b"b"]
    assert reader.raw


def test_what_is_no_frame_is_broken() -> None:
    for head in (b"\xff\x00\x00\x09", b"\x01\x00\x00\x00", b"GET "):
        assert read(FrameReader(), head + b"more") == [Mark.BROKEN]


def test_content_longer_than_a_frame_goes_in_several() -> None:
    content = bytes(MAX_LENGTH + 5)
    wire = framed(content)
    assert len(wire) == len(content) + 8
    assert read(FrameReader(), wire) == [content]
