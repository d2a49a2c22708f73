"""An HTTP/1.1 reader of the tests' own, by the letter of RFC 9112.

It shares nothing with the mesh, takes whole recordings and has no speed to care for. Where the RFC
lets a recipient choose between repair and refusal, it refuses; so what it reads can be read in one
way only. Characters of the target beyond framing (RFC 9112 section 3.2) are not its concern.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace

Field = tuple[bytes, bytes]

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE = rb"[\t \x21-\x7e\x80-\xff]*"
_FIELD = re.compile(rb"(" + _TOKEN + rb"):(" + _VALUE + rb")")
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21\x22\x24-\x7e\x80-\xff]+) HTTP/1\.([0-9])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-5][0-9][0-9])(?: (" + _VALUE + rb"))?")
_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[0-9A-Za-z\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?"
)
_ABSOLUTE = re.compile(rb"https?://(?:[^/?@]*@)?([^/?@]+)((?:[/?].*)?)", re.IGNORECASE | re.DOTALL)
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_EXTENSIONS = re.compile(
    rb"(?:[ \t]*;[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*"
)
_DIGITS = re.compile(rb"[0-9]+")
_CHUNK = re.compile(rb"([0-9A-Fa-f]+)(.*)", re.DOTALL)
_LIST = re.compile(rb"[ \t]*(?:" + _TOKEN + rb")?(?:[ \t]*,[ \t]*(?:" + _TOKEN + rb")?)*[ \t]*")


class End(enum.Enum):
    """How a recording ends: behind a whole message, inside one, or at what is no message."""

    CLEAN = "clean"
    PARTIAL_HEAD = "in a head"
    PARTIAL_BODY = "in a body"
    ILLEGAL_HEAD = "at an illegal head"
    ILLEGAL_BODY = "in an illegal body"
    TUNNEL = "in another protocol"


@dataclass(frozen=True)
class Message:
    """`line` is (method, target) or (status, reason). Values are without their outer spaces.
    `framing` is none, length, chunked or close; `whole` is False when the body ends too early."""

    line: tuple[bytes, bytes]
    minor: int
    fields: tuple[Field, ...]
    framing: str = "none"
    body: bytes = b""
    trailers: tuple[Field, ...] = ()
    whole: bool = True

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name]

    def members(self, name: bytes) -> set[bytes]:
        """The lower-case members of a list of tokens; what is none gives what it can."""
        joined = b",".join(self.values(name)).lower()
        return {member.strip(b" \t") for member in joined.split(b",")} - {b""}


@dataclass(frozen=True)
class Reading:
    """The messages in order; the last is not whole where `end` says so. `rest` is what follows."""

    messages: tuple[Message, ...]
    end: End
    rest: bytes = b""
    why: str = ""


class IllegalError(Exception):
    """What was read is no HTTP/1.1."""


def split_absolute(target: bytes) -> tuple[bytes, bytes] | None:
    """Authority without userinfo and the rest of a target in absolute form; None of another."""
    match = _ABSOLUTE.fullmatch(target)
    return None if match is None else (match[1], match[2])


def read_requests(raw: bytes, *, most: int = 1 << 30, empty_lines: bool = True) -> Reading:
    """What one client sent on one connection, at `most` so many messages of it.

    `empty_lines`: those before a request are ignored (section 2.2), as of an old client.
    """
    messages: list[Message] = []
    while True:
        if len(messages) == most:
            return Reading(tuple(messages), End.CLEAN, raw)
        while empty_lines and raw.startswith(b"\r\n"):
            raw = raw[2:]
        if empty_lines and raw == b"\r":
            return Reading(tuple(messages), End.PARTIAL_HEAD, raw)
        if not raw:
            return Reading(tuple(messages), End.CLEAN)
        try:
            head = _head(raw)
            if head is None:
                return Reading(tuple(messages), End.PARTIAL_HEAD, raw)
            line, fields, raw = head
            message = _request(line, fields)
        except IllegalError as error:
            return Reading(tuple(messages), End.ILLEGAL_HEAD, raw, str(error))
        message, end, raw, why = _body(message, raw, ended=False)
        messages.append(message)
        if end is not End.CLEAN:
            return Reading(tuple(messages), end, raw, why)


def read_answers(
    raw: bytes, methods: list[bytes], *, ended: bool, empty_lines: bool = False
) -> Reading:
    """What a server sent on one connection to requests of these methods; `ended`: it closed.

    `empty_lines`: those before a status line are ignored, which servers in the field send.
    """
    messages: list[Message] = []
    waiting = list(methods)
    while raw and waiting:
        while empty_lines and raw.startswith(b"\r\n"):
            raw = raw[2:]
        try:
            head = _head(raw)
            if head is None:
                return Reading(tuple(messages), End.PARTIAL_HEAD, raw)
            line, fields, raw = head
            message = _answer(line, fields, waiting[0])
        except IllegalError as error:
            return Reading(tuple(messages), End.ILLEGAL_HEAD, raw, str(error))
        message, end, raw, why = _body(message, raw, ended=ended)
        messages.append(message)
        if message.line[0] == b"101":
            return Reading(tuple(messages), End.TUNNEL, raw)
        if end is not End.CLEAN:
            return Reading(tuple(messages), end, raw, why)
        if message.line[0][:1] != b"1":
            waiting.pop(0)
    return Reading(tuple(messages), End.CLEAN, raw)


def _head(raw: bytes) -> tuple[bytes, tuple[Field, ...], bytes] | None:
    head, end, rest = raw.partition(b"\r\n\r\n")
    if not end:
        return None
    line, *lines = head.split(b"\r\n")
    return line, tuple(_field(one) for one in lines), rest


def _field(line: bytes) -> Field:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise IllegalError(f"no field line: {line[:80]!r}")
    return match[1], match[2].strip(b" \t")


def _request(line: bytes, fields: tuple[Field, ...]) -> Message:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise IllegalError(f"no request line: {line[:80]!r}")
    method, target, minor = match[1], match[2], int(match[3])
    message = Message((method, target), minor, fields)
    hosts = message.values(b"host")
    if len(hosts) > 1 or (not hosts and minor):
        raise IllegalError(f"{len(hosts)} Host fields")
    if any(_HOST.fullmatch(host) is None for host in hosts):
        raise IllegalError(f"no host: {hosts}")
    absolute = _ABSOLUTE.fullmatch(target)
    if method == b"CONNECT":
        legal = _HOST.fullmatch(target) is not None and b":" in target
    elif absolute is not None:
        legal = _HOST.fullmatch(absolute[1]) is not None
    else:
        legal = target[:1] == b"/" or (target == b"*" and method == b"OPTIONS")
    if not legal:
        raise IllegalError(f"no target: {target[:80]!r}")
    lengths, codings = message.values(b"content-length"), message.values(b"transfer-encoding")
    _framed_once(message, lengths, codings)
    framing = "chunked" if codings else "length" if lengths else "none"
    return replace(message, framing=framing)


def _answer(line: bytes, fields: tuple[Field, ...], method: bytes) -> Message:
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise IllegalError(f"no status line: {line[:80]!r}")
    message = Message((match[2], match[3] or b""), int(match[1]), fields)
    status = int(match[2])
    if status < 200 or status == 204:
        return message
    lengths, codings = message.values(b"content-length"), message.values(b"transfer-encoding")
    _framed_once(message, lengths, codings)
    if method == b"HEAD" or status == 304:
        return message
    return replace(message, framing="chunked" if codings else "length" if lengths else "close")


def _framed_once(message: Message, lengths: list[bytes], codings: list[bytes]) -> None:
    if codings and (lengths or not message.minor):
        raise IllegalError("Transfer-Encoding in a message of HTTP/1.0 or beside Content-Length")
    if codings and [coding.lower() for coding in codings] != [b"chunked"]:
        raise IllegalError(f"another transfer coding than chunked alone: {codings}")
    if len(lengths) > 1 or any(_DIGITS.fullmatch(length) is None for length in lengths):
        raise IllegalError(f"not one Content-Length: {lengths}")
    if any(_LIST.fullmatch(value) is None for value in message.values(b"connection")):
        raise IllegalError("Connection is no list of options")


def _body(message: Message, raw: bytes, *, ended: bool) -> tuple[Message, End, bytes, str]:
    if message.framing == "none":
        return message, End.CLEAN, raw, ""
    if message.framing == "close":
        end = End.CLEAN if ended else End.PARTIAL_BODY
        return replace(message, body=raw, whole=ended), end, b"", ""
    if message.framing == "length":
        size = int(message.values(b"content-length")[0])
        whole = len(raw) >= size
        end = End.CLEAN if whole else End.PARTIAL_BODY
        return replace(message, body=raw[:size], whole=whole), end, raw[size:], ""
    return _chunked(message, raw)


def _chunked(message: Message, raw: bytes) -> tuple[Message, End, bytes, str]:
    content = b""
    try:
        while True:
            line, end, rest = raw.partition(b"\r\n")
            if not end:
                return replace(message, body=content, whole=False), End.PARTIAL_BODY, raw, ""
            match = _CHUNK.fullmatch(line)
            if match is None or _EXTENSIONS.fullmatch(match[2]) is None:
                raise IllegalError(f"no chunk: {line[:80]!r}")
            size = int(match[1], 16)
            if not size:
                break
            content += rest[:size]
            if rest[size : size + 2] != b"\r\n"[: max(0, len(rest) - size)]:
                raise IllegalError("no CRLF behind a chunk's data")
            if len(rest) < size + 2:
                return replace(message, body=content, whole=False), End.PARTIAL_BODY, b"", ""
            raw = rest[size + 2 :]
        trailers = []
        while True:
            line, end, rest = rest.partition(b"\r\n")
            if not end:
                return replace(message, body=content, whole=False), End.PARTIAL_BODY, b"", ""
            if not line:
                break
            trailers.append(_field(line))
    except IllegalError as error:
        return replace(message, body=content, whole=False), End.ILLEGAL_BODY, b"", str(error)
    return replace(message, body=content, trailers=tuple(trailers)), End.CLEAN, rest, ""
