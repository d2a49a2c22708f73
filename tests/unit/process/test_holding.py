from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, cast

import pytest

from fleetmesh.model.report import Report, UnderWay
from fleetmesh.plan import holds
from fleetmesh.plan.holds import Hold, HoldKind, Phase
from fleetmesh.process import holding
from fleetmesh.process.holding import Holder
from fleetmesh.process.supervisor import Supervisor


class FakeSupervisor:
    """Two workers that carry so many exchanges of web each."""

    def __init__(self, under_way: int = 0) -> None:
        self.under_way = under_way
        self.parted: list[str] = []

    async def part(self, service: str) -> None:
        self.parted.append(service)

    async def collect(self) -> tuple[Report, ...]:
        one = Report(1, 1, under_way=(UnderWay("web", self.under_way),))
        return (one, one, Report(0, 0))


def holder(
    state: Path,
    supervisor: FakeSupervisor,
    changed: Callable[[], None],
    told: Callable[[], Collection[str]] = lambda: {"web"},
) -> Holder:
    return Holder(str(state), cast("Supervisor", supervisor), changed, told)


def ignore() -> None:
    pass


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "INTERVAL", 0.01)
    monkeypatch.setattr(holds, "NOTICE", 0.05)
    monkeypatch.setattr(holds, "SETTLE", 0.05)


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def drained(one: Holder, within: float = 60.0) -> None:
    one.start()
    one.hold(Hold("web", HoldKind.DRAIN, "why", time.time(), within))


async def test_a_drain_runs_through_its_phases_and_is_kept(tmp_path: Path) -> None:
    supervisor = FakeSupervisor(under_way=1)
    seen: list[Phase | None] = []

    def changed() -> None:
        held = one.held().get("web")
        seen.append(held.phase if held else None)

    one = holder(tmp_path, supervisor, changed)
    await drained(one)
    await eventually(lambda: (status := one.status("web")) and status.under_way == 2)
    await asyncio.sleep(0.2)
    assert one.held()["web"].phase is Phase.DRAINING
    supervisor.under_way = 0
    await eventually(lambda: one.held()["web"].phase is Phase.MAINTENANCE)
    assert seen == [Phase.ANNOUNCED, Phase.DRAINING, Phase.MAINTENANCE]
    await one.close()

    successor = holder(tmp_path, supervisor, ignore)
    status = successor.status("web")
    assert status is not None
    assert (status.phase, status.left, status.why) == ("maintenance", 0, "why")
    assert successor.release("web", HoldKind.DRAIN)
    assert not successor.release("web", HoldKind.DRAIN)
    assert successor.status("web") is None
    assert holder(tmp_path, supervisor, ignore).held() == {}


async def test_a_drain_out_of_time_tells_what_was_left_and_ends_it(tmp_path: Path) -> None:
    supervisor = FakeSupervisor(under_way=3)
    one = holder(tmp_path, supervisor, ignore)
    await drained(one, within=0.1)
    assert supervisor.parted == []
    await eventually(lambda: (status := one.status("web")) and status.left == 6)
    await eventually(lambda: supervisor.parted == ["web"])
    await asyncio.sleep(0.1)
    assert supervisor.parted == ["web"]
    await one.close()


async def test_what_cannot_be_kept_does_not_hold(tmp_path: Path) -> None:
    """After a restart it would be gone without a word."""
    (tmp_path / "state").write_text("a file where a directory should be")
    one = holder(tmp_path / "state", FakeSupervisor(), ignore)
    with pytest.raises(OSError, match="state"):
        one.hold(Hold("web", HoldKind.MAINTENANCE))
    assert one.held() == {}


async def test_a_service_that_is_no_longer_declared_is_forgotten(tmp_path: Path) -> None:
    one = holder(tmp_path, FakeSupervisor(), ignore)
    one.hold(Hold("web", HoldKind.MAINTENANCE))
    one.hold(Hold("api", HoldKind.MAINTENANCE))
    one.retain({"api"})
    assert set(one.held()) == {"api"}
    assert set(holder(tmp_path, FakeSupervisor(), ignore).held()) == {"api"}


async def test_a_drain_waits_for_consul_to_tell(tmp_path: Path) -> None:
    """Idle or not: callers have not heard of it."""
    told: set[str] = set()
    one = holder(tmp_path, FakeSupervisor(), ignore, lambda: told)
    await drained(one)
    await asyncio.sleep(0.3)
    assert one.held()["web"].phase is Phase.DRAINING
    told.add("web")
    await eventually(lambda: one.held()["web"].phase is Phase.MAINTENANCE)
    await one.close()
