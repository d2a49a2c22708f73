"""Changes of header fields, made ready for heads. A value may have some of Envoy's variables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from fleetmesh.core.framing import TOKEN, spellings, without
from fleetmesh.core.request import RequestHead
from fleetmesh.core.told import OURS
from fleetmesh.model.problem import Problem
from fleetmesh.model.traffic import FieldChanges

_NAME = re.compile(TOKEN.decode())
_VALUE = re.compile(r"(?![\t ])[\t\x20-\x7e\x80-\uffff]*(?<![\t ])")
# By these messages are framed and hops agree, or the mesh answers for them.
_OURS = frozenset(
    name.decode()
    for kept in (b"content-length", b"transfer-encoding", b"x-forwarded-client-cert", *OURS)
    for name in spellings(kept)
) | {
    "connection",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "traceparent",
    "tracestate",
    "x-request-id",
}


# A percent sign, or a variable of Envoy's with its argument.
_PART = re.compile(r"%%|%([A-Z_]+)(?:\(([^()%]+)\))?%")
VARIABLES: Final = (
    "DOWNSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_REMOTE_PORT",
    "PROTOCOL",
    "REQ",
)


class _Line:
    """A field line to come: as it stands in `fixed`, else of the texts and variables in `parts`."""

    __slots__ = ("_parts", "fixed", "key", "name")

    def __init__(self, name: str, value: str) -> None:
        self.name = name.encode()
        self.key = self.name.lower()
        self._parts: list[tuple[bytes, str, bytes]] = []  # a text, a variable, its argument
        text, end = "", 0
        for part in _PART.finditer(value):
            text += value[end : part.start()]
            end = part.end()
            if part[1] is None:
                text += "%"
            else:
                self._parts.append((text.encode(), part[1], (part[2] or "").lower().encode()))
                text = ""
        text += value[end:]
        self.fixed = b"" if self._parts else f"{name}: {text}\r\n".encode()
        self._parts.append((text.encode(), "", b""))

    def written(self, request: RequestHead, peer: str) -> bytes:
        """Empty where its value is: as with Envoy there is no line then."""
        found = []
        for text, variable, argument in self._parts:
            found += [text, _value(variable, argument, request, peer)]
        value = b"".join(found).strip(b" \t")
        return self.name + b": " + value + b"\r\n" if value else b""


def _value(variable: str, argument: bytes, request: RequestHead, peer: str) -> bytes:
    address, _, port = peer.rpartition(":")
    if variable == "REQ":
        return request.field(argument) or b""
    if variable == "PROTOCOL":
        return b"HTTP/1.1" if request.http11 else b"HTTP/1.0"
    if variable == "DOWNSTREAM_REMOTE_ADDRESS":
        return peer.encode()
    if variable == "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT":
        return address.strip("[]").encode()
    return port.encode() if variable else b""


class Fields:
    """Several changes as one, each made of what the one before it left: what none of them asks
    for is forwarded as it came."""

    __slots__ = ("_added", "_gone")

    def __init__(self, changes: Sequence[FieldChanges]) -> None:
        gone: set[bytes] = set()
        added: list[_Line] = []
        for change in changes:
            lines = [_Line(name, value) for name, value in change.set if value]
            names = {name.lower().encode() for name in change.remove}
            names.update(line.key for line in lines)
            lines += [_Line(name, value) for name, value in change.add if value]
            added = [line for line in added if line.key not in names] + lines
            gone |= names
        self._gone = frozenset(gone)
        self._added = added

    def changed(self, lines: list[bytes], request: RequestHead, peer: str) -> list[bytes]:
        """The field lines (`Name: value`, CRLF) of a head after the changes; `request` is the
        exchange's, `peer` (address and port) its client."""
        kept = without(lines, self._gone) if self._gone else lines
        added = [line.fixed or line.written(request, peer) for line in self._added]
        return [*kept, *added]


def fields(*changes: FieldChanges) -> Fields | None:
    """None where nothing is changed."""
    said = [one for one in changes if one.add or one.set or one.remove]
    return Fields(said) if said else None


def field_problems(changes: FieldChanges, at: str) -> Iterator[Problem]:
    """Names and values that would make another message of it."""
    for kind in ("set", "add", "remove"):
        for change in getattr(changes, kind):
            name, value = (change, "") if kind == "remove" else change
            if not _NAME.fullmatch(name):
                yield Problem(f"{at}.{kind}", f'"{name}" is no name of a field')
            elif name.lower() in _OURS:
                yield Problem(f"{at}.{kind}", f"{name} is not a route's to change", "Remove it")
            elif not _VALUE.fullmatch(value):
                yield Problem(
                    f"{at}.{kind}",
                    f"{name} has a value that is no field's",
                    "Leave out control characters, and spaces at its ends",
                )
            else:
                yield from _variables(name, value, f"{at}.{kind}")


def _variables(name: str, value: str, at: str) -> Iterator[Problem]:
    for part in _PART.finditer(value):
        variable, argument = part[1], part[2]
        if variable is None:
            continue
        if variable not in VARIABLES:
            yield Problem(
                at, f"{name}: %{variable}% is not known here", f"Known are {', '.join(VARIABLES)}"
            )
        elif (variable == "REQ") != (argument is not None and bool(_NAME.fullmatch(argument))):
            yield Problem(
                at, f"{name}: {part[0]} has no argument of its kind", "Write %REQ(name-of-a-field)%"
            )
    if "%" in _PART.sub("", value):
        yield Problem(at, f"{name}: a percent sign stands alone", "Write it twice")
