"""The chunked coding: what is taken, what is not, and that cuts do not matter."""

from __future__ import annotations

import itertools
import random

import pytest

from fleetmesh.core.chunked import LAST_CHUNK, ChunkedDecoder, Part, encode, last_chunk


def decode(*pieces: bytes) -> tuple[Part, bytes, bytes, list[tuple[bytes, bytes]]]:
    decoder, content, rest = ChunkedDecoder(), [], b""
    for piece in pieces:
        rest += piece if decoder.part is Part.DONE else decoder.feed(piece, content)
    return decoder.part, b"".join(content), rest, decoder.trailers


@pytest.mark.parametrize(
    ("raw", "content", "rest"),
    [
        (b"0\r\n\r\n", b"", b""),
        (b"5\r\nhello\r\n0\r\n\r\nGET /", b"hello", b"GET /"),
        (b"0005\r\nhello\r\n000\r\n\r\n", b"hello", b""),
        (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2, b""),
        (b'5;a;b=c;d="e;\\"f"\r\nhello\r\n0;x\r\n\r\n', b"hello", b""),
        (b"5 ; a = b\r\nhello\r\n0\r\n\r\n", b"hello", b""),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", b""),
    ],
)
def test_legal_bodies(raw: bytes, content: bytes, rest: bytes) -> None:
    assert decode(raw)[:3] == (Part.DONE, content, rest)


@pytest.mark.parametrize(
    "raw",
    [
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello",
        b"0x5\r\nhello",
        b"5_0\r\nhello",
        b" 5\r\nhello",
        b"5 \r\nhello",
        b"5;\r\nhello",
        b"5;=b\r\nhello",
        b'5;a="b\r\nhello',
        b"5;a=b\rc\r\nhello",
        b"5\nhello\r\n0\r\n\r\n",
        b"\r\n5\r\nhello",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"11111111111111111\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\n: v\r\n\r\n",
        b"0\r\nA: b\x00\r\n\r\n",
        b"0\r\n A: b\r\n\r\n",
        b"5" + b";a" * 4000,
        b"0\r\n" + b"A: b\r\n" * 5000,
    ],
)
def test_illegal_bodies(raw: bytes) -> None:
    assert decode(raw + b"\r\n" * 2)[0] is Part.BROKEN


def test_every_cut_gives_the_same() -> None:
    raw = b'5;a="b"\r\nhello\r\n6\r\n world\r\n0\r\nX-A: 1\r\nX-B: \r\n\r\nrest'
    expected = (Part.DONE, b"hello world", b"rest", [(b"X-A", b"1"), (b"X-B", b"")])
    assert decode(raw) == expected
    for first in range(len(raw)):
        assert decode(raw[:first], raw[first:]) == expected
    assert decode(*(raw[at : at + 1] for at in range(len(raw)))) == expected


def test_what_is_encoded_is_what_is_decoded() -> None:
    chance = random.Random(7)
    for _ in range(300):
        pieces = [chance.randbytes(chance.randint(1, 50)) for _ in range(chance.randint(1, 5))]
        raw = b"".join(encode([piece]) for piece in pieces) + LAST_CHUNK
        cuts = sorted(chance.randint(0, len(raw)) for _ in range(4))
        edges = [0, *cuts, len(raw)]
        cut = [raw[begin:end] for begin, end in itertools.pairwise(edges)]
        assert decode(*cut)[:3] == (Part.DONE, b"".join(pieces), b"")


def test_trailers_that_would_change_the_message_are_dropped() -> None:
    trailers = [(b"X-Sum", b"1"), (b"Content-Length", b"9"), (b"transfer-encoding", b"x")]
    assert last_chunk(trailers) == b"0\r\nX-Sum: 1\r\n\r\n"
    assert last_chunk([]) == LAST_CHUNK
