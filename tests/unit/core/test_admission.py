"""What an instance knows of its callers and its application outlives a change of the table."""

from __future__ import annotations

from msgspec.structs import replace
from tests.support.worker import local_service

from fleetmesh.core.admission import Admission, admission
from fleetmesh.core.lane import Lane
from fleetmesh.core.request import RequestHead
from fleetmesh.model.refusal import Refusal
from fleetmesh.model.traffic import RateLimit

OFF = local_service("api", 8080, None)
ON = replace(OFF, adaptive_concurrency=True, rate_limits=(RateLimit("instance", 100.0, 50),))


def lane() -> Lane:
    return Lane("api", "127.0.0.1", 8080)


def judged(admitted: Admission, traceparent: bytes = b"") -> Refusal | None:
    head = RequestHead()
    head.method, head.target, head.traceparent = b"GET", b"/", traceparent
    return admitted.judge("web", head, 1.0)


def test_what_is_off_costs_nothing() -> None:
    application = lane()
    assert admission(OFF, application, 1, 0.0, None) is None
    assert application.standing is None


def test_requests_that_are_let_in_and_those_that_are_not() -> None:
    application = lane()
    admitted = admission(ON, application, 1, 0.0, None)
    assert admitted is not None
    assert application.standing is admitted.concurrency
    assert judged(admitted) is None
    application.pool.active = 50
    assert judged(admitted) is Refusal.OVERLOADED
    assert admitted.lines == b"Retry-After: 1\r\n"
    application.pool.tunnels = 49
    assert judged(admitted) is None, "tunnels are not requests that wait"
    while judged(admitted) is None:
        pass
    assert judged(admitted) is Refusal.RATE_LIMITED
    assert b"RateLimit:" in admitted.lines


def test_a_trace_that_was_under_way_has_the_last_places() -> None:
    application = lane()
    admitted = admission(replace(ON, rate_limits=()), application, 1, 0.0, None)
    assert admitted is not None
    application.pool.active = 9
    trace, span = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
    assert judged(admitted, b"00-" + trace + b"-" + span + b"-01") is None
    assert judged(admitted, b"00-" + trace + b"-" + trace[16:] + b"-01") is Refusal.OVERLOADED
    assert judged(admitted) is Refusal.OVERLOADED


def test_what_is_known_stays_known() -> None:
    application = lane()
    first = admission(ON, application, 2, 0.0, None)
    assert first is not None
    same = admission(ON, application, 2, 9.0, first)
    assert same is not None
    assert (same.concurrency, same.rates) == (first.concurrency, first.rates)
    other = replace(ON, rate_limits=(RateLimit("instance", 1.0),))
    changed = admission(other, application, 2, 9.0, first)
    assert changed is not None
    assert changed.concurrency is first.concurrency
    assert changed.rates is not first.rates
    moved = admission(ON, lane(), 2, 9.0, first)
    assert moved is not None
    assert moved.concurrency is not first.concurrency
    assert admission(OFF, application, 2, 9.0, first) is None
    assert application.standing is None
