"""Where the frames of a WebSocket end, however they are cut into pieces."""

from __future__ import annotations

import random

import pytest

from fleetmesh.core.websocket import GOING_AWAY, GOING_AWAY_MASKED, FrameBoundary


def frame(size: int, masked: bool, opcode: int = 2) -> bytes:
    mask = 128 if masked else 0
    if size < 126:
        head = bytes([128 | opcode, mask | size])
    elif size < 65536:
        head = bytes([128 | opcode, mask | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([128 | opcode, mask | 127]) + size.to_bytes(8, "big")
    return head + (b"mask" if masked else b"") + b"\xff" * size


@pytest.mark.parametrize("masked", [False, True])
def test_only_between_frames(masked: bool) -> None:
    for size in (0, 1, 125, 126, 65535, 65536):
        boundary = FrameBoundary()
        assert boundary.here()
        whole = frame(size, masked)
        for at in range(len(whole) if size < 200 else 20):
            boundary.feed(whole[at : at + 1])
            assert boundary.here() is (at + 1 == len(whole))
        boundary.feed(whole[20:] if size >= 200 else b"")
        assert boundary.here()


def test_pieces_of_any_size() -> None:
    chance = random.Random(6)
    sizes = [0, 5, 126, 300, 70_000]
    frames = [frame(chance.choice(sizes), chance.random() < 0.5) for _ in range(60)]
    ends = set()
    total = 0
    for one in frames:
        total += len(one)
        ends.add(total)
    data, at, boundary = b"".join(frames), 0, FrameBoundary()
    while at < total:
        size = chance.choice([1, 2, 3, 13, 14, 15, 1000, 65536])
        size = min([size, *(end - at for end in ends if end > at and chance.random() < 0.1)])
        boundary.feed(data[at : at + size])
        at = min(at + size, total)
        assert boundary.here() is (at in ends)


def test_nothing_follows_a_close() -> None:
    boundary = FrameBoundary()
    boundary.feed(frame(3, False) + frame(2, False, opcode=8))
    assert not boundary.here()


def test_what_is_put_in_is_a_frame() -> None:
    for put in (GOING_AWAY, GOING_AWAY_MASKED):
        assert put[0] == 0x88
        assert int.from_bytes(put[-2:], "big") == 1001
        boundary = FrameBoundary()
        boundary.feed(frame(3, False) + put)
        assert not boundary.here()
