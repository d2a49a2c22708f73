"""Dials the sidecar port of each service and compares what is served with what was fetched."""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec

from fleetmesh.edge.handshake import HandshakeError, Shown, shown
from fleetmesh.model.snapshot import LocalService
from fleetmesh.model.status import HandshakeStatus
from fleetmesh.plan.renewal import WRONG
from fleetmesh.process.front import Front
from fleetmesh.process.tasks import TaskSet

log = logging.getLogger(__name__)

INTERVAL = 10.0
"""Seconds between two looks; as often as Consul's own check dials the port."""


class Look(msgspec.Struct, frozen=True):
    """`at` and `wrong_since` are of the loop's clock; `shown` is None where no handshake came
    about, for which `error` is the reason."""

    at: float
    shown: Shown | None
    error: str = ""
    wrong_since: float | None = None


class Verifier:
    """All workers accept from one socket: each look dials as often as there are workers, and what
    is wrong with one of them is wrong."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._looks: dict[str, Look] = {}
        self._tasks = TaskSet()

    def start(self) -> None:
        self._tasks.spawn(self._look_for_ever(), "handshakes")

    async def close(self) -> None:
        await self._tasks.close()

    def handshakes(self) -> dict[str, HandshakeStatus]:
        """By service; none of one that was never looked at."""
        now, clock = time.time(), asyncio.get_running_loop().time()
        return {name: _told(look, now, clock) for name, look in self._looks.items()}

    async def _look_for_ever(self) -> None:
        while True:
            snapshot = self._front.snapshot
            services = snapshot.services if snapshot is not None else ()
            names = {service.name for service in services if service.leaf is not None}
            self._looks = {name: look for name, look in self._looks.items() if name in names}
            for service in services:
                await self._look(service, snapshot.roots if snapshot is not None else ())
            await asyncio.sleep(INTERVAL if snapshot is not None else 1.0)

    async def _look(self, service: LocalService, roots: tuple[str, ...]) -> None:
        port = self._front.ports.sidecar.get(service.name)
        if service.leaf is None or port is None:
            return
        certificate: Shown | None = None
        error = ""
        try:
            for _ in range(max(len(self._front.supervisor.workers), 1)):
                certificate = await shown(port, roots, service.leaf)
                if not certificate.current:
                    break
        except HandshakeError as failure:
            certificate, error = None, str(failure)
        snapshot = self._front.snapshot
        if snapshot is None or service not in snapshot.services:
            return  # renewed meanwhile: the next look tells
        self._note(service.name, certificate, error)

    def _note(self, name: str, certificate: Shown | None, error: str) -> None:
        now = asyncio.get_running_loop().time()
        before = self._looks.get(name)
        since = before.wrong_since if before is not None else None
        fields = {"service": name}
        if certificate is not None and certificate.current:
            if since is not None and now - since >= WRONG:
                log.info(
                    "handshakes with %s show its certificate again",
                    name,
                    extra={"fields": {"event": "certificate_served", **fields}},
                )
            since = None
        else:
            since = now if since is None else since
            told = error or f"certificate {certificate.serial if certificate else ''}"
            if before is not None and before.at - since < WRONG <= now - since:
                log.error(
                    "handshakes with %s do not show its certificate: %s",
                    name,
                    told,
                    extra={"fields": {"event": "certificate_not_served", **fields}},
                )
        self._looks[name] = Look(now, certificate, error, since)


def _told(look: Look, now: float, clock: float) -> HandshakeStatus:
    certificate = look.shown
    return HandshakeStatus(
        age=clock - look.at,
        serial=certificate.serial if certificate else "",
        seconds_left=certificate.not_after - now if certificate else 0.0,
        life=certificate.not_after - certificate.not_before if certificate else 0.0,
        wrong_for=0.0 if look.wrong_since is None else clock - look.wrong_since,
        error=look.error,
    )
