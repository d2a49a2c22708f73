"""What a snapshot is compiled of, asked of Consul once and not watched: `--consul`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from msgspec.structs import replace

from fleetmesh.edge import consul_link
from fleetmesh.edge.consul import PROBE_DESTINATION, PROBE_SOURCE, ConsulClient
from fleetmesh.edge.consul_http import ConsulError
from fleetmesh.model.problem import Problem
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.plan.answers import Roots
from fleetmesh.plan.chain import InstanceQuery, queries
from fleetmesh.plan.compile import compile_snapshot
from fleetmesh.plan.endpoints import zone_of
from fleetmesh.plan.observed import Observed, callable_services
from fleetmesh.process.explaining import Explainer
from fleetmesh.settings import Settings

T = TypeVar("T")
AT_ONCE = 8
"""Queries; Consul grants all programs of a host together 200 connections."""


def client_of(settings: Settings) -> ConsulClient:
    """As the agent's own. Raises UnfitError."""
    consul = settings.consul
    token = consul_link.read_token(consul) or consul_link.source_token()
    return ConsulClient(consul.address, token, consul_link.context(consul))


async def explainer(
    client: ConsulClient, settings: Settings, services: Iterable[str], known: Snapshot | None
) -> Explainer | list[Problem]:
    """Of what Consul says at this moment; `services` are the upstreams of interest, all of the
    catalog if there are none. The certificates are those of `known`, what the agent has in force.
    Raises ConsulError."""
    observed = await observe(client, settings, services, known)
    compiled = compile_snapshot(settings, observed, known)
    if isinstance(compiled, list):
        return compiled
    return Explainer(client, settings, compiled.snapshot, observed)


async def observe(
    client: ConsulClient, settings: Settings, services: Iterable[str], known: Snapshot | None
) -> Observed:
    """Raises ConsulError."""
    node, datacenter, zone = await _node(client)
    roots, intentions, catalog = await asyncio.gather(
        client.roots(), client.intentions(), client.catalog()
    )
    service_defaults, proxy_defaults = await asyncio.gather(
        client.service_defaults(), client.proxy_defaults()
    )
    allow = intentions.default_allow
    if allow is None:
        allow = await client.intention_allowed(PROBE_SOURCE, PROBE_DESTINATION)
    observed = Observed(
        datacenter=datacenter,
        node=node,
        zone=zone,
        roots=roots.value,
        intentions=intentions.value,
        default_allow=allow,
        catalog=frozenset(catalog.value),
        service_defaults=service_defaults.value,
        proxy_defaults=proxy_defaults.value,
    )
    local = [service.name for service in settings.services]
    missing = [name for name in local if name not in _certified(known, roots.value)]
    found = [(await client.leaf(name)).value for name in missing]
    observed = replace(observed, leaves={leaf.service: leaf for leaf in found})
    wanted = set(callable_services(catalog.value))
    wanted &= set(services) or wanted
    return await _upstreams(client, observed, wanted, wanted.union(local))


def _certified(known: Snapshot | None, roots: Roots) -> set[str]:
    """Whose certificates need not be asked for."""
    if known is None or known.trust_domain != roots.trust_domain.lower():
        return set()
    return {service.name for service in known.services if service.leaf is not None}


async def _node(client: ConsulClient) -> tuple[str, str, str]:
    """Its name, datacenter and zone; the chains tell the second to a token that may not ask."""
    try:
        agent = await client.agent_self()
    except ConsulError as error:
        if error.status != 403:
            raise
        return socket.gethostname(), "", ""
    return agent.config.node, agent.config.datacenter, zone_of(agent.meta)


async def _upstreams(
    client: ConsulClient, observed: Observed, upstreams: Iterable[str], chained: Iterable[str]
) -> Observed:
    """With the chains, and the instances that those of `upstreams` lead to."""
    turn = asyncio.Semaphore(AT_ONCE)
    upstreams = frozenset(upstreams)

    async def ask(name: str) -> None:
        nonlocal observed
        async with turn:
            chain = (await client.chain(name)).value
            observed = replace(
                observed,
                chains={**observed.chains, name: chain},
                datacenter=observed.datacenter or chain.datacenter,
            )
            if name not in upstreams:
                return
            for query in {InstanceQuery(name), *queries(chain, observed.datacenter)}:
                answer = await client.instances(query)
                observed = replace(observed, instances={**observed.instances, query: answer.value})
                if answer.refusal:
                    refusals = {**observed.refusals, query: answer.refusal}
                    observed = replace(observed, refusals=refusals)

    await asyncio.gather(*map(ask, sorted(set(chained))))
    return observed


def asked(
    settings: Settings,
    service: str,
    known: Snapshot | None,
    question: Callable[[Explainer], Awaitable[T | list[Problem]]],
) -> T | list[Problem]:
    """The answer to `question` from Consul; an empty `service` is any of the catalog's. Blocking.
    Raises ConsulError."""

    async def ask() -> T | list[Problem]:
        client = client_of(settings)
        try:
            found = await explainer(client, settings, [service] if service else [], known)
            return found if isinstance(found, list) else await question(found)
        finally:
            await client.close()

    return asyncio.run(ask())
