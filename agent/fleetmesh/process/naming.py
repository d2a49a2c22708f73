"""Names of the mesh: the DNS server, and the virtual addresses that it tells."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from msgspec.structs import replace

from fleetmesh.edge.consul import ConsulClient
from fleetmesh.edge.consul_http import ConsulError
from fleetmesh.edge.dns import DnsServer, Names
from fleetmesh.edge.resolvers import Server
from fleetmesh.model.problem import Problem
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.plan.chain import InstanceQuery
from fleetmesh.plan.observed import Observed, absent, callable_services, called
from fleetmesh.plan.virtual import KV_PREFIX, agree, assigned, both, choose, first_of
from fleetmesh.process import stand_in
from fleetmesh.process.front import Front
from fleetmesh.process.tasks import TaskSet

log = logging.getLogger(__name__)

FIRST_USE = 1.0
"""Seconds that a query waits for the addresses of a service."""
LOOK_AGAIN = 0.05
RETRY = 10.0
"""Seconds until the KV is asked again after it failed, up to as many more by chance."""

DATACENTERS = 60.0
"""Seconds until their names are asked for again, up to as many more by chance."""
ROUNDS = 20
"""Of reading and claiming, while other hosts claim too."""

Want = Callable[[str], Awaitable[bool]]


class Naming:
    """`port` is where DNS is answered, None when it is not. `counts` are queries by kind and
    result. `changed` is called when addresses have been agreed upon, `want` with each service that
    is looked up: whether it is served, at most a second later."""

    def __init__(
        self,
        client: ConsulClient,
        front: Front,
        observed: Callable[[], Observed],
        changed: Callable[[], None],
        want: Want,
    ) -> None:
        self.port: int | None = None
        self._client = client
        self._front = front
        self._observed = observed
        self._changed = changed
        self._want = want
        self._settings = front.settings.dns
        self._kv_error = ""
        self._socket_error = ""
        self._holders: dict[str, str] = {}
        self._wanting: frozenset[str] = frozenset()
        self._nudge = asyncio.Event()
        self._elsewhere: frozenset[str] = frozenset()
        self._told: dict[str, str] = {}
        self._known: tuple[Snapshot | None, dict[str, tuple[str, ...]]] = (None, {})
        self._tasks = TaskSet()
        self._sockets: list[socket.socket] = []
        host, _, port = self._settings.consul.rpartition(":")
        self._consul = Server(host.strip("[]"), int(port))
        self._server = DnsServer(
            Names(self._used, self._addresses, self._local, self._datacenters),
            self._settings.ttl,
            self._consul,
        )

    async def start(self) -> None:
        if not self._settings.enabled:
            return
        self._tasks.spawn(self._keep_agreeing(), "virtual addresses")
        self._tasks.spawn(self._keep_datacenters(), "datacenters")
        try:
            self._sockets = self._front.sockets.dns(self._settings.port)
        except OSError as error:
            self._socket_error = str(error.strerror)
            log.error("DNS: %s", error, extra={"fields": {"event": "dns_failed"}})
            return
        await self._server.start(self._sockets)
        self.port = self._settings.port

    async def hand_over(self, sign: int) -> None:
        """Let somebody answer until the next agent does, who closes the other end of `sign`; what
        is asked waits for that one where nobody can."""
        if self.port is None:
            return
        known = stand_in.Known(
            dict(self._served()),
            self._local(),
            tuple(self._datacenters()),
            self._settings.ttl,
            self._consul,
        )
        if not await stand_in.begin(known, self._sockets, sign):
            log.warning("DNS waits for the next agent", extra={"fields": {"event": "dns_waits"}})

    async def close(self) -> None:
        await self._tasks.close()
        await self._server.close()

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        return self._server.counts

    @property
    def problems(self) -> list[Problem]:
        found = []
        if self._socket_error:
            found.append(
                Problem(
                    "agent.yaml: dns.port",
                    f"port {self._settings.port}: {self._socket_error}; DNS is not captured",
                    "choose another port or end whoever listens there, then restart the agent",
                )
            )
        if self._kv_error and self._wanting:
            found.append(
                Problem(
                    f"consul: /v1/kv/{KV_PREFIX}",
                    f"virtual addresses of {len(self._wanting)} services are not agreed upon: "
                    f"{self._kv_error}",
                    f'give the token: key_prefix "{KV_PREFIX}" {{ policy = "write" }}',
                )
            )
        return found

    def named(self, observed: Observed) -> Observed:
        """`observed` with the virtual addresses of all upstreams that have instances."""
        if not self._settings.enabled:
            return observed
        services = {
            name
            for name in callable_services(observed.catalog or ())
            if observed.instances.get(InstanceQuery(name))
        }.union(called(observed))
        given = assigned(observed)
        self._claim(frozenset(services - given.keys()))
        before = {name: addresses[0] for name, addresses in self._served().items() if addresses}
        agreeing = not self._kv_error
        chosen = choose(services, given, self._holders, before, agreeing)
        return replace(observed, virtual={name: both(ip) for name, ip in sorted(chosen.items())})

    def _claim(self, services: frozenset[str]) -> None:
        """Those that are to have an address by the KV and have none."""
        wanting = services - agree(services, self._holders).held.keys()
        if wanting - self._wanting:
            self._nudge.set()
        self._wanting = wanting

    async def _keep_datacenters(self) -> None:
        """Consul has no blocking query for them."""
        while True:
            with contextlib.suppress(ConsulError):
                self._elsewhere = await self._client.datacenters()
            await asyncio.sleep(DATACENTERS * (1 + random.random()))  # noqa: S311

    async def _keep_agreeing(self) -> None:
        while True:
            await self._nudge.wait()
            self._nudge.clear()
            try:
                await self._agree(self._wanting)
            except ConsulError as error:
                if not self._kv_error:
                    log.warning(
                        "virtual addresses are not agreed upon: %s",
                        error,
                        extra={"fields": {"event": "virtual_unagreed", "error": str(error)}},
                    )
                self._kv_error = str(error)
                self._changed()
                await asyncio.sleep(RETRY * (1 + random.random()))  # noqa: S311
                self._nudge.set()
                continue
            self._kv_error = ""
            self._changed()

    async def _agree(self, services: frozenset[str]) -> None:
        """Until each of `services` holds an address. Raises ConsulError."""
        for _ in range(ROUNDS):
            found = await self._client.keys(KV_PREFIX)
            self._holders = {
                key.removeprefix(KV_PREFIX): value.decode("utf-8", "replace")
                for key, value in found.items()
            }
            claims = agree(services, self._holders).claims
            if not claims:
                return
            for address, service in claims:
                if await self._client.create_key(KV_PREFIX + address, service.encode()):
                    log.info(
                        "%s has virtual address %s",
                        service,
                        address,
                        extra={"fields": {"event": "virtual_claimed", "service": service}},
                    )
        raise ConsulError("others keep claiming the same addresses")

    def _served(self) -> Mapping[str, tuple[str, ...]]:
        """Virtual addresses in the snapshot in force, by service."""
        snapshot = self._front.snapshot
        if snapshot is not self._known[0]:
            upstreams = snapshot.upstreams if snapshot is not None else ()
            self._known = (snapshot, {u.service: u.virtual_addresses for u in upstreams})
            self._told |= {a: u.service for u in upstreams for a in u.virtual_addresses}
        return self._known[1]

    async def _used(self, service: str) -> bool:
        """A first use: the service is watched from now on, and its addresses may be on their way.
        What Consul has not denied may exist."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + FIRST_USE
        if not await self._want(service) and not self._served().get(service):
            return self._may_exist(service)
        while not self._served().get(service):
            if loop.time() >= deadline:
                break
            await asyncio.sleep(LOOK_AGAIN)
        return True

    def _may_exist(self, service: str) -> bool:
        observed = self._observed()
        return observed.catalog is None or not absent(service, observed)

    def owner(self, address: str) -> str | None:
        """The service whose virtual address it is or was: applications may remember it for longer
        than its service was in use."""
        if not self._settings.enabled:
            return None
        if (told := self._told.get(address)) is not None:
            return told
        held = first_of(address)
        return None if held is None else self._holders.get(held)

    def _addresses(self, service: str) -> tuple[str, ...]:
        return self._served().get(service, ())

    def _local(self) -> str:
        snapshot = self._front.snapshot
        return self._observed().datacenter or (snapshot.datacenter if snapshot else "")

    def _datacenters(self) -> frozenset[str]:
        return self._elsewhere | {self._local()} - {""}
