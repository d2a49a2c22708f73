"""The admin API on its Unix socket: what the command's verbs speak to."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from aiohttp import web

from fleetmesh.edge.admin_acts import Acting, add_routes
from fleetmesh.edge.answers import body_of, json_of
from fleetmesh.model.explanation import Question
from fleetmesh.model.problem import Problem
from fleetmesh.model.record import Record
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.model.status import MAX_WHY, Status

SHUTDOWN_TIMEOUT = 1.0
MAX_BODY = 64 * 1024
DEFAULT_RECORDS = 100
MAX_RECORDS = 100_000
HOLDS = ("maintenance", "drain")


class Agent(Acting, Protocol):
    """What the API asks of the controller. Results of `Any` are values that msgspec encodes."""

    async def status(self) -> Status: ...

    async def records(self, limit: int) -> Sequence[Record] | None:
        """The newest access records, oldest first; None where no ring keeps them."""
        ...

    def snapshot(self) -> Snapshot | None: ...

    async def explain(self, question: Question) -> Any:
        """What becomes of a request; problems where the question has no answer."""
        ...

    async def routes(self, service: str) -> Any: ...

    async def endpoints(self, service: str) -> Any: ...

    async def capture_view(self) -> Any: ...

    async def capture_apply(self, confirm_within: float | None) -> Any: ...

    async def capture_confirm(self) -> bool: ...

    async def capture_remove(self) -> Any: ...

    async def reload(self, token: str | None) -> Sequence[Problem]: ...

    def hold(self, service: str, kind: str, why: str, within: float) -> Sequence[str] | None:
        """Hold back a service, or all for an empty name: which; None where there is none. Raises
        OSError."""
        ...

    def release(self, service: str, kind: str) -> Sequence[str] | None:
        """The services that were held; None where there is no such service. Raises OSError."""
        ...


class Server:
    """An aiohttp application on one listening socket."""

    def __init__(self, application: web.Application, sock: socket.socket) -> None:
        self._runner = web.AppRunner(
            application, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT
        )
        self._sock = sock

    async def start(self) -> None:
        await self._runner.setup()
        await web.SockSite(self._runner, self._sock).start()

    async def close(self) -> None:
        await self._runner.cleanup()


def application(agent: Agent) -> web.Application:
    """The routes; errors are `{"error": …}` with a status of 400 or more."""

    async def get_status(_: web.Request) -> web.Response:
        return json_of(await agent.status())

    async def get_snapshot(_: web.Request) -> web.Response:
        snapshot = agent.snapshot()
        if snapshot is None:
            return json_of({"error": "there is no snapshot yet"}, 503)
        return json_of(without_keys(snapshot))

    async def get_requests(request: web.Request) -> web.Response:
        limit = request.query.get("limit", str(DEFAULT_RECORDS))
        if not (limit.isascii() and limit.isdecimal() and 0 < int(limit) <= MAX_RECORDS):
            return json_of({"error": f"limit: expected a number, 1 to {MAX_RECORDS}"}, 400)
        records = await agent.records(int(limit))
        if records is None:
            return json_of({"error": "no records are kept: access_log.mode is not ring"}, 409)
        return json_of({"requests": records})

    async def explain(request: web.Request) -> web.Response:
        try:
            question = msgspec.json.decode(await request.read(), type=Question)
        except msgspec.DecodeError as error:
            return json_of({"error": f"not a question: {error}"}, 400)
        return _answer(await agent.explain(question))

    async def get_routes(request: web.Request) -> web.Response:
        return _answer(await agent.routes(request.match_info["service"]))

    async def get_endpoints(request: web.Request) -> web.Response:
        return _answer(await agent.endpoints(request.match_info["service"]))

    async def get_capture(_: web.Request) -> web.Response:
        return json_of(await agent.capture_view())

    async def apply_capture(request: web.Request) -> web.Response:
        confirm = (await body_of(request)).get("confirm")
        if confirm is not None and (isinstance(confirm, bool) or not _is_seconds(confirm)):
            return json_of({"error": "confirm: expected seconds, 0 or more, or null"}, 400)
        return json_of(await agent.capture_apply(confirm))

    async def confirm_capture(_: web.Request) -> web.Response:
        return json_of({"confirmed": await agent.capture_confirm()})

    async def remove_capture(_: web.Request) -> web.Response:
        return json_of(await agent.capture_remove())

    async def reload(request: web.Request) -> web.Response:
        token = (await body_of(request)).get("token")
        if token is not None and not isinstance(token, str):
            return json_of({"error": "token: expected text"}, 400)
        problems = await agent.reload(token)
        return json_of({"problems": problems}, 400 if problems else 200)

    async def hold(request: web.Request) -> web.Response:
        body = await body_of(request)
        service, kind = _held(body)
        why, within = body.get("why", ""), body.get("within", 0)
        if not isinstance(why, str) or len(why) > MAX_WHY:
            return json_of({"error": f"why: expected a text of {MAX_WHY} characters at most"}, 400)
        if isinstance(within, bool) or not _is_seconds(within):
            return json_of({"error": "within: expected seconds, 0 or more"}, 400)
        return _services(service, agent.hold(service, kind, " ".join(why.split()), within))

    async def release(request: web.Request) -> web.Response:
        service, kind = _held(await body_of(request))
        return _services(service, agent.release(service, kind))

    app = web.Application(client_max_size=MAX_BODY, middlewares=[_errors])
    app.router.add_get("/v1/status", get_status)
    app.router.add_get("/v1/snapshot", get_snapshot)
    app.router.add_get("/v1/requests", get_requests)
    app.router.add_post("/v1/explain", explain)
    app.router.add_get("/v1/routes/{service}", get_routes)
    app.router.add_get("/v1/endpoints/{service}", get_endpoints)
    app.router.add_get("/v1/capture", get_capture)
    app.router.add_post("/v1/capture/apply", apply_capture)
    app.router.add_post("/v1/capture/confirm", confirm_capture)
    app.router.add_post("/v1/capture/remove", remove_capture)
    app.router.add_post("/v1/reload", reload)
    app.router.add_post("/v1/hold", hold)
    app.router.add_post("/v1/release", release)
    add_routes(app, agent)
    return app


def _answer(found: Any) -> web.Response:
    """Problems are the answer to a question that has none."""
    if isinstance(found, list):
        return json_of({"error": "; ".join(map(str, found)), "problems": found}, 400)
    return json_of(found)


def without_keys(snapshot: Snapshot) -> Snapshot:
    """`snapshot` fit to leave this process."""
    return msgspec.structs.replace(
        snapshot,
        services=tuple(
            msgspec.structs.replace(
                service,
                leaf=service.leaf and msgspec.structs.replace(service.leaf, key=None),
            )
            for service in snapshot.services
        ),
    )


@web.middleware
async def _errors(request: web.Request, handler: Any) -> web.StreamResponse:
    """Whatever goes wrong is told in JSON."""
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        return json_of({"error": error.reason}, error.status)
    except Exception as error:
        request.app.logger.exception("admin API: %s %s", request.method, request.path)
        return json_of({"error": f"{type(error).__name__}: {error}"}, 500)
    return response


def _held(body: dict[str, Any]) -> tuple[str, str]:
    """A service's name, empty for all of them, and how it is held. Raises web.HTTPBadRequest."""
    service, kind = body.get("service", ""), body.get("kind")
    if not isinstance(service, str):
        raise web.HTTPBadRequest(reason="service: expected a name, or nothing for all of them")
    if not isinstance(kind, str) or kind not in HOLDS:
        raise web.HTTPBadRequest(reason=f"kind: expected one of {', '.join(HOLDS)}")
    return service, kind


def _services(service: str, names: Sequence[str] | None) -> web.Response:
    if names is None:
        what = f'no service "{service}"' if service else "no service"
        return json_of({"error": f"{what} is declared on this host"}, 404)
    return json_of({"services": names})


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < float("inf")
