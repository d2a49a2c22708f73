"""The DNS server for the services of this host.

The mesh's own names are answered here, `.consul` by the Consul agent, everything else by the
host's own resolvers, whose answers pass as bytes. An answer that does not fit a datagram has TC
set, ours as theirs, and its client comes again over TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from fleetmesh.edge.resolvers import (
    HEADER_SIZE,
    HostResolvers,
    NoAnswerError,
    Server,
    ask,
    question_of,
)
from fleetmesh.plan.names import CONSUL, MeshName, parse, zone_of

MAX_IN_FLIGHT = 512
"""Queries that wait at once; one more is answered SERVFAIL."""
MAX_CLIENTS = 128
AT_ONCE = 32
"""Datagrams that are taken before it is others' turn."""
MAX_QUERY = 65535
IDLE = 10.0
"""Seconds that a TCP client may be silent."""
PAYLOAD = 1232
"""Bytes of a datagram that pass every network (DNS flag day 2020)."""
LEAST_PAYLOAD = 512
ROOT_NAME = "fleetmesh"


class Names(NamedTuple):
    """What the server asks of its owner.

    `used`: an upstream (MeshName.key) is looked up; whether there is such a one, at most a second
    later. `addresses`: its virtual addresses, () while it has none.
    `datacenters`: those that are known. `local`: this one's name.
    """

    used: Callable[[str], Awaitable[bool]]
    addresses: Callable[[str], tuple[str, ...]]
    local: Callable[[], str]
    datacenters: Callable[[], frozenset[str]]


