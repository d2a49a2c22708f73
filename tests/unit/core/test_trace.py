"""Traces continued and begun, ids kept and made: what the next one is told."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest

from fleetmesh.core.request import RequestHead
from fleetmesh.core.trace import Marker, Tracing, continued, read_b3, under_way

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = b"00f067aa0ba902b7"
VALID = b"00-" + TRACE + b"-" + SPAN + b"-01"
MADE = b"a1" * 16


def constant(size: int) -> bytes:
    return b"\xa1" * size


def head_of(*lines: tuple[bytes, bytes]) -> RequestHead:
    head = RequestHead()
    head.on_url(b"/")
    for name, value in ((b"Host", b"a"), *lines):
        head.on_header(name, value)
    assert head.judge(b"GET", "1.1", 100) is None
    return head


def marks(
    *lines: tuple[bytes, bytes], rate: float = 0.0, random: Callable[[int], bytes] = constant
) -> dict[bytes, bytes]:
    """The fields that the mesh adds to a request with `lines`, by name."""
    added = Tracing(rate, random).mark(head_of(*lines))
    assert added.endswith(b"\r\n")
    return dict(line.split(b": ", 1) for line in added[:-2].split(b"\r\n"))


@pytest.mark.parametrize("flags", [b"00", b"01", b"02", b"03"])
def test_a_trace_goes_on_with_a_span_of_ours(flags: bytes) -> None:
    """The trace id and the caller's decision stay, the parent is this hop (section 3.4)."""
    for rate in (0.0, 1.0):
        told = marks((b"Traceparent", VALID[:-2] + flags), (b"tracestate", b"a=1"), rate=rate)
        assert told[b"traceparent"] == b"00-" + TRACE + b"-" + MADE[:16] + b"-" + flags
        assert told[b"tracestate"] == b"a=1"


def test_every_line_of_a_tracestate_is_passed_on() -> None:
    """In their order, none of them read."""
    head = head_of((b"tracestate", b"a=1"), (b"traceparent", VALID), (b"tracestate", b"b=2,c"))
    added = Tracing(0.0, constant).mark(head)
    assert b"tracestate: a=1\r\ntracestate: b=2,c\r\n" in added


@pytest.mark.parametrize(
    ("traceparent", "flags"),
    [
        (VALID, 1),
        (b"00-" + TRACE + b"-" + SPAN + b"-ff", 3),
        (b"cc-" + TRACE + b"-" + SPAN + b"-01", 1),
        (b"01-" + TRACE + b"-" + SPAN + b"-08-what-the-future-will-be-like", 0),
    ],
)
def test_a_valid_traceparent(traceparent: bytes, flags: int) -> None:
    """A higher version is read as version 00, as far as that goes (section 3.2.4)."""
    assert continued(traceparent) == (TRACE, flags)
    told = marks((b"traceparent", traceparent), rate=1.0)[b"traceparent"]
    assert told == b"00-" + TRACE + b"-" + MADE[:16] + b"-%02d" % flags


@pytest.mark.parametrize(
    "traceparent",
    [
        b"",
        b"00",
        VALID[:-1],
        VALID + b"0",
        VALID + b"-",
        VALID + b"-extra",
        VALID + b", " + VALID,
        VALID.upper(),
        VALID.replace(b"-", b"_"),
        b"ff" + VALID[2:],
        b"01" + VALID[2:] + b".extra",
        b"0x" + VALID[2:],
        b"00-" + b"0" * 32 + b"-" + SPAN + b"-01",
        b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
        b"00-" + TRACE[:-1] + b"g-" + SPAN + b"-01",
    ],
)
def test_an_invalid_traceparent_begins_a_trace(traceparent: bytes) -> None:
    """Nothing of the old one is left, its tracestate included (section 3.2)."""
    assert continued(traceparent) is None
    told = marks((b"traceparent", traceparent), (b"tracestate", b"a=1"))
    assert told[b"traceparent"] == b"00-" + MADE + b"-" + MADE[:16] + b"-02"
    assert b"tracestate" not in told


def test_two_traceparents_are_none() -> None:
    told = marks((b"traceparent", VALID), (b"traceparent", VALID))
    assert TRACE not in told[b"traceparent"]


def test_white_space_around_a_value_is_no_part_of_it() -> None:
    assert TRACE in marks((b"traceparent", VALID + b" \t"))[b"traceparent"]


