"""What is over is gone at once, without the collector: TLS may have half a megabyte for it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.ca import Authority
from tests.support.worker import local_service, snapshot, upstream

from fleetmesh.core.frames import Mark, framed
from fleetmesh.core.table import link
from fleetmesh.model.report import Direction
from fleetmesh.proxy.carrier import AcceptedCarrier, Stream
from fleetmesh.proxy.plane import Plane
from fleetmesh.proxy.relay import Relay
from fleetmesh.proxy.site import Site
from fleetmesh.settings import HttpSettings, TcpSettings


class Wire(asyncio.Transport):
    """Remembers what was written; `protocol` is told of nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.closing = False
        self.protocol: Any = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def write_eof(self) -> None:
        self.sent += b"|"

    def close(self) -> None:
        self.closing = True

    abort = close

    def is_closing(self) -> bool:
        return self.closing

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        """Nothing more comes anyway."""

    resume_reading = pause_reading


@pytest.fixture
async def plane() -> Plane:
    authority = Authority()
    services = (local_service("web", 1, authority.leaf("web")),)
    table = link(snapshot(authority, services, (upstream("api", 1),)), 1, None, 0)
    return Plane(asyncio.get_running_loop(), HttpSettings(), TcpSettings(), table)


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def begin(plane: Plane) -> Relay:
    series = plane.telemetry.series(Direction.OUTBOUND, "web", "api", "tcp")
    series.begin()
    return Relay(plane, Site(plane, Direction.OUTBOUND, "web", "api", "tcp"), series, "peer", 60)


async def test_a_relay_whose_ends_are_lost_keeps_nothing(plane: Plane) -> None:
    caller, destination = Wire(), Wire()
    relay = begin(plane)
    relay.join(caller, destination)
    caller.protocol.data_received(b"ping")
    destination.protocol.data_received(b"pong")
    caller.protocol.eof_received()
    assert destination.sent == b"ping|"
    assert not destination.protocol.eof_received()
    assert caller.sent == b"pong"
    caller.protocol.connection_lost(None)
    destination.protocol.connection_lost(None)
    gone = [weakref.ref(caller), weakref.ref(destination)]
    caller.protocol = destination.protocol = None  # as the event loop lets go
    del relay, caller, destination
    assert [one() for one in gone] == [None, None]


async def test_a_destination_that_never_came_leaves_nothing(plane: Plane) -> None:
    caller = Wire()
    relay = begin(plane)
    relay.caller.connection_made(caller)
    relay.over()
    gone = weakref.ref(caller)
    del relay, caller
    assert gone() is None


async def test_a_carrier_keeps_nothing_of_a_stream_that_is_over(plane: Plane) -> None:
    below, destination = Wire(), Wire()
    relay = begin(plane)
    streams: list[Stream] = []
    carrier = AcceptedCarrier(plane, streams.append)
    carrier.connection_made(below)
    carrier.data_received(Mark.OPEN.value)
    relay.join(streams.pop(), destination)
    carrier.data_received(framed(b"ping") + Mark.END.value)
    assert destination.sent == b"ping|"
    destination.protocol.eof_received()
    assert below.sent == Mark.OPENED.value + Mark.END.value
    await asyncio.sleep(0)
    destination.protocol.connection_lost(None)
    destination.protocol = None
    gone = weakref.ref(destination)
    del relay, destination
    assert gone() is None
    carrier.data_received(Mark.OPEN.value)
    assert len(streams) == 1