class DnsServer:
    """`counts` are queries by kind (mesh, consul, host, malformed) and result: an rcode's name,
    `timeout` when no server answered, `overload`."""

    def __init__(
        self, names: Names, ttl: int, consul: Server, host: HostResolvers | None = None
    ) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._names = names
        self._ttl = ttl
        self._consul = consul
        self._host = host or HostResolvers()
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        self._clients = 0
        self._datagrams: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []

    async def start(self, sockets: list[socket.socket]) -> None:
        """Serve on bound datagram and listening stream sockets, which are the server's now."""
        loop = asyncio.get_running_loop()
        for sock in sockets:
            if sock.type == socket.SOCK_DGRAM:
                loop.add_reader(sock, self._read, sock)
                self._datagrams.append(sock)
            else:
                self._servers.append(await asyncio.start_server(self._client, sock=sock))

    def stop(self) -> None:
        """Take no more queries; those that are here are answered still."""
        for sock in self._datagrams:
            asyncio.get_running_loop().remove_reader(sock)
        for server in self._servers:
            server.close()

    async def close(self) -> None:
        self.stop()
        for sock in self._datagrams:
            sock.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _read(self, sock: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                query, peer = sock.recvfrom(MAX_QUERY)
            except OSError:  # nothing more, or an answer before had no reader
                return
            task = asyncio.get_running_loop().create_task(self._reply(sock, query, peer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _reply(self, sock: socket.socket, query: bytes, peer: Any) -> None:
        answer = await self.answer(query, tcp=False)
        if answer is not None:
            with contextlib.suppress(OSError):
                sock.sendto(answer, peer)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._clients += 1
        try:
            while self._clients <= MAX_CLIENTS:
                async with asyncio.timeout(IDLE):
                    (length,) = struct.unpack(">H", await reader.readexactly(2))
                    query = await reader.readexactly(length)
                answer = await self.answer(query, tcp=True)
                if answer is None:
                    return
                writer.write(struct.pack(">H", len(answer)) + answer)
                async with asyncio.timeout(IDLE):
                    await writer.drain()
        except (OSError, EOFError):  # a timeout is an OSError
            pass
        finally:
            self._clients -= 1
            writer.close()

    async def answer(self, query: bytes, tcp: bool) -> bytes | None:
        """None for what must not be answered: no message, or an answer."""
        if len(query) < HEADER_SIZE or query[2] & 0x80:
            return None
        question = question_of(query)
        if question is None:
            self.counts["malformed", "FORMERR"] += 1
            return _error(query, dns.rcode.FORMERR)
        labels = _labels(question)
        zone = zone_of(labels)
        kind = "mesh" if zone else ("consul" if labels[-1:] == (CONSUL,) else "host")
        if self._in_flight >= MAX_IN_FLIGHT:
            self.counts[kind, "overload"] += 1
            return _error(query, dns.rcode.SERVFAIL)
        self._in_flight += 1
        try:
            if zone:
                answer = await self._mesh(query, labels, zone, tcp)
            else:
                servers = (self._consul,) if kind == "consul" else self._host.servers()
                answer = await ask(servers, query, tcp)
        except NoAnswerError:
            self.counts[kind, "timeout"] += 1
            return _error(query, dns.rcode.SERVFAIL)
        finally:
            self._in_flight -= 1
        self.counts[kind, dns.rcode.to_text(dns.rcode.Rcode(answer[3] & 0x0F))] += 1
        return answer

    async def _mesh(
        self, wire: bytes, labels: tuple[str, ...], zone: tuple[str, ...], tcp: bool
    ) -> bytes:
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return _error(wire, dns.rcode.FORMERR)
        answer = dns.message.make_response(query, recursion_available=True, our_payload=PAYLOAD)
        if query.opcode() != dns.opcode.QUERY:
            answer.set_rcode(dns.rcode.NOTIMP)
        elif query.edns > 0:
            answer.use_edns(0, payload=PAYLOAD)
            answer.set_rcode(dns.rcode.BADVERS)
        elif query.question[0].rdclass != dns.rdataclass.IN:
            answer.set_rcode(dns.rcode.REFUSED)
        else:
            answer.flags |= dns.flags.AA
            await self._fill(answer, labels, dns.name.Name([*map(_raw, zone), b""]))
        most = 65535 if tcp else min(max(query.payload, LEAST_PAYLOAD), PAYLOAD)
        return answer.to_wire(max_size=most, prefer_truncation=True)

    async def _fill(
        self, answer: dns.message.Message, labels: tuple[str, ...], zone: dns.name.Name
    ) -> None:
        """What is there of the type asked for, else the SOA that says how long it is not."""
        question = answer.question[0]
        name, kind = question.name, question.rdtype
        soa = dns.rrset.from_text(
            zone, self._ttl, "IN", "SOA",
            f"{ROOT_NAME}.{zone} hostmaster.{zone} 1 3600 600 86400 {self._ttl}",
        )  # fmt: skip
        if name == zone:
            section = answer.answer if kind in _SOA_OR_ANY else answer.authority
            section.append(soa)
            return
        addresses = await self._addresses(parse(labels, self._names.datacenters()))
        if addresses is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif not addresses:
            answer.set_rcode(dns.rcode.SERVFAIL)
            return
        for address in addresses or ():
            own = dns.rdatatype.AAAA if ":" in address else dns.rdatatype.A
            if kind in (own, dns.rdatatype.ANY):
                answer.answer.append(
                    dns.rrset.from_text(name, self._ttl, "IN", dns.rdatatype.to_text(own), address)
                )
        if not answer.answer:
            answer.authority.append(soa)

    async def _addresses(self, name: MeshName | None) -> tuple[str, ...] | None:
        """None when there is no such service, subset or datacenter. Which datacenters there are is
        not known before ours is."""
        if name is None:
            return None
        local, known = self._names.local(), self._names.datacenters()
        if known and name.datacenter and name.datacenter not in known:
            return None
        key = name.key(local)
        if not await self._names.used(key):
            return None
        return self._names.addresses(key)


_SOA_OR_ANY = (dns.rdatatype.SOA, dns.rdatatype.ANY)


def _labels(question: bytes) -> tuple[str, ...]:
    """Of a whole question in lower case."""
    found = []
    at = 0
    while length := question[at]:
        found.append(question[at + 1 : at + 1 + length].decode("latin-1"))
        at += length + 1
    return tuple(found)


def _raw(label: str) -> bytes:
    return label.encode("latin-1")


def _error(query: bytes, rcode: int) -> bytes:
    """An answer without anything but the question, where that can be read."""
    question = question_of(query)
    end = HEADER_SIZE if question is None else HEADER_SIZE + len(question)
    flags = bytes([0x80 | (query[2] & 0x79), 0x80 | rcode])
    counts = b"\0\0" if question is None else b"\0\1"
    return query[:2] + flags + counts + bytes(6) + query[HEADER_SIZE:end]
