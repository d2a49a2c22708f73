"""The DNS server over real sockets, with dnspython as the client and as the servers behind it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import dns.asyncquery
import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetmesh.edge import dns as dns_server
from fleetmesh.edge import resolvers
from fleetmesh.edge.dns import DnsServer, Names
from fleetmesh.edge.resolvers import HostResolvers, Server

ADDRESSES = {"api": ("240.0.0.7", "fd4f:1ee7:7e5f:240::f000:7"), "young": ()}
PATIENCE = 10.0

Answerer = Callable[[bytes, bool], list[bytes]]


class Behind(asyncio.DatagramProtocol):
    """A server whose answers a test decides: (query, over TCP) → answers to send."""

    def __init__(self, answerer: Answerer) -> None:
        self.answerer = answerer
        self.queries: list[tuple[bytes, int]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        self.queries.append((data, peer[1]))
        for answer in self.answerer(data, False):
            self.transport.sendto(answer, peer)  # type: ignore[attr-defined]

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack(">H", await reader.readexactly(2))
        query = await reader.readexactly(length)
        self.queries.append((query, writer.get_extra_info("peername")[1]))
        for answer in self.answerer(query, True):
            writer.write(struct.pack(">H", len(answer)) + answer)
        await writer.drain()
        writer.close()


class Site:
    """The server under test with two servers behind it."""

    def __init__(self) -> None:
        self.used: list[str] = []
        self.closing: list[Callable[[], None]] = []
        self.conf: Path
        self.server: DnsServer
        self.port = 0

    async def behind(self, answerer: Answerer, host: str = "127.0.0.1") -> tuple[Behind, Server]:
        udp, tcp = pair(host)
        port = udp.getsockname()[1]
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(
            lambda: Behind(answerer), sock=udp
        )
        server = await asyncio.start_server(protocol.client, sock=tcp)
        self.closing += [transport.close, server.close]
        return protocol, Server(host, port)

    async def start(self, consul: Server, *servers: Server, ttl: int = 5) -> None:
        async def used(service: str) -> bool:
            self.used.append(service)
            return service in ADDRESSES

        class Fixed(HostResolvers):
            def servers(self) -> tuple[Server, ...]:
                return servers

        names = Names(
            used,
            lambda service: ADDRESSES[service],
            lambda: "dc1",
            lambda: frozenset({"dc1", "dc2"}),
        )
        self.server = DnsServer(names, ttl, consul, Fixed())
        udp, tcp = pair("127.0.0.1")
        self.port = udp.getsockname()[1]
        await self.server.start([udp, tcp])

    async def ask(
        self, name: str, kind: str = "A", tcp: bool = False, **options: object
    ) -> dns.message.Message:
        query = dns.message.make_query(name, kind, **options)  # type: ignore[arg-type]
        send = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
        return await send(query, "127.0.0.1", PATIENCE, self.port)


def pair(host: str) -> tuple[socket.socket, socket.socket]:
    """A datagram and a listening stream socket of one port."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        udp.bind((host, 0))
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
            continue
        tcp.listen(16)
        udp.setblocking(False)
        tcp.setblocking(False)
        return udp, tcp


def answered(query: bytes, address: str = "192.0.2.80", rcode: int = 0, count: int = 1) -> bytes:
    message = dns.message.make_response(dns.message.from_wire(query))
    message.set_rcode(dns.rcode.Rcode(rcode))
    addresses = [address] if count == 1 else [f"192.0.{n // 250}.{n % 250}" for n in range(count)]
    name = message.question[0].name
    message.answer.append(dns.rrset.from_text_list(name, 60, "IN", "A", addresses))
    return message.to_wire(max_size=65535)


def with_address(address: str, rcode: int = 0) -> Answerer:
    return lambda query, _: [answered(query, address, rcode)]


def addresses_of(message: dns.message.Message) -> list[str]:
    return sorted(str(record) for rrset in message.answer for record in rrset)


def silent(_query: bytes, _tcp: bool) -> list[bytes]:
    return []


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    yield made
    await made.server.close()
    for close in made.closing:
        close()


