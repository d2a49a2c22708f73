"""Names on a host of the test's own: whose queries are answered by whom, and the routes of virtual
addresses, with the real rules in a real kernel."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import dns.message
import dns.query
import dns.rdatatype
import pytest
import uvloop
from tests.support.netns import Netns, join, netns, original_destination

from fleetmesh.capture.redirect import Inputs, Service, ruleset
from fleetmesh.capture.ruleset import Ruleset
from fleetmesh.edge import netlink, routes
from fleetmesh.edge.dns import DnsServer, Names
from fleetmesh.edge.resolvers import HostResolvers, Server
from fleetmesh.process.sockets import Sockets

WEB, AGENT, SOMEBODY = 4001, 4003, 4004
DNS_PORT = 15053
INPUTS = Inputs(
    (Service("web", 8080, uid=WEB, outbound_port=15100),), agent_uid=AGENT, dns_port=DNS_PORT
)
RULES = ruleset(INPUTS)
VIRTUAL, VIRTUAL6 = "248.1.2.3", "fd4f:1ee7:7e5f:240::f801:203"
THEIRS = "192.0.2.80"
PATIENCE = 5.0


class Host(NamedTuple):
    """`peer` is another machine, on which the host's resolver is."""

    space: Netns
    peer: Netns
    resolver: str
    asked: list[str]


