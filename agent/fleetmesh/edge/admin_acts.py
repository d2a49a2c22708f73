"""The admin API's acts with an end: faults, and capture that is bypassed. Who asks is on record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from aiohttp import web

from fleetmesh.capture.bypass import MAX_SECONDS
from fleetmesh.edge.answers import body_of, json_of
from fleetmesh.edge.peer import who
from fleetmesh.model.fault import Fault, Order
from fleetmesh.model.problem import Problem
from fleetmesh.model.status import MAX_WHY, CaptureStatus, FaultStatus


class Acting(Protocol):
    """What is asked of the controller; `by` is the peer of the admin socket."""

    async def faults(self) -> Sequence[FaultStatus]: ...

    async def inject(self, order: Order, by: str) -> Fault | list[Problem]: ...

    async def clear(self, fault_id: str, by: str) -> Sequence[str]:
        """The ids of those that were ended: of this one, or of all for an empty id."""
        ...

    async def bypass(self, seconds: float, by: str, why: str) -> CaptureStatus | Problem: ...

    async def unbypass(self, by: str) -> bool:
        """Whether there was one."""
        ...


def add_routes(app: web.Application, agent: Acting) -> None:
    async def faults(_: web.Request) -> web.Response:
        return json_of({"faults": await agent.faults()})

    async def inject(request: web.Request) -> web.Response:
        try:
            order = msgspec.json.decode(await request.read(), type=Order)
        except msgspec.DecodeError as error:
            return json_of({"error": f"not a fault: {error}"}, 400)
        found = await agent.inject(order, who(request.transport))
        return _refused(found) if isinstance(found, list) else json_of(found)

    async def clear(request: web.Request) -> web.Response:
        fault_id = (await body_of(request)).get("id", "")
        if not isinstance(fault_id, str):
            return json_of({"error": "id: expected text"}, 400)
        return json_of({"cleared": await agent.clear(fault_id, who(request.transport))})

    async def bypass(request: web.Request) -> web.Response:
        body = await body_of(request)
        seconds, why = _seconds(body.get("seconds")), body.get("why")
        if seconds is None:
            return json_of({"error": f"seconds: expected 1 to {MAX_SECONDS:.0f}"}, 400)
        if not isinstance(why, str) or not why.split() or len(why) > MAX_WHY:
            return json_of({"error": f"why: expected 1 to {MAX_WHY} characters"}, 400)
        found = await agent.bypass(seconds, who(request.transport), " ".join(why.split()))
        return _refused([found], 409) if isinstance(found, Problem) else json_of(found)

    async def unbypass(request: web.Request) -> web.Response:
        return json_of({"ended": await agent.unbypass(who(request.transport))})

    app.router.add_get("/v1/faults", faults)
    app.router.add_post("/v1/faults/inject", inject)
    app.router.add_post("/v1/faults/clear", clear)
    app.router.add_post("/v1/bypass/on", bypass)
    app.router.add_post("/v1/bypass/off", unbypass)


def _refused(problems: list[Problem], status: int = 400) -> web.Response:
    return json_of({"error": "; ".join(map(str, problems)), "problems": problems}, status)


def _seconds(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 1 <= value <= MAX_SECONDS else None