@pytest.fixture
async def mesh(site: Site) -> Site:
    await site.start(Server("127.0.0.1", 1), Server("127.0.0.1", 1))
    return site


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("name", ["api.mesh", "API.Mesh", "api.virtual.consul", "api.dc1.mesh"])
async def test_a_service_has_its_virtual_addresses(mesh: Site, name: str, tcp: bool) -> None:
    for kind, address in zip(("A", "AAAA"), ADDRESSES["api"], strict=True):
        answer = await mesh.ask(name, kind, tcp)
        assert answer.rcode() == dns.rcode.NOERROR
        assert addresses_of(answer) == [address]
        assert answer.answer[0].ttl == 5
        assert answer.flags & dns.flags.AA
        assert answer.flags & dns.flags.RA
    assert mesh.used == ["api", "api"]
    assert mesh.server.counts == {("mesh", "NOERROR"): 2}


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("nobody.mesh", "mesh."),
        ("v1.api.mesh", "mesh."),
        ("api.dc2.mesh", "mesh."),
        ("api.dc9.dc.mesh", "mesh."),
        ("not_a_name.mesh", "mesh."),
        ("a.b.c.d.mesh", "mesh."),
        ("nobody.virtual.consul", "virtual.consul."),
        ("api.virtual.dc2.consul", "virtual.dc2.consul."),
    ],
)
async def test_no_such_service(mesh: Site, name: str, zone: str) -> None:
    answer = await mesh.ask(name)
    assert answer.rcode() == dns.rcode.NXDOMAIN
    (soa,) = answer.authority
    assert (str(soa.name), soa.rdtype, soa.ttl, soa[0].minimum) == (zone, dns.rdatatype.SOA, 5, 5)
    assert not answer.answer


@pytest.mark.parametrize(
    ("name", "used"),
    [
        ("v1.api.mesh", ["v1.api.default.dc1"]),
        ("api.dc2.mesh", ["api.default.dc2"]),
        ("v1.api.virtual.dc2.dc.consul", ["v1.api.default.dc2"]),
        ("api.dc1.mesh", ["api"]),
        ("api.dc9.dc.mesh", []),
    ],
)
async def test_subsets_and_datacenters_are_upstreams_of_their_own(
    mesh: Site, name: str, used: list[str]
) -> None:
    await mesh.ask(name)
    assert mesh.used == used


@pytest.mark.parametrize("kind", ["MX", "TXT", "HTTPS", "SRV"])
async def test_a_service_has_nothing_but_addresses(mesh: Site, kind: str) -> None:
    answer = await mesh.ask("api.mesh", kind)
    assert answer.rcode() == dns.rcode.NOERROR
    assert not answer.answer
    assert answer.authority[0].rdtype == dns.rdatatype.SOA


async def test_the_zone_itself_has_a_soa(mesh: Site) -> None:
    assert (await mesh.ask("mesh", "SOA")).answer[0].rdtype == dns.rdatatype.SOA
    answer = await mesh.ask("mesh", "A")
    assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])


async def test_a_service_without_an_address_yet_is_no_lasting_no(mesh: Site) -> None:
    answer = await mesh.ask("young.mesh")
    assert (answer.rcode(), answer.authority) == (dns.rcode.SERVFAIL, [])


async def test_edns_is_answered_with_edns_and_only_then(mesh: Site) -> None:
    plain = await mesh.ask("api.mesh")
    assert plain.edns == -1
    extended = await mesh.ask("api.mesh", use_edns=0, payload=4096)
    assert (extended.edns, extended.payload) == (0, dns_server.PAYLOAD)
    newer = await mesh.ask("api.mesh", use_edns=1)
    assert newer.rcode() == dns.rcode.BADVERS
    assert not newer.answer


async def test_what_is_no_query_gets_no_answer(mesh: Site) -> None:
    query = dns.message.make_query("api.mesh", "A")
    response = dns.message.make_response(query).to_wire()
    assert await mesh.server.answer(b"\0" * 11, tcp=False) is None
    assert await mesh.server.answer(response, tcp=False) is None


