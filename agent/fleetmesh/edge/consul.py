"""The local Consul agent's HTTP API, typed.

py-consul's aiohttp transport carries the requests; its endpoint methods are not used, because
they know neither `index` on certificates nor `cached`, nor the whole body of a registration
(docs/adr/0004-consul-client.md).
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Generic, TypeVar

import aiohttp
import msgspec
from consul import aio, base
from consul.base import Response

from fleetmesh.edge.consul_link import Where, explained
from fleetmesh.plan.acl import NODE_READ, missing
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
Params = list[tuple[str, str]]

REQUEST_TIMEOUT = 10.0
WAIT = 300
"""Seconds that a blocking query is held; Consul adds up to a sixteenth of jitter."""
ANSWER_MARGIN = 30.0
REFUSALS = ("boolean expression", "No path to datacenter")
"""In the answer to a query whose filter is wrong, or whose datacenter is not joined."""
REFUSED_PAUSE = 30.0
"""Seconds until what may not be read, or is not known to the server, is asked for again."""
CACHED = ("cached", "")
"""The Consul agent may answer from its memory."""
MAX_CONNECTIONS = 1500
"""Held at once, one per blocking query; the agent's http_max_conns_per_client must allow it."""
DEFAULT_POLICY_HEADER = "X-Consul-Default-Acl-Policy"
PROBE_SOURCE = "fleetmesh-probe-source"
PROBE_DESTINATION = "fleetmesh-probe-destination"


