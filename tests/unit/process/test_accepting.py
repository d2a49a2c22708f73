from __future__ import annotations

import asyncio

import pytest
from tests.support.worker import inbound, listening, port_of

from fleetmesh.core.table import link
from fleetmesh.edge.ipc import Listener, ListenerKind
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.process.accepting import Acceptor
from fleetmesh.proxy.plane import Plane
from fleetmesh.settings import HttpSettings, TcpSettings

NOTHING = link(Snapshot("td", "dc1", "n", (), (), ()), 0, None, 0)
EXPOSED = Listener("exposed.9555", ListenerKind.EXPOSED, "")


async def refused(port: int) -> bytes:
    """What is answered on a plane that serves nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await reader.read(4096)
    writer.close()
    return answer


async def test_what_is_listed_is_accepted_and_a_socket_that_did_not_come_is_told() -> None:
    plane = Plane(asyncio.get_running_loop(), HttpSettings(), TcpSettings(), NOTHING)
    acceptor, sock = Acceptor(plane), listening()
    port = port_of(sock)
    acceptor.take([EXPOSED.name], [sock.detach()])
    fresh = frozenset({EXPOSED.name})
    assert await acceptor.listen([EXPOSED, inbound("web")], fresh) == [
        "in.web: no socket came for it"
    ]
    assert b"404" in await refused(port)

    plane.most_connections = 0
    assert await refused(port) == b""

    assert await acceptor.listen([], frozenset()) == []
    with pytest.raises(ConnectionRefusedError):
        await refused(port)
    acceptor.stop()