@pytest.mark.parametrize("cut", [12, 15, 21])
async def test_a_broken_question_is_a_format_error(mesh: Site, cut: int) -> None:
    query = dns.message.make_query("api.mesh", "A").to_wire()
    answer = await mesh.server.answer(query[:cut], tcp=False)
    assert answer is not None
    assert answer[:2] == query[:2]
    assert dns.message.from_wire(answer).rcode() == dns.rcode.FORMERR


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
async def test_other_names_pass_as_bytes(site: Site, tcp: bool) -> None:
    """Options and unknown types too; only the id between us and the resolver is another."""
    behind, server = await site.behind(with_address("192.0.2.80"))
    await site.start(Server("127.0.0.1", 1), server)
    option = dns.edns.GenericOption(65001, b"kept")
    query = dns.message.make_query("www.example.com", "TYPE65280", use_edns=0, options=[option])
    wire = query.to_wire()
    answer = await site.server.answer(wire, tcp)
    assert answer == answered(wire)
    ((sent, _),) = behind.queries
    assert sent[2:] == wire[2:]
    assert (await site.ask("www.example.com", tcp=tcp)).id != 0
    assert site.server.counts == {("host", "NOERROR"): 2}


async def test_ids_and_ports_differ_from_query_to_query(site: Site) -> None:
    behind, server = await site.behind(with_address("192.0.2.80"))
    await site.start(Server("127.0.0.1", 1), server)
    wire = dns.message.make_query("www.example.com", "A").to_wire()
    await asyncio.gather(*(site.server.answer(wire, tcp=False) for _ in range(20)))
    assert len({query[:2] for query, _ in behind.queries}) > 15
    assert len({port for _, port in behind.queries}) > 15


async def test_a_reply_must_have_the_id_and_the_question(site: Site) -> None:
    def forged(query: bytes, _tcp: bool) -> list[bytes]:
        other_id = bytes([query[0] ^ 1]) + query[1:]
        other_name = query[:2] + dns.message.make_query("evil.example.com", "A").to_wire()[2:]
        return [
            answered(other_id, "203.0.113.1"),
            answered(other_name, "203.0.113.2"),
            query,
            b"short",
            answered(query, "192.0.2.80"),
        ]

    _, server = await site.behind(forged)
    await site.start(Server("127.0.0.1", 1), server)
    assert addresses_of(await site.ask("www.example.com")) == ["192.0.2.80"]


async def test_what_does_not_fit_is_truncated_and_whole_over_tcp(site: Site) -> None:
    def large(query: bytes, tcp: bool) -> list[bytes]:
        if tcp:
            return [answered(query, count=200)]
        message = dns.message.make_response(dns.message.from_wire(query))
        message.flags |= dns.flags.TC
        return [message.to_wire()]

    _, server = await site.behind(large)
    await site.start(Server("127.0.0.1", 1), server)
    assert (await site.ask("large.example.com")).flags & dns.flags.TC
    assert len(addresses_of(await site.ask("large.example.com", tcp=True))) == 200


async def test_consuls_other_names_go_to_its_agent(site: Site) -> None:
    _, host = await site.behind(with_address("192.0.2.1"))
    _, consul = await site.behind(with_address("192.0.2.2"))
    await site.start(consul, host)
    for name in ("api.service.consul", "web1.node.consul", "api.service.dc2.consul"):
        assert addresses_of(await site.ask(name)) == ["192.0.2.2"]
    assert addresses_of(await site.ask("consul.example.com")) == ["192.0.2.1"]
    assert site.server.counts == {("consul", "NOERROR"): 3, ("host", "NOERROR"): 1}


async def test_without_consul_the_rest_is_answered(site: Site) -> None:
    _, host = await site.behind(with_address("192.0.2.1"))
    await site.start(Server("127.0.0.1", 1), host)
    assert (await site.ask("api.service.consul")).rcode() == dns.rcode.SERVFAIL
    assert addresses_of(await site.ask("www.example.com")) == ["192.0.2.1"]
    assert addresses_of(await site.ask("api.mesh")) == ["240.0.0.7"]
    assert site.server.counts["consul", "timeout"] == 1


