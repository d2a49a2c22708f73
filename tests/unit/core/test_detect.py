"""The first bytes of a connection, whole and cut everywhere."""

from __future__ import annotations

import random

import pytest
from tests.support.tls import client_hello

from fleetmesh.core.detect import MAX_HELLO, Detected, Kind, detect, settle

HTTP, TCP, TLS = Detected(Kind.HTTP), Detected(Kind.TCP), Detected(Kind.TLS)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def records(hello: bytes, size: int) -> bytes:
    """The same handshake message in records of `size` bytes."""
    message = hello[5:]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


HELLO = client_hello("Shop.example")

FIRST_BYTES = [
    (b"GET / HTTP/1.1\r\n", HTTP),
    (b"M-SEARCH /x HTTP/1.1\r\n", HTTP),
    (b"SOMETHING-NEW /x", HTTP),
    (b"get /x", HTTP),  # not legal: the parser says so, rather than the application
    (b"POST http://api/x HTTP/1.1", HTTP),
    (b"GET HTTPS://api", HTTP),
    (b"OPTIONS * HTTP/1.1\r\n", HTTP),
    (b"CONNECT api:443 HTTP/1.1\r\n", HTTP),
    (b"\r\n\r\nGET /", HTTP),
    (b"PRI / HTTP/1.1\r\n", HTTP),
    (PREFACE, TCP),
    (PREFACE + b"\0\0\0\4\0\0\0\0\0", TCP),
    (b"OPTIONS * RTSP/1.0\r\n", TCP),
    (b"DESCRIBE rtsp://camera/ RTSP/1.0\r\n", TCP),
    (b"GET key\r\n", TCP),  # memcached, and Redis by hand
    (b"*1\r\n$4\r\nPING\r\n", TCP),
    (b"EHLO client.example\r\n", TCP),
    (b"SELECT * FROM t\r\n", TCP),
    (b"\0\0\0\x08\x04\xd2\x16\x2f", TCP),  # PostgreSQL's SSLRequest
    (b"G\0", TCP),
    (b"GET  /", TCP),
    (b" GET /", TCP),
    (b"A" * 33, TCP),
    (b"\r\n" * 9, TCP),
    (b"\x16\x02", TCP),
    (b"\x16\x03\x05", TCP),
    (b"\x16\x03\x01\0\x10\x02", TCP),  # a ServerHello
    (b"\x16\x03\x01\0\0\x01", TCP),
    (b"\x16\x03\x01\xff\xff\x01", TCP),
    (HELLO, Detected(Kind.TLS, "shop.example")),
    (client_hello(None), TLS),
    (records(HELLO, 7), Detected(Kind.TLS, "shop.example")),
]


@pytest.mark.parametrize(
    ("data", "verdict"), FIRST_BYTES, ids=[f"{n} {d[:5]!r}" for n, (d, _) in enumerate(FIRST_BYTES)]
)
def test_first_bytes_tell_the_protocol_wherever_they_are_cut(
    data: bytes, verdict: Detected
) -> None:
    """A verdict on a beginning is the verdict on the whole: no cut makes another protocol."""
    assert detect(data) == verdict
    on_beginnings = [detect(data[:end]) for end in range(len(data))]
    assert all(found in (None, verdict) for found in on_beginnings)
    # Once decided, always decided.
    first = next((end for end, found in enumerate(on_beginnings) if found), len(data))
    assert None not in on_beginnings[first:]


@pytest.mark.parametrize(
    ("data", "needed"),
    [(b"GET / HTTP/1.1\r\n", 5), (b"HELO\r\n", 5), (b"\0", 1), (b"*3\r\n", 3), (b"X http:/x", 9)],
)
def test_the_fewest_bytes_decide(data: bytes, needed: int) -> None:
    """A server must not wait for bytes that a client may only send after its answer."""
    assert detect(data[: needed - 1]) is None
    assert detect(data[:needed]) is not None


@pytest.mark.parametrize(
    ("data", "verdict"),
    [(b"", TCP), (b"GET", TCP), (b"HELLO", TCP), (PREFACE[:9], TCP), (HELLO[:5], TCP)],
)
def test_what_stays_undecided_is_tcp(data: bytes, verdict: Detected) -> None:
    assert (detect(data), settle(data)) == (None, verdict)


def test_half_a_client_hello_is_tls_without_a_name() -> None:
    assert settle(HELLO[:6]) == settle(HELLO[:-1]) == TLS


def test_a_client_hello_without_end_is_not_waited_for() -> None:
    """Memory and time are bounded: after 16 KiB it is TLS, whatever name follows."""
    endless = (b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes((1 << 14) - 4)) * 2
    assert detect(endless[: MAX_HELLO - 1]) is None
    assert detect(endless[:MAX_HELLO]) == TLS


@pytest.mark.parametrize(
    "name", [b"a b", b"", b"a..b", b"x" * 64, b"\xff", b".".join([b"y" * 60] * 5), b"a\0", b"a\n"]
)
def test_a_name_that_is_no_host_is_not_recorded(name: bytes) -> None:
    """It would go into logs."""
    assert detect(_hello_for(name)) == TLS


def test_a_name_is_taken_as_it_was_sent_in_lower_case() -> None:
    assert detect(_hello_for(b"A-1.b_c")) == Detected(Kind.TLS, "a-1.b_c")


def test_two_names_are_none() -> None:
    """RFC 6066 allows one: of two nobody knows which the server takes."""
    entry = b"\0\0\1a"
    names = (len(entry) * 2).to_bytes(2, "big") + entry * 2
    assert detect(_hello_with(b"\0\0" + len(names).to_bytes(2, "big") + names)) == TLS


def test_any_extensions_are_tls_and_never_a_crash() -> None:
    for seed in range(500):
        chance = random.Random(seed)
        extensions = bytes(chance.choice((0, 0, 1, 3, 97, 255)) for _ in range(seed % 40))
        found = detect(_hello_with(extensions))
        assert found is not None
        assert found.kind is Kind.TLS, extensions


def test_any_bytes_have_one_verdict() -> None:
    """Reading more never changes a verdict that fell."""
    for seed in range(1000):
        chance = random.Random(seed)
        size = chance.randrange(60)
        data = bytes(chance.choice(b"\x16\x03\x01GPRI */ htp:\r\n\0") for _ in range(size))
        early = detect(data[: chance.randrange(60)])
        assert early is None or early == detect(data), data
        assert settle(data).kind in Kind


def _hello_for(name: bytes) -> bytes:
    entry = b"\0" + len(name).to_bytes(2, "big") + name
    names = len(entry).to_bytes(2, "big") + entry
    return _hello_with(b"\0\0" + len(names).to_bytes(2, "big") + names)


def _hello_with(extensions: bytes) -> bytes:
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0"
    body += len(extensions).to_bytes(2, "big") + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message
