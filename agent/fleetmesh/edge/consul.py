"""The endpoints of the local Consul agent's HTTP API, typed.

Those of py-consul are not used, because they know neither `index` on certificates nor `cached`, nor
the whole body of a registration (docs/adr/0004-consul-client.md).
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, TypeVar

import msgspec

from fleetmesh.edge.consul_http import CACHED, Answer, ConsulError, ConsulHttp, Params
from fleetmesh.plan.acl import NODE_READ
from fleetmesh.plan.answers import (
    AgentChecks,
    AgentSelf,
    AgentServices,
    CatalogServices,
    Chain,
    ChainAnswer,
    Instance,
    IntentionEntry,
    KeyValue,
    LeafAnswer,
    NodeServices,
    Roots,
    ServiceSummary,
)
from fleetmesh.plan.chain import InstanceQuery
from fleetmesh.plan.defaults import ProxyDefaults, ServiceDefaults
from fleetmesh.plan.subsets import ServiceResolver

T = TypeVar("T")

REFUSALS = ("boolean expression", "No path to datacenter")
"""In the answer to a query whose filter is wrong, or whose datacenter is not joined."""
REFUSED_PAUSE = 30.0
"""Seconds until what may not be read, or is not known to the server, is asked for again."""
PROBE_SOURCE = "fleetmesh-probe-source"
PROBE_DESTINATION = "fleetmesh-probe-destination"


class ConsulClient:
    """One session for everything that one agent asks. Raises ConsulError from every method.

    Reads take the `index` of the answer before: then they block until something may have
    changed, and return after `consul_http.WAIT` seconds in any case.
    """

    def __init__(
        self, address: str, token: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.address = address
        self.token = token
        self.tls = tls
        self._http = ConsulHttp(address, token, tls)

    def use_token(self, token: str | None) -> None:
        """From the next request on; queries that are held go on with the one before."""
        self.token = token
        self._http.use_token(token)

    async def close(self) -> None:
        await self._http.close()

    async def agent_self(self) -> AgentSelf:
        return (await self._http.get("/v1/agent/self", AgentSelf)).value

    async def datacenter(self) -> str:
        """As the catalog says of its own servers; empty where the token sees none of them."""
        answer = await self._http.rows("/v1/catalog/service/consul", tuple[dict[str, Any], ...], 0)
        return next((str(server.get("Datacenter", "")) for server in answer.value), "")

    async def check_token(self) -> None:
        """Raises ConsulError when the token is no longer accepted, or sees no node at all: lists
        of instances are empty then. Well without a token, and on servers without ACLs (401)."""
        if not self.token:
            return
        try:
            await self._http.get("/v1/acl/token/self", dict[str, Any])
        except ConsulError as error:
            if error.status != 401:
                raise
            return
        path = "/v1/catalog/nodes"
        if not (await self._http.rows(path, tuple[Any, ...], 0)).value:
            raise ConsulError(f"{path}: {NODE_READ}", 403)

    async def agent_services(self) -> AgentServices:
        return (await self._http.get("/v1/agent/services", AgentServices)).value

    async def agent_checks(self) -> AgentChecks:
        return (await self._http.get("/v1/agent/checks", AgentChecks)).value

    async def register(self, body: dict[str, Any]) -> None:
        """Checks that `body` does not name are removed from the service."""
        _ = await self._http.put(
            "/v1/agent/service/register",
            [("replace-existing-checks", "true")],
            msgspec.json.encode(body),
        )

    async def deregister(self, service_id: str) -> None:
        """Also well when there is no such service."""
        try:
            _ = await self._http.put(f"/v1/agent/service/deregister/{service_id}")
        except ConsulError as error:
            # Before it is asked whether we may, 1.8 looks for the service: 500.
            if error.status != 404 and "Unknown service" not in str(error):
                raise

    async def beat(self, check_id: str) -> None:
        """Pass a TTL check; a ConsulError with status 404 or 500 says that there is none."""
        _ = await self._http.put(f"/v1/agent/check/pass/{check_id}")

    async def roots(self, index: int = 0) -> Answer[Roots]:
        return await self._http.get("/v1/agent/connect/ca/roots", Roots, index=index)

    async def leaf(self, service: str, index: int = 0) -> Answer[LeafAnswer]:
        return await self._http.get(f"/v1/agent/connect/ca/leaf/{service}", LeafAnswer, index=index)

    async def intentions(self, index: int = 0) -> Answer[tuple[IntentionEntry, ...]]:
        return await self._http.rows("/v1/connect/intentions", tuple[IntentionEntry, ...], index)

    async def intention_allowed(self, source: str, destination: str) -> bool:
        """Consul's own decision on a pair of services."""
        answer = await self._http.get(
            "/v1/connect/intentions/check",
            dict[str, bool],
            [("source", source), ("destination", destination)],
        )
        return answer.value.get("Allowed", False)

    async def catalog(self, index: int = 0) -> Answer[CatalogServices]:
        return await self._http.get("/v1/catalog/services", CatalogServices, index=index)

    async def chain(self, service: str, index: int = 0, datacenter: str = "") -> Answer[Chain]:
        """As seen from `datacenter`, the agent's own if that is empty."""
        params: Params = [CACHED]
        if datacenter:
            params.append(("compile-dc", datacenter))
        answer = await self._http.get(f"/v1/discovery-chain/{service}", ChainAnswer, params, index)
        return Answer(answer.value.chain, answer.index, age=answer.age)

    async def instances(self, query: InstanceQuery, index: int = 0) -> Answer[tuple[Instance, ...]]:
        params: Params = [CACHED]
        if query.datacenter:
            params.append(("dc", query.datacenter))
        if query.filter:
            params.append(("filter", query.filter))
        path = f"/v1/health/connect/{query.service}"
        if query.gateway or query.own:
            path = f"/v1/health/service/{query.service}"
        if query.gateway:
            params.append(("filter", 'Service.Kind == "mesh-gateway"'))
        try:
            return await self._http.rows(path, tuple[Instance, ...], index, params)
        except ConsulError as error:
            if not any(refusal in str(error) for refusal in REFUSALS):
                raise
            return await _refused(index, str(error))

    async def registrations(self, service: str) -> Answer[tuple[Instance, ...]]:
        """All instances of a service, with sidecars or without."""
        path = f"/v1/health/service/{service}"
        return await self._http.rows(path, tuple[Instance, ...], 0, [CACHED])

    async def service_defaults(self, index: int = 0) -> Answer[tuple[ServiceDefaults, ...]]:
        return await self._entries("service-defaults", tuple[ServiceDefaults, ...], index)

    async def resolvers(self, index: int = 0) -> Answer[tuple[ServiceResolver, ...]]:
        return await self._entries("service-resolver", tuple[ServiceResolver, ...], index)

    async def datacenters(self) -> frozenset[str]:
        """All that the servers know of."""
        return frozenset((await self._http.get("/v1/catalog/datacenters", _Names)).value)

    async def proxy_defaults(self, index: int = 0) -> Answer[tuple[ProxyDefaults, ...]]:
        return await self._entries("proxy-defaults", tuple[ProxyDefaults, ...], index)

    async def _entries(
        self, kind: str, type_: type[tuple[T, ...]], index: int
    ) -> Answer[tuple[T, ...]]:
        """All config entries of a kind; none where the server refuses them (403, 404)."""
        try:
            return await self._http.rows(f"/v1/config/{kind}", type_, index)
        except ConsulError as error:
            if error.status not in {403, 404}:
                raise
            return await _refused(index, str(error))

    async def owners(self, address: str, port: int) -> tuple[Instance, ...]:
        """The sidecars in the catalog that are registered at `address` for an application on
        `port`, found by one question and, if that finds any, one for each of their nodes."""
        found = await self._http.rows("/v1/internal/ui/services", _Rows, 0, _at(address, port))
        nodes = {node for row in found.value for node in row.nodes or ()}
        instances: list[Instance] = []
        for name in sorted(nodes):
            answer: Answer[NodeServices | None] = await self._http.get(
                f"/v1/catalog/node/{name}", _Registered
            )
            if answer.value is not None:
                instances += answer.value.instances()
        return tuple(instances)

    async def keys(self, prefix: str) -> dict[str, bytes]:
        """Everything in the KV whose key begins with `prefix`, a default-consistent read."""
        try:
            answer = await self._http.get(
                f"/v1/kv/{prefix}", tuple[KeyValue, ...], [("recurse", "")]
            )
        except ConsulError as error:
            if error.status == 404:
                return {}
            raise
        return {pair.key: pair.value or b"" for pair in answer.value}

    async def create_key(self, key: str, value: bytes) -> bool:
        """False when the key was there already."""
        response = await self._http.put(f"/v1/kv/{key}", [("cas", "0")], value)
        return bool(response.body.strip() == "true")


def _at(address: str, port: int) -> Params:
    """The sidecars at an address: their own, or their node's where they have none."""
    tagged = " or ".join(
        f'Service.TaggedAddresses.{tag}.Address == "{address}"' for tag in ("lan_ipv4", "lan_ipv6")
    )
    own = f'Service.Address == "{address}"'
    nodes = f'(Service.Address == "" and Node.Address == "{address}")'
    return [
        ("filter", f"Service.Proxy.LocalServicePort == {port} and ({own} or {nodes} or {tagged})")
    ]


_Names = tuple[str, ...]
_Rows = tuple[ServiceSummary, ...]
_Registered: Any = NodeServices | None


async def _refused(index: int, reason: str) -> Answer[tuple[T, ...]]:
    """Told at once the first time; then Consul is not asked again before a pause is over."""
    if index:
        await asyncio.sleep(REFUSED_PAUSE)
    return Answer((), 1, refusal=reason)