@pytest.mark.parametrize("rcode", [2, 5], ids=["servfail", "refused"])
async def test_the_next_resolver_answers_for_one_that_fails(site: Site, rcode: int) -> None:
    _, failing = await site.behind(with_address("192.0.2.1", rcode))
    _, good = await site.behind(with_address("192.0.2.2"))
    await site.start(Server("127.0.0.1", 1), Server("127.0.0.1", 1), failing, good)
    assert addresses_of(await site.ask("www.example.com")) == ["192.0.2.2"]


async def test_silent_resolvers_end_in_servfail(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolvers, "PATIENCE", 0.4)
    monkeypatch.setattr(resolvers, "LEAST_PATIENCE", 0.1)
    _, one = await site.behind(silent)
    _, two = await site.behind(silent)
    await site.start(Server("127.0.0.1", 1), one, two)
    answer = await site.ask("www.example.com")
    assert answer.rcode() == dns.rcode.SERVFAIL
    assert site.server.counts == {("host", "timeout"): 1}


async def test_too_many_queries_at_once_are_not_kept_waiting(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_server, "MAX_IN_FLIGHT", 3)
    monkeypatch.setattr(resolvers, "PATIENCE", 0.5)
    _, one = await site.behind(silent)
    await site.start(Server("127.0.0.1", 1), one)
    await asyncio.gather(*(site.ask("www.example.com") for _ in range(5)))
    assert site.server.counts == {("host", "timeout"): 3, ("host", "overload"): 2}


async def test_queries_follow_one_another_on_a_tcp_connection(mesh: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.port)
    for _ in range(3):
        wire = dns.message.make_query("api.mesh", "A").to_wire()
        writer.write(struct.pack(">H", len(wire)) + wire)
        (length,) = struct.unpack(">H", await reader.readexactly(2))
        answer = dns.message.from_wire(await reader.readexactly(length))
        assert addresses_of(answer) == ["240.0.0.7"]
    writer.close()


def test_resolv_conf_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    host = HostResolvers(file)
    assert host.servers() == (Server("127.0.0.1"),)
    file.write_text("# made by hand\nsearch example.com\nnameserver 127.0.0.53\noptions edns0\n")
    assert host.servers() == (Server("127.0.0.53"),)
    new = tmp_path / "new"
    new.write_text(
        "nameserver 192.0.2.1\nnameserver name\nnameserver\nnameserver fe80::1%lo\n"
        "nameserver 2001:db8::1\nnameserver 192.0.2.4\n"
    )
    new.replace(file)
    before = (Server("192.0.2.1"), Server("fe80::1%lo"), Server("2001:db8::1"))
    assert host.servers() == before
    file.unlink()
    assert host.servers() == before


LABELS = st.one_of(
    st.sampled_from([b"api", b"virtual", b"mesh", b"consul", b"dc1", b"young"]),
    st.binary(min_size=1, max_size=63),
)


@given(
    st.binary(min_size=2, max_size=2),
    st.integers(0, 127),
    st.lists(LABELS, max_size=3),
    st.sampled_from([[b"mesh"], [b"virtual", b"consul"], [b"virtual", b"d c", b"consul"]]),
    st.binary(min_size=4, max_size=4),
    st.binary(max_size=40),
    st.integers(0, 2),
)
def test_whatever_is_asked_of_the_mesh_is_answered(
    ident: bytes,
    flags: int,
    labels: list[bytes],
    zone: list[bytes],
    kind: bytes,
    more: bytes,
    n: int,
) -> None:
    """With the id and as a response, whatever follows the question."""

    async def used(service: str) -> bool:
        return service in ADDRESSES

    async def answer() -> bytes | None:
        names = Names(used, lambda s: ADDRESSES[s], lambda: "dc1", lambda: frozenset({"dc1"}))
        return await DnsServer(names, 5, Server("127.0.0.1", 1)).answer(query, tcp=False)

    name = b"".join(bytes([len(label)]) + label for label in (*labels, *zone)) + b"\0"
    query = ident + bytes([flags]) + bytes(1) + b"\0\1" + bytes(5) + bytes([n]) + name + kind + more
    got = asyncio.run(answer())
    assert got is not None
    assert got[:2] == ident
    assert got[2] & 0x80
    assert len(got) <= dns_server.PAYLOAD
