"""The services that an operator holds back: kept on disk, and drains brought to their end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection

from fleetmesh.model.status import HoldStatus
from fleetmesh.plan import holds as plan
from fleetmesh.plan.holds import Held, Hold, HoldKind, Phase
from fleetmesh.process.memory import load_holds, save_holds
from fleetmesh.process.supervisor import Supervisor
from fleetmesh.process.tasks import TaskSet

log = logging.getLogger(__name__)

INTERVAL = 0.5
"""Seconds between two looks at a drain."""


class Holder:
    """`changed` is called when a service is held otherwise than before; `told` names those
    that Consul has as they should be."""

    def __init__(
        self,
        state_dir: str,
        supervisor: Supervisor,
        changed: Callable[[], None],
        told: Callable[[], Collection[str]],
    ) -> None:
        self._state_dir = state_dir
        self._supervisor = supervisor
        self._changed = changed
        self._told_to_consul = told
        self._holds: tuple[Hold, ...] = load_holds(state_dir)
        self._told: dict[str, Held] = self.held()
        self._under_way: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._tasks = TaskSet()

    def start(self) -> None:
        self._tasks.spawn(self._run(), "held services")

    async def close(self) -> None:
        await self._tasks.close()

    def held(self) -> dict[str, Held]:
        return plan.held(self._holds, time.time())

    def hold(self, hold: Hold) -> None:
        """Raises OSError, and then nothing is held."""
        self._take(plan.with_hold(self._holds, hold))
        fields = {"event": "held", "service": hold.service, "kind": hold.kind.value}
        log.info("%s of %s: %s", hold.kind, hold.service, hold.why, extra={"fields": fields})

    def release(self, service: str, kind: HoldKind) -> bool:
        """Whether there was such a hold. Raises OSError, and then it is not released."""
        left = plan.without(self._holds, service, kind)
        if left == self._holds:
            return False
        self._take(left)
        fields = {"event": "released", "service": service, "kind": kind.value}
        log.info("end of the %s of %s", kind, service, extra={"fields": fields})
        return True

    def retain(self, services: Collection[str]) -> None:
        """Forget the holds of every other service: it is no longer declared."""
        kept = tuple(hold for hold in self._holds if hold.service in services)
        if kept != self._holds:
            try:
                self._take(kept)
            except OSError as error:
                log.error("held services are not written: %s", error)

    def status(self, service: str) -> HoldStatus | None:
        now = time.time()
        held = plan.held(self._holds, now).get(service)
        if held is None:
            return None
        drains = (h for h in self._holds if h.service == service and h.kind is HoldKind.DRAIN)
        drain = next(drains, None)
        return HoldStatus(
            phase=held.phase,
            why=held.why,
            kinds=tuple(h.kind for h in self._holds if h.service == service),
            under_way=self._under_way.get(service, 0),
            seconds_left=0.0 if drain is None else max(drain.since + drain.within - now, 0.0),
            left=None if drain is None else drain.left,
        )

    def _take(self, holds: tuple[Hold, ...]) -> None:
        save_holds(self._state_dir, holds)
        self._holds = holds
        self._tell()
        self._wake.set()

    def _tell(self) -> None:
        held = self.held()
        if held != self._told:
            self._told = held
            self._changed()

    async def _run(self) -> None:
        while True:
            drains = any(held.phase is not Phase.MAINTENANCE for held in self.held().values())
            try:
                async with asyncio.timeout(INTERVAL if drains else None):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self._look()
            except Exception:
                log.exception("draining failed", extra={"fields": {"event": "defect"}})

    async def _look(self) -> None:
        """Has a drain come to its end?"""
        under_way: dict[str, int] = {}
        for report in await self._supervisor.collect():
            for one in report.under_way:
                under_way[one.service] = under_way.get(one.service, 0) + one.count
        self._under_way = under_way
        after = plan.progressed(self._holds, under_way, time.time(), self._told_to_consul())
        over = set(after) - set(self._holds)
        for hold in over:
            fields = {"event": "drained", "service": hold.service, "left": str(hold.left)}
            log.info(
                "%s is drained, %d exchanges that were still under way are ended",
                hold.service,
                hold.left,
                extra={"fields": fields},
            )
        if after == self._holds:
            self._tell()
            return
        try:
            self._take(after)
        except OSError as error:
            # In force all the same: after a restart the drain is found out of time again.
            log.error("held services are not written: %s", error)
            self._holds = after
            self._tell()
        for hold in over:
            await self._supervisor.part(hold.service)
