"""One look at the local Consul agent, for the doctor: no session, no retries."""

from __future__ import annotations

import asyncio
import email.utils
import os
import ssl
import time
from typing import Any

import msgspec

from fleetmesh.edge.consul_link import Where, explained

TIMEOUT = 5.0


class ConsulUnreachableError(Exception):
    """The Consul agent did not answer, or not as Consul."""


class Probe(msgspec.Struct, frozen=True):
    """`version` is empty when the token may not read it; `token_accepted` None without a token or
    without ACLs. `skew`: seconds by which Consul's clock is ahead of ours, known to a second."""

    leader: str
    version: str
    server: bool
    token_accepted: bool | None
    skew: float | None


def probe(address: str, token: str | None, tls: ssl.SSLContext | None = None) -> Probe:
    """Raises ConsulUnreachableError."""
    return asyncio.run(_probe(Where(address), token, tls))


async def _probe(where: Where, token: str | None, tls: ssl.SSLContext | None) -> Probe:
    import aiohttp

    headers = {"X-Consul-Token": token} if token else {}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    try:
        connector: aiohttp.BaseConnector = (
            aiohttp.UnixConnector(where.socket)
            if where.socket
            else aiohttp.TCPConnector(ssl=tls or True)
        )
        async with aiohttp.ClientSession(
            headers=headers, timeout=timeout, connector=connector
        ) as session:
            async with session.get(f"{where.base}/v1/status/leader") as response:
                leader = str(await response.json(content_type=None)) if response.ok else ""
                skew = _skew(response.headers.get("Date"))
            async with session.get(f"{where.base}/v1/agent/self") as response:
                about = await response.json(content_type=None) if response.ok else {}
            accepted = None
            if token:
                async with session.get(f"{where.base}/v1/acl/token/self") as response:
                    # 401 is a server without ACLs
                    accepted = None if response.status == 401 else response.ok
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise ConsulUnreachableError(_reason(error)) from error
    config: dict[str, Any] = about.get("Config", {}) if isinstance(about, dict) else {}
    return Probe(
        leader=leader,
        version=str(config.get("Version", "")),
        server=bool(config.get("Server", False)),
        token_accepted=accepted,
        skew=skew,
    )


def _reason(error: Exception) -> str:
    said = explained(error)
    if said != str(error):
        return said
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number).lower()
    return said or "no answer in time"


def _skew(date: str | None) -> float | None:
    if date is None:
        return None
    try:
        theirs = email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
    return theirs + 0.5 - time.time()
