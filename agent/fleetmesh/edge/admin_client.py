"""The admin API from the outside: one question over the agent's Unix socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec

from fleetmesh.model.status import Status

TIMEOUT = 30.0


class AgentUnreachableError(Exception):
    """Nobody answers on the admin socket, or the answer is not the admin API's."""


class AgentRefusedError(Exception):
    """The agent answered with an error. `status` is HTTP's, `body` what it said."""

    def __init__(self, status: int, body: Any) -> None:
        error = body.get("error") if isinstance(body, dict) else None
        super().__init__(error or f"the agent answered {status}")
        self.status = status
        self.body = body


class AdminClient:
    """Blocking: each call opens the socket, asks and closes it. `timeout` is in seconds."""

    def __init__(self, socket_path: str, timeout: float = TIMEOUT) -> None:
        self._path = socket_path
        self._timeout = timeout

    def get(self, path: str) -> Any:
        """The JSON of a GET. Raises AgentUnreachableError, AgentRefusedError."""
        return asyncio.run(self._ask("GET", path, None))

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of a POST. Raises AgentUnreachableError, AgentRefusedError."""
        return asyncio.run(self._ask("POST", path, body or {}))

    def status(self) -> Status:
        """Raises AgentUnreachableError, AgentRefusedError."""
        try:
            return msgspec.convert(self.get("/v1/status"), Status)
        except msgspec.ValidationError as error:
            raise AgentUnreachableError(
                f"{self._path} answers as another version's agent: {error}"
            ) from error

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        import aiohttp  # a quarter of a second that verbs without an agent need not pay

        connector = aiohttp.UnixConnector(self._path)
        timeout = aiohttp.ClientTimeout(total=self._timeout)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.request(method, f"http://agent{path}", json=body) as response,
            ):
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise AgentUnreachableError(f"{self._path}: {_reason(error)}") from error
        try:
            answer = json.loads(text) if text else {}
        except ValueError as error:
            if response.status < 400:
                raise AgentUnreachableError(f"{self._path} does not answer in JSON") from error
            answer = {"error": text.strip() or None}
        if response.status >= 400:
            raise AgentRefusedError(response.status, answer)
        return answer


def _reason(error: Exception) -> str:
    cause = getattr(error, "os_error", error)
    if isinstance(cause, FileNotFoundError):
        return "no such socket"
    if isinstance(cause, ConnectionRefusedError):
        return "nobody listens"
    if isinstance(cause, PermissionError):
        return "permission denied (its users are root and the group fleetmesh)"
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    return str(cause) or type(cause).__name__
