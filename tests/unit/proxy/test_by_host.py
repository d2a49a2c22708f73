"""Connections of strangers, told by the Host of their first request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.ca import Authority
from tests.support.worker import snapshot, upstream

from fleetmesh.core.table import link
from fleetmesh.proxy.asking import Questions
from fleetmesh.proxy.by_host import ByHost
from fleetmesh.proxy.conduit import Quiet
from fleetmesh.proxy.plane import Plane
from fleetmesh.settings import HttpSettings, TcpSettings

THERE = ("192.0.2.9", 80)
REQUEST = b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n"


class Line:
    """A transport that does nothing."""

    def __init__(self) -> None:
        self.closing = False

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None

    def is_closing(self) -> bool:
        return self.closing


class Taker(Quiet):
    """Arrival and successor: `went` says where to."""

    def __init__(self, plane: Plane, passes: bool = True) -> None:
        self.went: list[str] = []
        self.data = b""
        self.ended = False
        self._plane = plane
        self._passes = passes

    def to(self, key: str, transport: Any, destination: tuple[str, int]) -> Any:
        assert destination == THERE
        if key not in self._plane.table.upstreams:
            return None
        self.went.append(key)
        return self

    def past(self, transport: Any, destination: tuple[str, int]) -> Any:
        assert destination == THERE
        self.went.append("past")
        return self if self._passes else None

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.ended = True
        return False


@pytest.fixture
async def plane() -> Plane:
    """With `api`, and its subset `v1`."""
    upstreams = (upstream("api", 1), upstream("v1.api.default.dc1", 2))
    table = link(snapshot(Authority(), (), upstreams), 1, None, 0)
    return Plane(asyncio.get_running_loop(), HttpSettings(), TcpSettings(), table)


def arrived(plane: Plane, passes: bool = True) -> tuple[ByHost, Taker]:
    taker = Taker(plane, passes)
    one = ByHost(plane, taker, THERE)
    one.connection_made(Line())  # type: ignore[arg-type]
    return one, taker


@pytest.mark.parametrize(
    ("host", "went"),
    [
        (b"api", "api"),
        (b"api.mesh:80", "api"),
        (b"API.virtual.consul", "api"),
        (b"v1.api.mesh", "v1.api.default.dc1"),
        (b"api.dc2.dc.mesh", "past"),
        (b"other.mesh", "past"),
        (b"api.example.com", "past"),
        (b"192.0.2.9", "past"),
        (b"[2001:db8::1]:80", "past"),
        (b"", "past"),
    ],
)
@pytest.mark.parametrize("cut", [1, 7, 10_000])
async def test_the_host_decides_and_every_byte_goes_on(
    plane: Plane, host: bytes, went: str, cut: int
) -> None:
    one, taker = arrived(plane)
    request = REQUEST % host
    rest = request
    while rest and not taker.went:
        one.data_received(rest[:cut])
        rest = rest[cut:]
    assert taker.went == [went]
    assert taker.data + rest == request
    assert one not in plane.connections


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x00\x05hello", b"\x00\x01\x02", b"hello there\n"])
async def test_what_is_no_request_goes_past(plane: Plane, data: bytes) -> None:
    one, taker = arrived(plane)
    one.data_received(data)
    assert (taker.went, taker.data) == (["past"], data)


async def test_a_request_that_is_cut_off_goes_past_with_its_end(plane: Plane) -> None:
    one, taker = arrived(plane)
    data = b"GET / HTTP/1.1\r\nHost: api\r\n"
    one.data_received(data)
    assert taker.went == []
    assert one.eof_received() is False
    assert (taker.went, taker.data, taker.ended) == (["past"], data, True)


async def test_a_head_that_does_not_end_goes_past(plane: Plane) -> None:
    one, taker = arrived(plane)
    data = b"GET / HTTP/1.1\r\nHost: api\r\nX: " + b"x" * 70_000
    one.data_received(data)
    assert (taker.went, taker.data) == (["past"], data)


async def test_who_waits_for_the_server_goes_past_in_time(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.tcp = TcpSettings(detect_timeout=0.02)
    _, taker = arrived(plane)
    gone, nobody = arrived(plane)
    gone.connection_lost(None)
    await asyncio.sleep(0.1)
    assert taker.went == ["past"]
    assert nobody.went == []
    assert not plane.connections


async def test_where_nothing_passes_the_connection_has_ended(plane: Plane) -> None:
    one, taker = arrived(plane, passes=False)
    one.data_received(REQUEST % b"other")
    assert (taker.went, taker.data) == (["past"], b"")


@pytest.mark.parametrize("comes", [True, False])
async def test_a_service_that_is_not_served_yet_is_asked_for(plane: Plane, comes: bool) -> None:
    asked: list[tuple[str, int]] = []
    plane.questions = Questions(lambda key, port: asked.append((key, port)))
    one, taker = arrived(plane)
    one.data_received(REQUEST % b"cart.mesh")
    assert asked == [("cart", 0)]
    assert taker.went == []
    if comes:
        state = snapshot(Authority(), (), (upstream("cart", 3),))
        plane.table = link(state, 2, plane.table, 0)
    plane.questions.answered(("cart", 0), plane.now)
    assert taker.went == ["cart" if comes else "past"]
    assert taker.data == REQUEST % b"cart.mesh"
    other, again = arrived(plane)
    other.data_received(REQUEST % b"cart.mesh")
    assert again.went == taker.went
    assert len(asked) == 1
