"""Questions about what is in force: answered from the controller's snapshot and observations, and
from what only Consul can tell, asked at that moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from msgspec.structs import replace

from fleetmesh.edge.consul import ConsulClient
from fleetmesh.edge.consul_http import ConsulError
from fleetmesh.model.explanation import Endpoints, Explanation, Question, Routes
from fleetmesh.model.fault import Fault
from fleetmesh.model.problem import Problem
from fleetmesh.model.report import Ejected
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.plan import listing
from fleetmesh.plan.answers import Instance
from fleetmesh.plan.explain import Knowledge, explain
from fleetmesh.plan.observed import Observed
from fleetmesh.settings import Settings

CONSUL_PATIENCE = 3.0
"""Seconds that an explanation waits for Consul; without an answer it says so."""
NO_SNAPSHOT = Problem("agent", "has no snapshot yet", "see fleetmesh status")


class Explainer:
    """`generation` 0 is of no agent."""

    def __init__(
        self,
        client: ConsulClient,
        settings: Settings,
        snapshot: Snapshot | None,
        observed: Observed,
        generation: int = 0,
        ejected: tuple[Ejected, ...] = (),
        faults: tuple[Fault, ...] = (),
    ) -> None:
        self._client = client
        self._snapshot = snapshot
        self._knowledge = Knowledge(
            now=time.time(),
            generation=generation,
            http=settings.http,
            upstream=settings.upstream,
            observed=observed,
            ejected=ejected,
            faults=faults,
            monotonic=time.monotonic(),
        )

    async def explanation(self, question: Question) -> Explanation | list[Problem]:
        """In two looks: the first says which callees Consul is to be asked about."""
        snapshot = self._snapshot
        if snapshot is None:
            return [NO_SNAPSHOT]
        knowledge = self._knowledge
        first = await asyncio.to_thread(explain, snapshot, question, knowledge)
        if isinstance(first, list) or not first.legs:
            return first
        callees = {leg.decision.destination for leg in first.legs if leg.decision is not None}
        consul = await self._decisions(question.source, callees)
        if not consul:
            return first
        return await asyncio.to_thread(
            explain, snapshot, question, replace(knowledge, consul=consul)
        )

    async def _decisions(self, source: str, callees: Iterable[str]) -> dict[str, bool]:
        async def ask(callee: str) -> tuple[str, bool | None]:
            try:
                return callee, await self._client.intention_allowed(source, callee)
            except ConsulError:
                return callee, None

        try:
            async with asyncio.timeout(CONSUL_PATIENCE):
                answers = await asyncio.gather(*map(ask, callees))
        except TimeoutError:
            return {}
        return {callee: allowed for callee, allowed in answers if allowed is not None}

    async def routes(self, service: str) -> Routes | list[Problem]:
        if self._snapshot is None:
            return [NO_SNAPSHOT]
        return listing.routes(self._snapshot, service)

    async def endpoints(self, service: str) -> Endpoints | list[Problem]:
        if self._snapshot is None:
            return [NO_SNAPSHOT]
        plain = {service: await self._registrations(service)}
        return listing.endpoints(self._snapshot, service, replace(self._knowledge, plain=plain))

    async def _registrations(self, service: str) -> tuple[Instance, ...]:
        """None where Consul does not say."""
        try:
            async with asyncio.timeout(CONSUL_PATIENCE):
                return (await self._client.registrations(service)).value
        except (ConsulError, TimeoutError):
            return ()
