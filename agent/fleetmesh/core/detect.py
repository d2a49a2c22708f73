"""What a connection speaks, from its first bytes.

`detect` gets all the bytes so far and says None as long as they can still become either. It
decides on the fewest bytes that leave no doubt, so where they were cut never matters; `settle`
decides on what is there when no more comes.
"""

from __future__ import annotations

import enum
import re

import msgspec

from fleetmesh.core.framing import TOKEN

# The server speaks first here, so a client's first bytes would be waited for in vain: ftp, ssh,
# smtp, pop3, nntp, imap, submission, mysql, sieve, vnc (IANA's registry of service names).
SERVER_FIRST_PORTS = frozenset({21, 22, 25, 110, 119, 143, 587, 3306, 4190, 5900})

MAX_HELLO = 16 * 1024  # bytes waited for until a ClientHello is whole; a big one has 2 KiB
MAX_METHOD = 32  # the longest that IANA has registered is of 17 (UPDATEREDIRECTREF)
MAX_BLANK = 16  # bytes of empty lines before a request (RFC 9112 section 2.2)

_TOKEN = re.compile(TOKEN)
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 section 3.4
_SCHEMES = (b"http://", b"https://")
_ASTERISK = b"* HTTP/"  # RTSP has the same form with another name

_HANDSHAKE = 22  # RFC 8446 section 5.1
_CLIENT_HELLO = 1
_MAX_RECORD = 1 << 14
_SERVER_NAME = 0
_HOST_NAME = re.compile(rb"(?!.{254})[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*")


class Kind(enum.StrEnum):
    """What the counters call such a connection; tls is carried as tcp is."""

    HTTP = "http"
    TLS = "tls"
    TCP = "tcp"


class Detected(msgspec.Struct, frozen=True):
    """`sni` is the name that a ClientHello asks for, in lower case; empty when it has none or
    none that can be a host's."""

    kind: Kind
    sni: str = ""


_HTTP = Detected(Kind.HTTP)
_TCP = Detected(Kind.TCP)


def detect(data: bytes) -> Detected | None:
    """None: more bytes are needed."""
    if data[:1] == b"\x16":
        return _tls(data)
    if len(data) < len(_PREFACE) and _PREFACE.startswith(data):
        return None
    if data.startswith(_PREFACE):
        return _TCP
    http = _is_request(data)
    return None if http is None else _HTTP if http else _TCP


def settle(data: bytes) -> Detected:
    """The verdict when the client says no more, or not in time."""
    found = detect(data)
    if found is None and data[:1] == b"\x16" and len(data) > 5:
        return Detected(Kind.TLS)
    return found or _TCP


def _is_request(data: bytes) -> bool | None:
    """Whether a request line of HTTP/1 begins here: a token, a space, and a target in one of the
    forms of RFC 9112 section 3.2.

    The token may be any: a method that nobody knows is for the parser to refuse. The target
    tells HTTP from the many protocols whose lines begin with a word.
    """
    start = data[: MAX_BLANK + 1]
    blank = len(start) - len(start.lstrip(b"\r\n"))
    if blank > MAX_BLANK:
        return False
    line = data[blank:]
    if not line:
        return None
    method, space, target = line[: MAX_METHOD + 1 + len(_SCHEMES[1])].partition(b" ")
    if len(method) > MAX_METHOD or _TOKEN.fullmatch(method) is None:
        return False
    if not space:
        return None
    if method == b"CONNECT" or target[:1] == b"/":
        return True
    if method == b"OPTIONS" and target[:1] == b"*":
        return _begins(target, _ASTERISK)
    answers = [_begins(target.lower(), scheme) for scheme in _SCHEMES]
    return True if True in answers else None if None in answers else False


def _begins(data: bytes, wanted: bytes) -> bool | None:
    if len(data) >= len(wanted):
        return data.startswith(wanted)
    return None if wanted.startswith(data) else False


def _tls(data: bytes) -> Detected | None:
    """`data` begins with the type of a handshake record."""
    if (len(data) > 1 and data[1] != 3) or (len(data) > 2 and data[2] > 4):
        return _TCP
    if len(data) < 6:
        return None
    if data[5] != _CLIENT_HELLO or not 4 <= int.from_bytes(data[3:5], "big") <= _MAX_RECORD:
        return _TCP
    message, whole = _handshake(data)
    if not whole:
        return None if len(data) < MAX_HELLO else Detected(Kind.TLS)
    return Detected(Kind.TLS, _server_name(message))


def _handshake(data: bytes) -> tuple[bytes, bool]:
    """The body of the first handshake message, which may be spread over records, and whether
    more bytes would not change it: it is whole, or it is broken and then empty."""
    message = bytearray()
    position = 0
    while len(data) >= position + 5:
        if data[position] != _HANDSHAKE or data[position + 1] != 3:
            return b"", True
        length = int.from_bytes(data[position + 3 : position + 5], "big")
        if not 0 < length <= _MAX_RECORD:
            return b"", True
        message += data[position + 5 : position + 5 + length]
        if len(message) >= 4 and len(message) >= (end := 4 + int.from_bytes(message[1:4], "big")):
            return bytes(message[4:end]), True
        position += 5 + length
    return b"", False


class _Reader:
    """Takes vectors (RFC 8446 section 3.4) off a message. One that points beyond the message's
    end makes it `broken`, and nothing follows."""

    __slots__ = ("_at", "_data", "broken")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self.broken = False

    def more(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if len(piece) < count:
            self.broken = True
            self._at = len(self._data)
            return b""
        self._at += count
        return piece

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> bytes:
        return self.take(self.number(width))


def _server_name(hello: bytes) -> str:
    """The host name of a ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3)."""
    message = _Reader(hello)
    message.take(2 + 32)  # version, random
    message.vector(1)  # session
    message.vector(2)  # suites
    message.vector(1)  # compressions
    extensions = _Reader(message.vector(2))
    found = b""
    while extensions.more():
        number, content = extensions.number(2), extensions.vector(2)
        if number == _SERVER_NAME:
            outer = _Reader(content)
            names = _Reader(outer.vector(2))
            kind, name = names.number(1), names.vector(2)
            if kind or found or outer.broken or outer.more() or names.broken or names.more():
                return ""
            found = name
    if message.broken or message.more() or extensions.broken or not _HOST_NAME.fullmatch(found):
        return ""
    return found.decode("ascii").lower()