@pytest.fixture(params=["10.99.3.2", "fd99:3::2", "127.0.0.53"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with netns("names") as space, netns("resolver") as peer:
        join(space, peer, 3)
        resolver: str = request.param
        where = space if resolver.startswith("127.") else peer
        asked: list[str] = []
        with resolving(where, resolver, asked), serving(space, resolver):
            yield Host(space, peer, resolver, asked)


@contextmanager
def resolving(space: Netns, address: str, asked: list[str]) -> Iterator[None]:
    """A resolver that says THEIRS to everything."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sockets = [
        space.call(lambda kind=kind: bound(family, kind, address))
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)
    ]
    udp, tcp = sockets
    ended = threading.Event()

    def answer(wire: bytes) -> bytes:
        query = dns.message.from_wire(wire)
        asked.append(str(query.question[0].name))
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text(query.question[0].name, 9, "IN", "A", THEIRS))
        return response.to_wire()

    def datagrams() -> None:
        while True:
            try:
                wire, peer = udp.recvfrom(4096)
                udp.sendto(answer(wire), peer)
            except TimeoutError:
                if ended.is_set():
                    return

    def streams() -> None:
        while True:
            try:
                client, _ = tcp.accept()
            except TimeoutError:
                if ended.is_set():
                    return
                continue
            with client:
                client.settimeout(PATIENCE)
                length = int.from_bytes(client.recv(2), "big")
                reply = answer(client.recv(length))
                client.sendall(len(reply).to_bytes(2, "big") + reply)

    threads = [threading.Thread(target=target) for target in (datagrams, streams)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(PATIENCE)
        for sock in sockets:
            sock.close()


def bound(family: int, kind: socket.SocketKind, address: str) -> socket.socket:
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, 53))
    if kind == socket.SOCK_STREAM:
        sock.listen(8)
    sock.settimeout(0.2)
    return sock


@contextmanager
def serving(space: Netns, resolver: str) -> Iterator[None]:
    """The agent's DNS server in `space`, on the agent's own sockets and as the agent's user."""

    class Resolvers(HostResolvers):
        def servers(self) -> tuple[Server, ...]:
            return (Server(resolver),)

    async def used(service: str) -> bool:
        return service == "api"

    names = Names(used, lambda _: (VIRTUAL, VIRTUAL6), lambda: "dc1", lambda: frozenset({"dc1"}))
    started, ended = threading.Event(), threading.Event()

    async def serve() -> None:
        server = DnsServer(names, 5, Server("127.0.0.1", 1), Resolvers())
        await server.start(Sockets({}).dns(DNS_PORT))
        started.set()
        await asyncio.to_thread(ended.wait)
        await server.close()

    thread = threading.Thread(
        target=space.call, args=(lambda: uvloop.run(serve()),), kwargs={"uid": AGENT}
    )
    thread.start()
    assert started.wait(PATIENCE)
    try:
        yield
    finally:
        ended.set()
        thread.join(PATIENCE)


def look_up(host: Host, name: str, uid: int, kind: str = "A", tcp: bool = False) -> list[str]:
    """What a process of `uid` gets from the nameserver that its resolv.conf names."""
    query = dns.message.make_query(name, kind)
    send: Callable[..., dns.message.Message] = dns.query.tcp if tcp else dns.query.udp
    answer = host.space.call(send, query, host.resolver, PATIENCE, uid=uid)
    return [str(record) for rrset in answer.answer for record in rrset]


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_a_services_queries_are_the_agents_and_no_others(host: Host, tcp: bool) -> None:
    host.space.call(netlink.replace, RULES)
    assert look_up(host, "api.mesh", WEB, "A", tcp) == [VIRTUAL]
    assert look_up(host, "api.mesh", WEB, "AAAA", tcp) == [VIRTUAL6]
    assert look_up(host, "nobody.mesh", WEB, "A", tcp) == []
    assert host.asked == []
    for uid in (0, SOMEBODY):
        assert look_up(host, "api.mesh", uid, "A", tcp) == [THEIRS]
    assert host.asked == ["api.mesh.", "api.mesh."]


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_other_names_come_from_the_hosts_resolver(host: Host, tcp: bool) -> None:
    """The agent's own query is not captured again."""
    host.space.call(netlink.replace, RULES)
    assert look_up(host, "www.example.com", WEB, "A", tcp) == [THEIRS]
    assert host.asked == ["www.example.com."]


def test_without_rules_a_service_asks_as_everybody_does(host: Host) -> None:
    host.space.call(netlink.replace, RULES)
    assert look_up(host, "api.mesh", WEB) == [VIRTUAL]
    host.space.call(netlink.remove)
    assert look_up(host, "api.mesh", WEB) == [THEIRS]
    assert look_up(host, "www.example.com", WEB, tcp=True) == [THEIRS]


def listed(space: Netns) -> str:
    lists = (space.run("ip", family, "route", "show", "proto", "245") for family in ("-4", "-6"))
    return "".join(lists)


def test_routes_come_and_go_with_the_rules() -> None:
    with netns("routes") as space:
        assert listed(space) == ""
        for _ in range(2):
            space.call(netlink.replace, RULES)
            assert "240.0.0.0/4 dev lo" in listed(space)
            assert "fd4f:1ee7:7e5f:240::/64 dev lo" in listed(space)
        for _ in range(2):
            space.call(netlink.remove)
            assert listed(space) == ""


@pytest.mark.parametrize("which", ["all", "lo"])
def test_a_host_without_ipv6_has_the_other_route(which: str) -> None:
    with netns("without6") as space:
        space.run("sysctl", "-qw", f"net.ipv6.conf.{which}.disable_ipv6=1")
        space.call(netlink.replace, RULES)
        assert "240.0.0.0/4 dev lo" in listed(space)
        assert [sock.family for sock in space.call(Sockets({}).dns, DNS_PORT)] == [
            socket.AF_INET,
            socket.AF_INET,
        ]
        space.call(netlink.remove)
        assert listed(space) == ""


def test_a_lost_route_comes_back_and_a_foreign_one_stays() -> None:
    with netns("routes") as space, netns("peer") as peer:
        join(space, peer, 5)
        space.run("ip", "route", "add", "240.0.0.0/4", "dev", "eth0", "metric", "1024")
        space.call(routes.add)
        assert "240.0.0.0/4" not in listed(space)
        assert "dev lo" in listed(space)
        space.call(routes.remove)
        assert "240.0.0.0/4 dev eth0" in space.run("ip", "route")
        space.call(routes.add)
        space.run("ip", "-6", "route", "del", "fd4f:1ee7:7e5f:240::/64")
        space.call(netlink.route_virtual, RULES)
        assert "fd4f:1ee7:7e5f:240::/64 dev lo" in listed(space)
        space.call(netlink.route_virtual, Ruleset())
        assert listed(space) == ""


@pytest.mark.parametrize("virtual", [VIRTUAL, VIRTUAL6], ids=["v4", "v6"])
@pytest.mark.parametrize("connected", [False, True], ids=["no default route", "default route"])
def test_a_virtual_address_can_be_dialled(connected: bool, virtual: str) -> None:
    with netns("dials") as space, netns("peer") as peer:
        if connected:
            join(space, peer, 4)
        space.call(netlink.replace, RULES)
        with (
            space.listen("::1" if ":" in virtual else "127.0.0.1", 15100) as outbound,
            space.connect(virtual, 80, uid=WEB) as client,
        ):
            server, _ = outbound.accept()
            with server:
                assert original_destination(server) == (virtual, 80)
                client.sendall(b"ping")
                server.settimeout(PATIENCE)
                assert server.recv(4) == b"ping"
                server.sendall(b"pong")
                assert client.recv(4) == b"pong"