@pytest.mark.parametrize(
    ("rate", "digits", "flags"),
    [(0.0, "ff", b"02"), (1.0, "00", b"03"), (0.5, "7f", b"02"), (0.5, "80", b"03")],
)
def test_the_rate_decides_by_the_trace_id(rate: float, digits: str, flags: bytes) -> None:
    """By its random part, as OpenTelemetry does: whoever samples by that rate agrees."""
    ids = iter([bytes.fromhex("01" * 9 + digits + "01" * 6)])

    def random(size: int) -> bytes:
        return next(ids, b"\x01" * size) * (size // 16)

    assert marks(rate=rate, random=random)[b"traceparent"][-2:] == flags


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({b"b3": TRACE + b"-" + SPAN}, (TRACE, -1)),
        ({b"b3": TRACE + b"-" + SPAN + b"-1"}, (TRACE, 1)),
        ({b"b3": TRACE + b"-" + SPAN + b"-d"}, (TRACE, 1)),
        ({b"b3": TRACE + b"-" + SPAN + b"-0-" + SPAN}, (TRACE, 0)),
        ({b"b3": TRACE[:16] + b"-" + SPAN + b"-1"}, (b"0" * 16 + TRACE[:16], 1)),
        ({b"b3": b"0"}, (b"", 0)),
        ({b"b3": b"1"}, (b"", 1)),
        ({b"b3": b"0" * 32 + b"-" + SPAN + b"-1"}, (b"", -1)),
        ({b"b3": TRACE + b"-" + b"0" * 16 + b"-1"}, (b"", -1)),
        ({b"b3": TRACE.upper() + b"-" + SPAN}, (b"", -1)),
        ({b"b3": TRACE[:31] + b"-" + SPAN}, (b"", -1)),
        ({b"b3": b"1, 0"}, (b"", -1)),
        ({b"x-b3-traceid": TRACE, b"x-b3-spanid": SPAN, b"x-b3-sampled": b"1"}, (TRACE, 1)),
        ({b"x-b3-traceid": TRACE, b"x-b3-spanid": SPAN, b"x-b3-sampled": b"false"}, (TRACE, 0)),
        ({b"x-b3-traceid": TRACE, b"x-b3-spanid": SPAN, b"x-b3-flags": b"1"}, (TRACE, 1)),
        ({b"x-b3-traceid": TRACE, b"x-b3-spanid": SPAN}, (TRACE, -1)),
        ({b"x-b3-traceid": TRACE, b"x-b3-sampled": b"1"}, (b"", 1)),
        ({b"x-b3-traceid": b"0" * 32, b"x-b3-spanid": SPAN}, (b"", -1)),
        ({b"b3": b"0", b"x-b3-traceid": TRACE, b"x-b3-spanid": SPAN}, (b"", 0)),
        (None, (b"", -1)),
    ],
)
def test_b3(fields: dict[bytes, bytes] | None, expected: tuple[bytes, int]) -> None:
    """Both spellings; the single header counts first; ids are strict."""
    assert read_b3(fields) == expected


def test_a_trace_of_b3_goes_on_in_traceparent() -> None:
    """The fields of B3 stay where they are."""
    head = head_of((b"X-B3-TraceId", TRACE), (b"x-b3-spanid", SPAN), (b"X-B3-SAMPLED", b"1"))
    added = Tracing(0.0, constant).mark(head)
    assert added.startswith(b"traceparent: 00-" + TRACE + b"-" + MADE[:16] + b"-01\r\n")
    rebuilt = head.rebuild(b"", added)
    assert b"X-B3-TraceId: " + TRACE + b"\r\nX-B3-SpanId: " + SPAN + b"\r\n" in rebuilt


def test_traceparent_counts_before_b3() -> None:
    told = marks((b"b3", b"0" * 15 + b"1-" + SPAN + b"-0"), (b"traceparent", VALID))
    assert told[b"traceparent"].startswith(VALID[:36])


def test_a_decision_of_b3_without_a_trace_is_kept() -> None:
    assert marks((b"b3", b"0"), rate=1.0)[b"traceparent"][-2:] == b"02"
    assert marks((b"b3", b"1"), rate=0.0)[b"traceparent"][-2:] == b"03"


