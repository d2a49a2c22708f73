"""The faults that operators have injected: given to the workers, and ended.

They are in no file: with the agent they are gone. Workers end each by its own time, whether they
hear from here or not.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable

from fleetmesh.model.fault import Fault, Order, Permission
from fleetmesh.model.problem import Problem
from fleetmesh.model.report import Report
from fleetmesh.model.status import FaultStatus
from fleetmesh.plan import faults as plan
from fleetmesh.plan.totals import total
from fleetmesh.process.front import Front
from fleetmesh.process.tasks import TaskSet

log = logging.getLogger(__name__)


class FaultKeeper:
    """Keeps `front.faults`. `permission` tells what the owner of an upstream allows, by its key;
    `publish` has workers serve what `front` has by then."""

    def __init__(
        self,
        front: Front,
        permission: Callable[[str], Permission],
        publish: Callable[[], Awaitable[object]],
    ) -> None:
        self._front = front
        self._permission = permission
        self._publish = publish
        self._timer: asyncio.TimerHandle | None = None
        self._tasks = TaskSet()

    async def inject(self, order: Order, by: str) -> Fault | list[Problem]:
        """Returns when every worker has it. The upstream must be in use by now."""
        front = self._front
        upstreams = front.snapshot.upstreams if front.snapshot is not None else ()
        upstream = next((one for one in upstreams if one.service == order.service), None)
        callers = plan.judged(
            order, upstream, self._local(), self._permission(order.service), len(front.faults)
        )
        if isinstance(callers, list):
            _log_refusal(order, by, callers)
            return callers
        fault = plan.made(order, callers, secrets.token_hex(4), by, time.monotonic(), time.time())
        _log("fault_injected", fault, f"for {order.seconds:.0f} s by {by}: {fault.why or '-'}", by)
        self._put((*front.faults, fault))
        await self._publish()
        return fault

    async def clear(self, fault_id: str, by: str) -> list[str]:
        """End the one of this id, or all for an empty one; the ids of those that were."""
        ended = [one for one in self._front.faults if fault_id in ("", one.id)]
        if ended:
            self._end(ended, f"cleared by {by}", by)
            await self._publish()
        return [one.id for one in ended]

    def fit(self) -> None:
        """End those that are no longer permitted, or whose callers are gone."""
        found: list[Fault] = []
        local = self._local()
        for fault in self._front.faults:
            fit = plan.kept(fault, local, self._permission(fault.service))
            if fit is None:
                why = f"{fault.service} does not allow it any more, or its callers are gone"
                _log("fault_ended", fault, why)
            else:
                found.append(fit)
        if tuple(found) != self._front.faults:
            self._put(tuple(found))
            self._tasks.spawn(_quietly(self._publish()), "faults")

    def statuses(self, reports: Iterable[Report]) -> tuple[FaultStatus, ...]:
        counts, now = total(reports).faults, time.monotonic()
        return tuple(plan.status(fault, counts, now) for fault in self._front.faults)

    async def close(self) -> None:
        """The workers end theirs as they drain."""
        self._end(self._front.faults, "the agent stops")
        await self._tasks.close()

    def _local(self) -> frozenset[str]:
        return frozenset(service.name for service in self._front.settings.services)

    def _end(self, faults: Iterable[Fault], why: str, by: str = "") -> None:
        ended = set(faults)
        for fault in ended:
            _log("fault_ended", fault, why, by)
        self._put(tuple(one for one in self._front.faults if one not in ended))

    def _put(self, faults: tuple[Fault, ...]) -> None:
        self._front.faults = faults
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if faults:
            wait = max(min(fault.until for fault in faults) - time.monotonic(), 0.0)
            self._timer = asyncio.get_running_loop().call_later(wait + 0.01, self._expire)

    def _expire(self) -> None:
        now = time.monotonic()
        over = [one for one in self._front.faults if one.until <= now]
        self._end(over, "its time is over")
        if over:
            self._tasks.spawn(_quietly(self._publish()), "faults")


async def _quietly(publishing: Awaitable[object]) -> None:
    await publishing


def _log(event: str, fault: Fault, what: str, by: str = "") -> None:
    fields = {
        "event": event,
        "fault": fault.id,
        "destination": fault.service,
        "source": ",".join(fault.callers),
        "kind": fault.kind.value,
        "by": by or fault.by,
        "why": fault.why,
    }
    begun = event == "fault_injected"
    text = "fault %s injected, %s: %s" if begun else "fault %s has ended, %s: %s"
    log.warning(text, fault.id, what, plan.does(fault), extra={"fields": fields})


def _log_refusal(order: Order, by: str, problems: list[Problem]) -> None:
    log.warning(
        "fault for %s by %s refused: %s",
        order.service,
        by,
        "; ".join(map(str, problems)),
        extra={"fields": {"event": "fault_refused", "destination": order.service, "by": by}},
    )
