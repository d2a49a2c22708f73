"""Questions to the local Consul agent's HTTP API and its answers: blocking, from memory, refused.

py-consul's aiohttp transport carries them (docs/adr/0004-consul-client.md).
"""

from __future__ import annotations

import ssl
from typing import Any, Generic, TypeVar

import aiohttp
import msgspec
from consul import aio, base
from consul.base import Response

from fleetmesh.edge.consul_link import Where, explained
from fleetmesh.plan.acl import missing

T = TypeVar("T")
Params = list[tuple[str, str]]

REQUEST_TIMEOUT = 10.0
WAIT = 300
"""Seconds that a blocking query is held; Consul adds up to a sixteenth of jitter."""
ANSWER_MARGIN = 30.0
CACHED = ("cached", "")
"""The Consul agent may answer from its memory."""
MAX_CONNECTIONS = 1500
"""Held at once, one per blocking query; the agent's http_max_conns_per_client must allow it."""
DEFAULT_POLICY_HEADER = "X-Consul-Default-Acl-Policy"


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


class ConsulHttp:
    """One session, with one token at a time. Raises ConsulError from every method that asks."""

    def __init__(self, address: str, token: str | None, tls: ssl.SSLContext | None) -> None:
        self.use_token(token)
        self._http = _Transport(Where(address), tls)

    def use_token(self, token: str | None) -> None:
        self._headers = {"X-Consul-Token": token} if token else {}

    async def close(self) -> None:
        await self._http.close()

    async def rows(
        self, path: str, kind: type[tuple[T, ...]], index: int, params: Params | None = None
    ) -> Answer[tuple[T, ...]]:
        """`null` is an empty list."""
        optional: Any = kind | None
        answer: Answer[tuple[T, ...] | None] = await self.get(path, optional, params, index)
        return Answer(answer.value or (), answer.index, answer.default_allow, age=answer.age)

    async def get(
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
        params = [*(params or ())]
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

    async def put(self, path: str, params: Params | None = None, data: bytes = b"") -> Response:
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


def _raw(response: Response) -> Response:
    return response


def _index(header: str | None) -> int:
    """0 for what is no number."""
    return int(header) if header is not None and header.isdigit() else 0