@pytest.mark.parametrize("sane", [b"1", b"f4d3-\x21~", b"x" * 128])
def test_a_sane_request_id_is_kept(sane: bytes) -> None:
    assert marks((b"X-Request-Id", sane))[b"x-request-id"] == sane


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ((b"x-request-id", b""),),
        ((b"x-request-id", b"x" * 129),),
        ((b"x-request-id", b"a b"),),
        ((b"x-request-id", b"caf\xc3\xa9"),),
        ((b"x-request-id", b"a"), (b"x-request-id", b"b")),
    ],
)
def test_another_one_is_made(lines: tuple[tuple[bytes, bytes], ...]) -> None:
    """A UUID of version 4 (RFC 9562), the only x-request-id that is sent."""
    made = marks(*lines, random=bytes_in_order)[b"x-request-id"]
    pattern = rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    assert re.fullmatch(pattern, made)


def bytes_in_order(size: int) -> bytes:
    return bytes(number % 255 + 1 for number in range(size))


def test_ids_are_never_all_zeros_and_never_the_same() -> None:
    """However the randomness falls, and across its blocks."""
    blocks = iter([b"\0" * 4096, *(bytes([n]) * 4 + bytes_in_order(4092) for n in range(1, 9))])
    tracing = Tracing(0.0, lambda _: next(blocks))
    head = head_of((b"traceparent", VALID), (b"x-request-id", b"1"))
    spans = [tracing.mark(head)[49:65] for _ in range(1200)]
    assert all(re.fullmatch(rb"[0-9a-f]{16}", span) for span in spans)
    assert b"0" * 16 not in spans
    assert spans[0] != spans[512]


def test_what_the_caller_nominates_ends_with_the_hop() -> None:
    """RFC 9110 section 7.6.1: a field named in Connection is not forwarded."""
    told = marks(
        (b"traceparent", VALID),
        (b"x-request-id", b"mine"),
        (b"Connection", b"traceparent, x-request-id, b3"),
        (b"b3", TRACE + b"-" + SPAN),
    )
    assert TRACE not in told[b"traceparent"]
    assert told[b"x-request-id"] != b"mine"


def test_without_tracing_fields_pass_as_they_came() -> None:
    head = head_of(
        (b"traceparent", b"nonsense"), (b"tracestate", b"a=1"), (b"X-Request-Id", b"a b")
    )
    assert Marker().mark(head) == (
        b"traceparent: nonsense\r\ntracestate: a=1\r\nx-request-id: a b\r\n"
    )
    assert Marker().mark(head_of()) == b""


def test_a_head_forgets_the_one_before() -> None:
    head = head_of((b"traceparent", VALID), (b"b3", b"1"), (b"x-request-id", b"1"))
    head.begin_head()
    assert (head.traceparent, head.tracestate, head.request_id, head.noted) == (b"", b"", b"", None)


def test_routes_still_see_what_is_held_back() -> None:
    """A route may choose by any field that is forwarded."""
    head = head_of(
        (b"traceparent", VALID), (b"tracestate", b"a=1"), (b"tracestate", b"b"), (b"b3", b"1")
    )
    assert head.field(b"traceparent") == VALID
    assert head.field(b"tracestate") == b"a=1, b"
    assert head.field(b"b3") == b"1"
    assert head.field(b"x-request-id") is None
    assert head_of((b"X-Request-Id", b"7")).field(b"x-request-id") == b"7"


def test_the_next_one_can_tell_whether_a_trace_was_under_way() -> None:
    """One that begins here is not; one that is continued here is, whoever began it."""
    sent = itertools.count(1)

    def random(size: int) -> bytes:
        return b"".join(next(sent).to_bytes(8, "big") for _ in range(size // 8))

    tracing = Tracing(0.0, random)
    assert not under_way(head_of())
    for came, way in (((), False), (((b"traceparent", VALID),), True)):
        told = tracing.mark(head_of(*came)).partition(b"\r\n")[0].partition(b": ")[2]
        assert under_way(head_of((b"traceparent", told))) is way
        again = tracing.mark(head_of((b"traceparent", told))).partition(b"\r\n")[0][13:]
        assert under_way(head_of((b"traceparent", again)))
    begun = tracing.mark(head_of((b"traceparent", b"invalid")))[13:68]
    assert not under_way(head_of((b"traceparent", begun)))
    assert under_way(head_of((b"b3", TRACE + b"-" + SPAN + b"-1")))
