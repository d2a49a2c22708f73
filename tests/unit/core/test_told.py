"""What the mesh tells of a request in fields of its own."""

from __future__ import annotations

import pytest
from tests.unit.core.test_routes import head

from fleetmesh.core.fields import field_problems
from fleetmesh.core.told import (
    ATTEMPTS,
    DEADLINE,
    EXPECTED,
    attempt,
    attempts_line,
    deadline_line,
    time_left,
)
from fleetmesh.model.traffic import FieldChanges


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ((("X-Fleetmesh-Deadline-Ms", "1500"),), 1.5),
        ((("x-fleetmesh-deadline-ms", " 0 "),), 0.0),
        ((("x-envoy-expected-rq-timeout-ms", "250"),), 0.25),
        ((("x-envoy-expected-rq-timeout-ms", "0"),), None),
        ((("x-envoy-expected-rq-timeout-ms", "9"), ("x-fleetmesh-deadline-ms", "7")), 0.007),
        ((("x-fleetmesh-deadline-ms", "7"), ("x-envoy-expected-rq-timeout-ms", "9")), 0.007),
        ((("x-fleetmesh-deadline-ms", "-1"),), None),
        ((("x-fleetmesh-deadline-ms", "1.5"),), None),
        ((("x-fleetmesh-deadline-ms", "12345678901"),), None),
        ((("x-fleetmesh-deadline-ms", "5"), ("x-fleetmesh-deadline-ms", "6")), None),
        ((("x-fleetmesh-attempts", "3"),), None),
    ],
)
def test_the_time_that_is_left(fields: tuple[tuple[str, str], ...], left: float | None) -> None:
    """Ours goes before Envoy's, whose zero is none; what is no number is nobody's deadline."""
    noted = head("GET", "/", *fields).noted
    assert noted is not None
    assert time_left(noted) == left


def test_what_is_ours_is_not_forwarded_as_it_came() -> None:
    """Nor what an application behind CGI could take for it. Envoy's goes on."""
    said = (
        ("X-Fleetmesh-Attempts", "7"),
        ("x_fleetmesh-attempts", "7"),
        ("X-Fleetmesh_Deadline-ms", "7"),
        ("x-fleetmesh-deadline-ms", "7"),
        ("x-envoy-expected-rq-timeout-ms", "7"),
    )
    request = head("GET", "/", *said)
    assert request.lines == [EXPECTED + b": 7\r\n"]
    assert request.noted is not None
    assert attempt(request.noted) == 7
    assert head("GET", "/").noted is None


def test_lines() -> None:
    assert deadline_line(1.2345) == DEADLINE + b": 1234\r\n"
    assert deadline_line(-1.0) == DEADLINE + b": 0\r\n"
    assert attempts_line(2) == ATTEMPTS + b": 2\r\n"


@pytest.mark.parametrize("name", ["X-Fleetmesh-Attempts", "x-fleetmesh-deadline-ms"])
def test_a_route_does_not_say_it(name: str) -> None:
    assert [one.path for one in field_problems(FieldChanges(set=((name, "1"),)), "r")] == ["r.set"]
