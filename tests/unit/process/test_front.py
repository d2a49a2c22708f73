"""What workers are given while settings change."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace
from tests.support.consul import free_ports

from fleetmesh.model.snapshot import Snapshot
from fleetmesh.plan.ports import Allocation
from fleetmesh.process.front import Front
from fleetmesh.process.workers import Publication
from fleetmesh.settings import Ports, ServiceSettings, Settings

SNAPSHOT = Snapshot("td", "dc1", "n", ("ROOT",), (), ())


class Workers:
    """In place of the supervisor: `published` is what they got, newest last."""

    def __init__(self) -> None:
        self.published: list[Publication] = []

    async def publish(self, publication: Publication) -> list[str]:
        self.published.append(publication)
        return []

    async def reconfigure(self, *_: object) -> None:
        pass


async def test_listeners_of_a_service_that_is_gone_are_not_given_once_more(tmp_path: Path) -> None:
    """They are open until capture has left them; a worker that kept one would keep its port."""
    plain, outbound, sidecar = free_ports(3)
    settings = Settings(
        address="10.0.0.1",
        services=(ServiceSettings(name="web", port=80),),
        state_dir=str(tmp_path),
        ports=Ports(plain=plain),
    )
    front = Front(settings, Allocation({"web": outbound}, {"web": sidecar}), {})
    workers = Workers()
    front.supervisor = workers  # type: ignore[assignment]
    assert front.open() == []
    await front.publish(SNAPSHOT)
    assert {one.name for one in workers.published[-1].listeners} >= {"plain", "out4.web", "in.web"}

    await front.switch(replace(settings, services=()), Allocation())
    await front.publish(SNAPSHOT, again=True)
    assert {one.name for one in workers.published[-1].listeners} == {"plain"}
    front.close_unwanted()
    assert set(front.sockets.sockets) == {"plain"}
    await front.cache.close()
    for sock in front.sockets.sockets.values():
        sock.close()
