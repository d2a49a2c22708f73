"""Whose trace a request belongs to: continued or begun, and the request's id kept or made.

W3C Trace Context, Level 2, is what is sent; B3 is read where nothing of W3C's came. Randomness is
an argument. The ids are for correlation and nothing is decided by them, so whoever may call may
also say them: a local service, a peer, a plain caller.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from fleetmesh.core.request import RequestHead

# The common case in one test: version 00, ids that are not all zeros, no flag but Level 2's two.
_COMMON = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[0-3]").fullmatch
_ANY = re.compile(
    rb"([0-9a-f]{2})-((?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?", re.DOTALL
).fullmatch
# Long enough for every id in use, and short enough to stand in a log line.
_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}").fullmatch

_B3_TRACE = rb"(?!0+(?:-|$))(?:[0-9a-f]{16}){1,2}"
_B3_SPAN = rb"(?!0{16})[0-9a-f]{16}"
_B3 = re.compile(
    rb"(?:(" + _B3_TRACE + rb")-" + _B3_SPAN + rb"(?:-([01d])(?:-[0-9a-f]{16})?)?|([01d]))"
).fullmatch
_B3_TRACE_ID = re.compile(_B3_TRACE).fullmatch
_B3_SPAN_ID = re.compile(_B3_SPAN).fullmatch

SAMPLED: Final = 1
RANDOM: Final = 2  # the trace id's last 7 bytes are random (Level 2)
UNDECIDED: Final = -1
_FLAGS: Final = (b"-00\r\n", b"-01\r\n", b"-02\r\n", b"-03\r\n")
_VARIANT: Final = (b"8", b"9", b"a", b"b")  # RFC 9562 section 4.1
_BLOCK: Final = 512  # ids of 8 bytes: the system call for them is 0.02 µs of each (measured)
_ZEROS: Final = b"0" * 16


def continued(traceparent: bytes) -> tuple[bytes, int] | None:
    """Trace id and the flags that are known, of a traceparent of any version; None when it is not
    valid (Trace Context section 3.2: the trace is then begun anew)."""
    match = _ANY(traceparent)
    if match is None:
        return None
    version = match[1]
    if version == b"ff" or (version == b"00" and match[4] is not None):
        return None
    return match[2], int(match[3], 16) & (SAMPLED | RANDOM)


def read_b3(fields: Mapping[bytes, bytes] | None) -> tuple[bytes, int]:
    """Trace id (32 digits, or empty when there is none to continue) and the caller's decision: 1,
    0 or UNDECIDED. The single header counts before the several (B3's own rule)."""
    if fields is None:
        return b"", UNDECIDED
    single = _B3(fields.get(b"b3", b""))
    if single is not None:
        decision = single[2] or single[3]
        sampled = UNDECIDED if decision is None else 0 if decision == b"0" else 1
        return single[1].rjust(32, b"0") if single[1] else b"", sampled
    said = fields.get(b"x-b3-sampled", b"")
    sampled = UNDECIDED
    if fields.get(b"x-b3-flags") == b"1" or said in (b"1", b"true"):
        sampled = 1
    elif said in (b"0", b"false"):
        sampled = 0
    trace_id = fields.get(b"x-b3-traceid", b"")
    if _B3_TRACE_ID(trace_id) is None or _B3_SPAN_ID(fields.get(b"x-b3-spanid", b"")) is None:
        return b"", sampled
    return trace_id.rjust(32, b"0"), sampled


def under_way(head: RequestHead) -> bool:
    """Whether its trace began before the one who sends it: somebody has worked for it already."""
    parent = head.traceparent
    if not parent:
        return bool(read_b3(head.noted)[0])
    return parent[19:35] != parent[36:52]


class Marker:
    """Tells the next one what the caller said, as it came."""

    __slots__ = ()

    def mark(self, head: RequestHead) -> bytes:
        """The field lines that tell the next one of the trace and the request's id."""
        lines = head.tracestate
        if head.traceparent:
            lines = b"traceparent: " + head.traceparent + b"\r\n" + lines
        if head.request_id:
            lines += b"x-request-id: " + head.request_id + b"\r\n"
        return lines


class Tracing(Marker):
    """`sample_rate` is the share of the traces begun here that are sampled, 0 to 1; `random` gives
    so many random bytes."""

    __slots__ = ("_at", "_block", "_random", "_threshold")

    def __init__(self, sample_rate: float, random: Callable[[int], bytes]) -> None:
        self._random = random
        # As OpenTelemetry decides it: by the random part of the trace id, so that all who
        # sample by a rate agree about a trace.
        # Hexadecimal digits of one length are in the order of their numbers; b"g" is beyond all.
        rejected = round((1.0 - sample_rate) * 2**56)
        self._threshold = b"%014x" % max(rejected, 0) if rejected < 2**56 else b"g"
        self._block = b""
        self._at = 0

    def mark(self, head: RequestHead) -> bytes:
        """The lines begin with traceparent; `head.request_id` is the id afterwards."""
        parent = head.traceparent
        if _COMMON(parent) is not None:
            at = self._at
            span = self._block[at : at + 16]
            self._at = at + 16
            if not span:
                span = self._take(16)
            lines = b"traceparent: " + parent[:36] + span + parent[52:] + b"\r\n" + head.tracestate
        elif not parent and head.noted is None:
            # The first span has the end of the trace's id, as with Zipkin: see `under_way`.
            drawn = self._take(32)
            flags = b"-03\r\n" if drawn[18:] >= self._threshold else b"-02\r\n"
            lines = b"traceparent: 00-" + drawn + b"-" + drawn[16:] + flags
        else:
            lines = self._decide(head)
        if _SANE_ID(head.request_id) is None:
            head.request_id = self._uuid()
        return lines + b"x-request-id: " + head.request_id + b"\r\n"

    def _decide(self, head: RequestHead) -> bytes:
        state = span = b""
        parent = continued(head.traceparent.strip(b" \t")) if head.traceparent else None
        if parent is not None:
            trace_id, flags = parent
            state = head.tracestate
        else:
            trace_id, sampled = read_b3(head.noted)
            flags = 0
            if not trace_id:
                trace_id = self._take(32)
                span = trace_id[16:]
                flags = RANDOM
            if sampled == 1 or (sampled == UNDECIDED and trace_id[18:] >= self._threshold):
                flags |= SAMPLED
        return (
            b"traceparent: 00-" + trace_id + b"-" + (span or self._take(16)) + _FLAGS[flags] + state
        )

    def _uuid(self) -> bytes:
        """Version 4, as Envoy's."""
        digits = self._take(32)
        variant = _VARIANT[int(digits[16:17], 16) & 3]
        return b"%b-%b-4%b-%b%b-%b" % (
            digits[:8],
            digits[8:12],
            digits[13:16],
            variant,
            digits[17:20],
            digits[20:],
        )

    def _take(self, digits: int) -> bytes:
        """So many random hexadecimal digits, never 16 zeros in a row."""
        at = self._at
        taken = self._block[at : at + digits]
        if len(taken) < digits:
            block = _ZEROS
            while _ZEROS in block:
                block = self._random(8 * _BLOCK).hex().encode()
            self._block = block
            at = 0
            taken = block[:digits]
        self._at = at + digits
        return taken
