"""What workers are given while settings change."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace
from tests.support.consul import free_ports
from tests.support.worker import local_service

from fleetmesh.model.snapshot import ExposedPath, Snapshot
from fleetmesh.plan.ports import Allocation
from fleetmesh.process.front import Front
from fleetmesh.process.workers import Publication
from fleetmesh.settings import Ports, ServiceSettings, Settings

SNAPSHOT = Snapshot("td", "dc1", "n", ("ROOT",), (), ())


@contextmanager
def listening_on(port: int) -> Iterator[None]:
    with socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::", port))
        sock.listen()
        yield


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


async def test_what_is_exposed_is_listened_for_as_long_as_it_is(tmp_path: Path) -> None:
    """A port that another has holds nothing up, and is taken once it is free."""
    plain, first, second = free_ports(3)
    settings = Settings(address="10.0.0.1", state_dir=str(tmp_path), ports=Ports(plain=plain))
    front = Front(settings, Allocation(), {})
    workers = Workers()
    front.supervisor = workers  # type: ignore[assignment]
    web = local_service("web", 80, None)
    one = replace(SNAPSHOT, services=(replace(web, exposed=(ExposedPath(first, "/a", 80),)),))
    two = replace(SNAPSHOT, services=(replace(web, exposed=(ExposedPath(second, "/a", 80),)),))

    def given() -> set[str]:
        return {one.name for one in workers.published[-1].listeners}

    assert front.open() == []
    assert await front.publish(one) == []
    assert given() == {"plain", f"exposed.{first}"}
    with listening_on(second):
        (problem,) = await front.publish(two)
        assert str(second) in problem.rule
        assert given() == {"plain"}
        assert set(front.sockets.sockets) == {"plain"}
        assert await front.publish(two) == [problem]
        assert len(workers.published) == 2
    assert await front.publish(two) == []
    assert given() == {"plain", f"exposed.{second}"}
    front.close_unwanted()
    assert set(front.sockets.sockets) == {"plain", f"exposed.{second}"}
    await front.cache.close()
    for sock in front.sockets.sockets.values():
        sock.close()