class ConsulError(Exception):
    """Consul did not answer, or not with what was asked for. `status` is 0 without an answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """`index` is X-Consul-Index, 0 when there was none; `default_allow` the default policy when
    the server tells it (1.9 and later). `age` is the seconds for which the local Consul agent has
    answered from memory because the servers do not answer it; of answers to `?cached` alone, for
    others count from when they were fetched."""

    value: T
    index: int
    default_allow: bool | None = None
    refusal: str = ""
    """Why there is no value: Consul is well, and will not answer this. `value` is empty then."""
    age: float = 0.0


class ConsulClient:
    """One session for everything that one agent asks. Raises ConsulError from every method.

    Reads take the `index` of the answer before: then they block until something may have
    changed, and return after `WAIT` seconds in any case.
    """

    def __init__(
        self, address: str, token: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.address = address
        self.token: str | None = None
        self.tls = tls
        self._headers: dict[str, str] = {}
        self.use_token(token)
        self._http = _Transport(Where(address), tls)

    def use_token(self, token: str | None) -> None:
        """From the next request on; queries that are held go on with the one before."""
        self.token = token
        self._headers = {"X-Consul-Token": token} if token else {}

    async def close(self) -> None:
        await self._http.close()

    async def agent_self(self) -> AgentSelf:
        return (await self._get("/v1/agent/self", AgentSelf)).value

    async def datacenter(self) -> str:
        """As the catalog says of its own servers; empty where the token sees none of them."""
        answer = await self._list("/v1/catalog/service/consul", tuple[dict[str, Any], ...], 0)
        return next((str(server.get("Datacenter", "")) for server in answer.value), "")

    async def check_token(self) -> None:
        """Raises ConsulError when the token is no longer accepted, or sees no node at all: lists
        of instances are empty then. Well without a token, and on servers without ACLs (401)."""
        if not self._headers:
            return
        try:
            await self._get("/v1/acl/token/self", dict[str, Any])
        except ConsulError as error:
            if error.status != 401:
                raise
            return
        path = "/v1/catalog/nodes"
        if not (await self._list(path, tuple[Any, ...], 0)).value:
            raise ConsulError(f"{path}: {NODE_READ}", 403)

    async def agent_services(self) -> AgentServices:
        return (await self._get("/v1/agent/services", AgentServices)).value

    async def agent_checks(self) -> AgentChecks:
        return (await self._get("/v1/agent/checks", AgentChecks)).value

    async def register(self, body: dict[str, Any]) -> None:
        """Checks that `body` does not name are removed from the service."""
        _ = await self._put(
            "/v1/agent/service/register",
            [("replace-existing-checks", "true")],
            msgspec.json.encode(body),
        )

    async def deregister(self, service_id: str) -> None:
        """Also well when there is no such service."""
        try:
            _ = await self._put(f"/v1/agent/service/deregister/{service_id}")
        except ConsulError as error:
            # Before it is asked whether we may, 1.8 looks for the service: 500.
            if error.status != 404 and "Unknown service" not in str(error):
                raise

    async def beat(self, check_id: str) -> None:
        """Pass a TTL check; a ConsulError with status 404 or 500 says that there is none."""
        _ = await self._put(f"/v1/agent/check/pass/{check_id}")

    async def roots(self, index: int = 0) -> Answer[Roots]:
        return await self._get("/v1/agent/connect/ca/roots", Roots, index=index)

    async def leaf(self, service: str, index: int = 0) -> Answer[LeafAnswer]:
        return await self._get(f"/v1/agent/connect/ca/leaf/{service}", LeafAnswer, index=index)

    async def intentions(self, index: int = 0) -> Answer[tuple[IntentionEntry, ...]]:
        return await self._list("/v1/connect/intentions", tuple[IntentionEntry, ...], index)

    async def intention_allowed(self, source: str, destination: str) -> bool:
        """Consul's own decision on a pair of services."""
        answer = await self._get(
            "/v1/connect/intentions/check",
            dict[str, bool],
            [("source", source), ("destination", destination)],
        )
        return answer.value.get("Allowed", False)

    async def catalog(self, index: int = 0) -> Answer[CatalogServices]:
        return await self._get("/v1/catalog/services", CatalogServices, index=index)

    async def chain(self, service: str, index: int = 0, datacenter: str = "") -> Answer[Chain]:
        """As seen from `datacenter`, the agent's own if that is empty."""
        params: Params = [CACHED]
        if datacenter:
            params.append(("compile-dc", datacenter))
        answer = await self._get(f"/v1/discovery-chain/{service}", ChainAnswer, params, index)
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
            return await self._list(path, tuple[Instance, ...], index, params)
        except ConsulError as error:
            if not any(refusal in str(error) for refusal in REFUSALS):
                raise
            return await _refused(index, str(error))

    async def registrations(self, service: str) -> Answer[tuple[Instance, ...]]:
        """All instances of a service, with sidecars or without."""
        path = f"/v1/health/service/{service}"
        return await self._list(path, tuple[Instance, ...], 0, [CACHED])

    async def service_defaults(self, index: int = 0) -> Answer[tuple[ServiceDefaults, ...]]:
        return await self._entries("service-defaults", tuple[ServiceDefaults, ...], index)

    async def resolvers(self, index: int = 0) -> Answer[tuple[ServiceResolver, ...]]:
        return await self._entries("service-resolver", tuple[ServiceResolver, ...], index)

    async def datacenters(self) -> frozenset[str]:
        """All that the servers know of."""
        return frozenset((await self._get("/v1/catalog/datacenters", _Names)).value)

    async def proxy_defaults(self, index: int = 0) -> Answer[tuple[ProxyDefaults, ...]]:
        return await self._entries("proxy-defaults", tuple[ProxyDefaults, ...], index)

    async def _entries(
        self, kind: str, type_: type[tuple[T, ...]], index: int
    ) -> Answer[tuple[T, ...]]:
        """All config entries of a kind; none where the server refuses them (403, 404)."""
        try:
            return await self._list(f"/v1/config/{kind}", type_, index)
        except ConsulError as error:
            if error.status not in {403, 404}:
                raise
            return await _refused(index, str(error))

    async def owners(self, address: str, port: int) -> tuple[Instance, ...]:
        """The sidecars in the catalog that are registered at `address` for an application on
        `port`, found by one question and, if that finds any, one for each of their nodes."""
        found = await self._list("/v1/internal/ui/services", _Rows, 0, _at(address, port))
        nodes = {node for row in found.value for node in row.nodes or ()}
        instances: list[Instance] = []
        for name in sorted(nodes):
            answer: Answer[NodeServices | None] = await self._get(
                f"/v1/catalog/node/{name}", _Registered
            )
            if answer.value is not None:
                instances += answer.value.instances()
        return tuple(instances)

    async def keys(self, prefix: str) -> dict[str, bytes]:
        """Everything in the KV whose key begins with `prefix`, a default-consistent read."""
        try:
            answer = await self._get(f"/v1/kv/{prefix}", tuple[KeyValue, ...], [("recurse", "")])
        except ConsulError as error:
            if error.status == 404:
                return {}
            raise
        return {pair.key: pair.value or b"" for pair in answer.value}

    async def create_key(self, key: str, value: bytes) -> bool:
        """False when the key was there already."""
        response = await self._put(f"/v1/kv/{key}", [("cas", "0")], value)
        return bool(response.body.strip() == "true")

    async def _list(
        self, path: str, kind: type[tuple[T, ...]], index: int, params: Params | None = None
    ) -> Answer[tuple[T, ...]]:
        """`null` is an empty list."""
        optional: Any = kind | None
        answer: Answer[tuple[T, ...] | None] = await self._get(path, optional, params, index)
        return Answer(answer.value or (), answer.index, answer.default_allow, age=answer.age)

    async def _get(
        self, path: str, kind: type[T], params: Params | None = None, index: int = 0
    ) -> Answer[T]:
        answer = await self._ask(path, kind, params, index)
        if not answer.age:
            return answer
        # The servers may be back: the Consul agent's memory looks for them once a minute.
        try:
            return await self._ask(path, kind, [p for p in params or () if p != CACHED])
        except ConsulError:
            return answer

    async def _ask(
        self, path: str, kind: type[T], params: Params | None = None, index: int = 0
    ) -> Answer[T]:
        params = list(params or ())
        timeout = REQUEST_TIMEOUT
        if index:
            params += [("index", str(index)), ("wait", f"{WAIT}s")]
            timeout = WAIT * 17 / 16 + ANSWER_MARGIN
        response = await self._send(
            self._http.get(_raw, path, params, self._headers, connections_timeout=timeout), path
        )
        try:
            value = msgspec.json.decode(response.body, type=kind)
        except msgspec.DecodeError as error:
            raise ConsulError(f"{path}: {error}", response.code) from error
        policy = response.headers.get(DEFAULT_POLICY_HEADER)
        return Answer(
            value,
            _index(response.headers.get("X-Consul-Index")),
            None if policy is None else policy == "allow",
            age=float(_index(response.headers.get("Age"))) if CACHED in params else 0.0,
        )

    async def _put(self, path: str, params: Params | None = None, data: bytes = b"") -> Response:
        return await self._send(self._http.put(_raw, path, params or [], data, self._headers), path)

    async def _send(self, request: Any, path: str) -> Response:
        try:
            response: Response = await request
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise ConsulError(f"{path}: {explained(error) or type(error).__name__}") from error
        if response.code != 200:
            said = f"{path}: {response.code} {response.body.strip()}"
            if response.code == 403 and (rule := missing(path, response.body)):
                said += f" ({rule})"
            raise ConsulError(said, response.code)
        return response


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


class _Transport(aio.HTTPClient):  # type: ignore[misc]  # py-consul has no types
    """py-consul's, which knows neither Unix sockets nor certificates that are renewed."""

    def __init__(self, where: Where, tls: ssl.SSLContext | None) -> None:
        base.HTTPClient.__init__(self, where.host, where.port, where.scheme)
        connector: aiohttp.BaseConnector
        if where.socket:
            connector = aiohttp.UnixConnector(where.socket, limit=MAX_CONNECTIONS)
        else:
            connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ssl=tls or True)
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)


async def _refused(index: int, reason: str) -> Answer[tuple[T, ...]]:
    """Told at once the first time; then Consul is not asked again before a pause is over."""
    if index:
        await asyncio.sleep(REFUSED_PAUSE)
    return Answer((), 1, refusal=reason)


def _raw(response: Response) -> Response:
    return response


def _index(header: str | None) -> int:
    """0 for what is no number."""
    return int(header) if header is not None and header.isdigit() else 0
