"""Keeps what this host registered with Consul as it should be, and its heartbeats going."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from fleetmesh.edge.consul import ConsulClient
from fleetmesh.edge.consul_http import ConsulError
from fleetmesh.model.problem import Problem
from fleetmesh.plan.adoption import Adopted, adopt
from fleetmesh.plan.answers import AgentChecks
from fleetmesh.plan.exposed import Rerouted, rerouted
from fleetmesh.plan.reconcile import Action, Register, actions, stands_in_the_way
from fleetmesh.plan.registration import Registration, Wanted, desired
from fleetmesh.process.tasks import TaskSet

log = logging.getLogger(__name__)

INTERVAL = 2.0
"""Seconds between two comparisons, which cost two questions to the agent on this host: so soon a
registration that was lost is back, and a change by another tool is followed."""
HEARTBEAT = 10.0
"""Seconds between two heartbeats: a third of the TTL."""
RETRY = 1.0
REMEDY = "Give the check another check_id, or none"
UNKNOWN_MODE = 'unknown field "Mode"'
"""In the refusal of Consul before 1.10."""


class Registrar:
    """Compares and mends every `INTERVAL` seconds and whenever it is told of something new.

    `registered` names the services of which Consul has the sidecar as it should be, `adopted` the
    ids that other tools gave to services, by name. `problems` are registrations that Consul
    refuses, and what other tools' stand in the way of. `rerouted` are the checks that Consul's
    agent makes elsewhere, by service, None until it has told. `contact` is called with each good
    answer, `changed` when other checks are rerouted.
    """

    def __init__(
        self, client: ConsulClient, contact: Callable[[], None], changed: Callable[[], None]
    ) -> None:
        self.rerouted: dict[str, Rerouted] | None = None
        self.registered: frozenset[str] = frozenset()
        self.adopted: dict[str, str] = {}
        self.problems: tuple[Problem, ...] = ()
        self.error = ""
        self._client = client
        self._contact = contact
        self._changed = changed
        self._wanted: Wanted | None = None
        self._modes = True
        self._beat_at = 0.0
        self._tokens: dict[str, str | None] = {}
        """By id: with which token it was registered. Consul's agent goes on using that one, also
        to take the service out of the catalog."""
        self._wake = asyncio.Event()
        self._tasks = TaskSet()

    def start(self) -> None:
        self._tasks.spawn(self._run(), "registrations")

    async def close(self) -> None:
        await self._tasks.close()

    def want(self, wanted: Wanted) -> None:
        if wanted != self._wanted:
            self._wanted = wanted
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
        wanted = self._wanted
        if wanted is None:
            return
        checks = await self._client.agent_checks()
        adopted = adopt(wanted.settings, registered)
        self._reroute(wanted, adopted, checks)
        registrations = desired(wanted, adopted, modes=self._modes)
        refused: dict[str, Problem] = {}
        todo = list(actions(registrations, registered, checks, wanted.ready))
        todo += [
            Register(one)
            for one in registrations
            if one.id in registered
            and one.service in wanted.ready
            and self._tokens.get(one.id) != self._client.token
            and Register(one) not in todo
        ]
        for action in todo:
            reason = stands_in_the_way(action, registered, checks)
            problem = await self._act(action, reason)
            if problem is None:
                continue
            if self._modes and UNKNOWN_MODE in problem.rule:
                self._modes = False
                await self._reconcile()
                return
            refused[problem.path] = problem
        for registration in registrations:
            there = registration.id in registered and registration.service in wanted.ready
            if there and self._tokens.get(registration.id) != self._client.token:
                problem = await self._act(Register(registration), "")
                if problem is not None:
                    refused[problem.path] = problem
        self._tell(adopted, tuple(refused.values()))
        ready = [r for r in registrations if r.heartbeat and r.service in wanted.ready]
        await self._beat(ready)
        self.registered = frozenset(r.service for r in ready if _path(r.id) not in refused)

    def _reroute(self, wanted: Wanted, adopted: Adopted, checks: AgentChecks) -> None:
        found = {}
        for service in wanted.settings.services:
            theirs = adopted.services.get(service.name)
            service_id = theirs.id if theirs is not None else service.service_id
            found[service.name] = rerouted(service, service_id, checks)
        before, self.rerouted = self.rerouted, found
        if before != found:
            self._changed()

    async def _act(self, action: Action, reason: str) -> Problem | None:
        """What Consul refuses, or what there is a reason against, stands in the way of nothing
        else."""
        what = "registered" if isinstance(action, Register) else "deregistered"
        service_id = action.registration.id if isinstance(action, Register) else action.id
        if reason:
            return Problem(_path(service_id), f"is not {what}: {reason}", REMEDY)
        try:
            if isinstance(action, Register):
                token = self._client.token
                await self._client.register(action.registration.body)
                self._tokens[service_id] = token
            else:
                await self._client.deregister(service_id)
        except ConsulError as error:
            if not error.status:
                raise
            return Problem(_path(service_id), f"is not {what}: {error}")
        log.info("%s %s", what, service_id, extra={"fields": {"event": what, "id": service_id}})
        return None

    async def _beat(self, sidecars: list[Registration]) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._beat_at:
            return
        for registration in sidecars:
            if registration.heartbeat is None:
                continue
            try:
                await self._client.beat(registration.heartbeat)
            except ConsulError as error:
                if not error.status:
                    raise  # else the check is gone, which the next comparison mends
        self._beat_at = now + HEARTBEAT

    def _tell(self, adopted: Adopted, refused: tuple[Problem, ...]) -> None:
        """Each once, for as long as it lasts."""
        ids = {name: theirs.id for name, theirs in adopted.services.items()}
        for name in ids.keys() - self.adopted.keys():
            fields = {"event": "adopted", "service": name, "id": ids[name]}
            log.info("adopted %s, which another tool registered", name, extra={"fields": fields})
        problems = adopted.problems + refused
        for problem in problems:
            if problem not in self.problems:
                fields = {"event": "registration_failed", "error": str(problem)}
                log.warning("%s", problem, extra={"fields": fields})
        self.adopted, self.problems = ids, problems

    def _failed(self, error: ConsulError) -> None:
        self.registered = frozenset()
        self._modes = True  # what answers next may be another version
        self._beat_at = 0.0
        if not self.error:
            log.warning(
                "registrations are not kept up: %s",
                error,
                extra={"fields": {"event": "registration_failed", "error": str(error)}},
            )
        self.error = str(error)


def _path(service_id: str) -> str:
    return f"consul: registration of {service_id}"
