from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from tests.support.consul import free_ports

from fleetmesh.edge.ipc import Listener, ListenerKind
from fleetmesh.plan.ports import Allocation
from fleetmesh.process.sockets import SUCCESSOR, Address, Sockets, Wanted, wanted_listeners


def wanted(name: str, port: int, host: str = "127.0.0.1") -> Wanted:
    return Wanted(Listener(name, ListenerKind.INBOUND, "web"), Address(host, port))


def reachable(port: int, host: str = "127.0.0.1") -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def test_listeners_of_a_host() -> None:
    names = [
        (one.listener.name, one.address.host, one.address.port)
        for one in wanted_listeners(Allocation({"web": 15100}, {"web": 21000, "api": 21001}), 15006)
    ]
    assert names == [
        ("plain", "::", 15006),
        ("out4.web", "127.0.0.1", 15100),
        ("out6.web", "::1", 15100),
        ("in.web", "::", 21000),
        ("in.api", "::", 21001),
    ]


def test_wildcard_takes_both_families() -> None:
    (port,) = free_ports(1)
    sockets = Sockets({})
    assert sockets.open((wanted("in.web", port, "::"),)) == []
    assert reachable(port)
    assert reachable(port, "::1")
    sockets.close_unwanted(())
    assert not reachable(port)


def test_inherited_socket_is_taken_by_name() -> None:
    (port,) = free_ports(1)
    server = socket.create_server(("127.0.0.1", port))
    sockets = Sockets({"in.web": server.detach()})
    assert sockets.open((wanted("in.web", port),)) == []
    assert sockets.sockets["in.web"].getsockname()[1] == port
    sockets.close_unwanted(())


def test_inherited_socket_of_another_port_is_replaced() -> None:
    old, new = free_ports(2)
    sockets = Sockets({"in.web": socket.create_server(("127.0.0.1", old)).detach()})
    assert sockets.open((wanted("in.web", new),)) == []
    assert (reachable(old), reachable(new)) == (False, True)
    sockets.close_unwanted(())


def test_moved_listener_leaves_its_old_port() -> None:
    old, new = free_ports(2)
    sockets = Sockets({})
    sockets.open((wanted("in.web", old),))
    sockets.open((wanted("in.web", new),))
    assert (reachable(old), reachable(new)) == (False, True)
    sockets.close_unwanted(())


def test_inherited_but_undeclared_is_closed() -> None:
    (port,) = free_ports(1)
    sockets = Sockets({"in.gone": socket.create_server(("127.0.0.1", port)).detach()})
    sockets.close_unwanted(())
    assert not reachable(port)


def test_the_sign_for_the_agent_before_is_given_once_we_serve() -> None:
    """Not before: closing what nobody wants any more is done earlier than serving."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    sockets = Sockets({SUCCESSOR: ours.detach()})
    sockets.close_unwanted(())
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    sockets.succeed()
    assert theirs.recv(1) == b""
    sockets.succeed()
    theirs.close()


def test_every_taken_port_is_a_problem_of_its_own() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = [one.getsockname()[1], two.getsockname()[1]]
        problems = Sockets({}).open((wanted("in.a", ports[0]), wanted("in.b", ports[1])))
    assert [p.path for p in problems] == ["listener in.a", "listener in.b"]
    assert str(ports[0]) in problems[0].rule


def test_admin_socket_is_for_owner_and_group_and_replaces_a_stale_one(tmp_path: Path) -> None:
    path = tmp_path / "run" / "admin.sock"
    Sockets({}).admin(str(path)).close()
    with Sockets({}).admin(str(path)):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660  # noqa: PTH116


@pytest.mark.parametrize("name", ["admin", "metrics"])
def test_socket_units_sockets_are_used(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unit:
        sockets = Sockets({name: os.dup(unit.fileno())})
        sock = sockets.admin("/nowhere") if name == "admin" else sockets.metrics("127.0.0.1:1")
        with sock:
            assert sock.getsockname() == unit.getsockname()
