"""Keeps what this host registered with Consul as it should be, and its heartbeats going."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from fleetmesh.edge.consul import ConsulClient, ConsulError
from fleetmesh.plan.reconcile import Deregister, Register, actions
from fleetmesh.plan.registration import Registration
from fleetmesh.process.tasks import TaskSet

log = logging.getLogger(__name__)

INTERVAL = 10.0
"""Seconds between two comparisons, and between two heartbeats: a third of the TTL."""
RETRY = 1.0


class Registrar:
    """Compares and mends every `INTERVAL` seconds and whenever it is told of something new.

    `registered` names the services of which Consul has the sidecar as it should be. `contact` is
    called with each good answer.
    """

    def __init__(self, client: ConsulClient, contact: Callable[[], None]) -> None:
        self.registered: frozenset[str] = frozenset()
        self.error = ""
        self._client = client
        self._contact = contact
        self._wanted: tuple[Registration, ...] | None = None
        self._ready: frozenset[str] = frozenset()
        self._tokens: dict[str, str | None] = {}
        """By id: with which token it was registered. Consul's agent goes on using that one, also
        to take the service out of the catalog."""
        self._wake = asyncio.Event()
        self._tasks = TaskSet()

    def start(self) -> None:
        self._tasks.spawn(self._run(), "registrations")

    async def close(self) -> None:
        await self._tasks.close()

    def want(self, wanted: tuple[Registration, ...], ready: frozenset[str]) -> None:
        if (wanted, ready) != (self._wanted, self._ready):
            self._wanted, self._ready = wanted, ready
            self._wake.set()

    def nudge(self) -> None:
        """Compare now: Consul may have lost something."""
        self._wake.set()

    async def _run(self) -> None:
        while True:
            pause = INTERVAL
            try:
                await self._reconcile()
            except ConsulError as error:
                pause = RETRY if self.error else 0.0
                self._failed(error)
            except Exception:
                # Heartbeats must go on whatever one registration did.
                log.exception("registering failed", extra={"fields": {"event": "defect"}})
            else:
                self.error = ""
            try:
                # Not wait_for: before Python 3.12 it loses a cancellation that meets the event.
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def _reconcile(self) -> None:
        registered = await self._client.agent_services()
        self._contact()
        if self._wanted is None:
            return
        wanted = self._wanted
        checks = await self._client.agent_checks()
        for action in actions(wanted, registered, checks, self._ready):
            match action:
                case Register(registration):
                    await self._register(registration)
                    _log("registered", registration.id)
                case Deregister(service_id):
                    await self._client.deregister(service_id)
                    _log("deregistered", service_id)
        for registration in wanted:
            there = registration.id in registered and registration.service in self._ready
            if there and self._tokens.get(registration.id) != self._client.token:
                await self._register(registration)
                _log("registered", registration.id, " again, with another token")
        beating = [r for r in wanted if r.heartbeat and r.service in self._ready]
        for registration in beating:
            if registration.heartbeat is not None:
                await self._client.beat(registration.heartbeat)
        self.registered = frozenset(r.service for r in beating)

    async def _register(self, registration: Registration) -> None:
        token = self._client.token
        await self._client.register(registration.body)
        self._tokens[registration.id] = token

    def _failed(self, error: ConsulError) -> None:
        self.registered = frozenset()
        if not self.error:
            log.warning(
                "registrations are not kept up: %s",
                error,
                extra={"fields": {"event": "registration_failed", "error": str(error)}},
            )
        self.error = str(error)


def _log(what: str, service_id: str, how: str = "") -> None:
    fields = {"event": what, "id": service_id}
    log.info("%s %s%s", what, service_id, how, extra={"fields": fields})
