"""Changes of header fields."""

from __future__ import annotations

import pytest

from fleetmesh.core.fields import field_problems, fields
from fleetmesh.core.request import RequestHead
from fleetmesh.model.traffic import FieldChanges

REQUEST = RequestHead()
REQUEST.lines = [b"X-Id: 7\r\n"]
LINES = [b"X-A: 1\r\n", b"x-b: 2\r\n", b"X-a: 3\r\n"]


def changed(*changes: FieldChanges) -> list[bytes]:
    made = fields(*changes)
    assert made is not None
    return made.changed(LINES, REQUEST, "[fd00::1]:77")


def test_removed_then_set_then_added() -> None:
    assert changed(FieldChanges(add=(("x-b", "4"),), set=(("x-a", "5"),), remove=("X-B",))) == [
        b"x-a: 5\r\n",
        b"x-b: 4\r\n",
    ]


def test_the_second_change_is_made_of_what_the_first_left() -> None:
    first = FieldChanges(add=(("x-a", "split"),), set=(("x-c", "split"),))
    assert changed(first, FieldChanges(set=(("X-A", "route"),))) == [
        b"x-b: 2\r\n",
        b"x-c: split\r\n",
        b"X-A: route\r\n",
    ]
    assert changed(first, FieldChanges(remove=("x-c",)))[-1] == b"x-a: split\r\n"


def test_lines_that_come_in_are_not_touched_themselves() -> None:
    """They may be kept for another try."""
    before = list(LINES)
    changed(FieldChanges(remove=("x-a",)))
    assert before == LINES


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("100%%", [b"x: 100%\r\n"]),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", [b"x: fd00::1\r\n"]),
        ("a %DOWNSTREAM_REMOTE_ADDRESS%", [b"x: a [fd00::1]:77\r\n"]),
        ("%DOWNSTREAM_REMOTE_PORT%%%%PROTOCOL%", [b"x: 77%HTTP/1.1\r\n"]),
        ("id=%REQ(X-ID)%;", [b"x: id=7;\r\n"]),
        ("%REQ(x-none)%", []),
        ("", []),
    ],
)
def test_values_have_variables_of_envoy(value: str, written: list[bytes]) -> None:
    """One that comes out empty makes no line, as with Envoy."""
    changes = FieldChanges(set=(("x", value),))
    assert list(field_problems(changes, "at")) == []
    assert [line for line in changed(changes) if line not in (b"", *LINES)] == written


def test_nothing_to_change_costs_nothing() -> None:
    assert fields(FieldChanges(), FieldChanges()) is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (FieldChanges(set=(("x y", "1"),)), 'at.set: "x y" is no name of a field'),
        (FieldChanges(add=(("x", "1\r\ny: 2"),)), "at.add: x has a value"),
        (FieldChanges(add=(("x", " 1"),)), "at.add: x has a value"),
        (FieldChanges(add=(("x", "1\t"),)), "at.add: x has a value"),
        (FieldChanges(add=(("x", "%START_TIME%"),)), "at.add: x: %START_TIME% is not known here"),
        (FieldChanges(add=(("x", "100 %"),)), "at.add: x: a percent sign stands alone"),
        (FieldChanges(add=(("x", "%REQ%"),)), "at.add: x: %REQ% has no argument"),
        (FieldChanges(add=(("x", "%PROTOCOL(x)%"),)), "at.add: x: %PROTOCOL(x)% has no argument"),
        (FieldChanges(remove=("x:",)), 'at.remove: "x:" is no name'),
        (FieldChanges(remove=("Host",)), "at.remove: Host is not a route's to change"),
        (FieldChanges(set=(("Content_Length", "0"),)), "at.set: Content_Length is not"),
        (FieldChanges(add=(("transfer-encoding", "chunked"),)), "at.add: transfer-encoding is"),
        (FieldChanges(add=(("X-Forwarded-Client-Cert", "x"),)), "at.add: X-Forwarded-Client"),
    ],
)
def test_what_would_make_another_message_of_it_is_told(changes: FieldChanges, told: str) -> None:
    (problem,) = field_problems(changes, "at")
    assert str(problem).startswith(told)


def test_good_changes_have_no_problem() -> None:
    good = FieldChanges(add=(("x-a", "ü b\tc"),), set=(("X_B", ""),), remove=("x-c",))
    assert list(field_problems(good, "at")) == []
