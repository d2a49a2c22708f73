"""What fails beneath the mesh, with a real agent under load: the wall clock, certificates that run
out, memory. Outcomes are those that docs/operations.md declares."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.test_outage import CALLER, Load, World, called, end
from tests.integration.test_outage import world as world
from tests.support.clock import DAY, Clock, stepped
from tests.support.consul import consul_binary
from tests.support.evidence import Evidence
from tests.support.netns import Netns

pytestmark = [
    pytest.mark.consul,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
]
MEMORY = Path("/sys/fs/cgroup/memory")


@pytest.fixture(scope="module", autouse=True)
def clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clock]:
    """Of every process of the world."""
    consul_binary()
    with stepped(tmp_path_factory.mktemp("clock")) as clock:
        yield clock


@pytest.fixture(autouse=True)
def _whole(clock: Clock, world: World) -> Iterator[None]:
    yield
    clock.step(0)
    end(world)


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> Evidence:
    return Evidence(f"failures: {request.node.name.removeprefix('test_')}")


def answer(world: World) -> str:
    """Nothing when web reaches api through the mesh, else what it got."""
    return world.space.call(called, uid=CALLER)


def rules(space: Netns) -> str:
    return space.run("nft", "list", "table", "inet", "fleetmesh")


def test_clock_steps_a_day_ahead(world: World, clock: Clock) -> None:
    """Certificates last three days: no request fails, neither at the step, nor over a restart, nor
    when the clock comes back."""
    with Load(world.space) as load:
        time.sleep(1)
        clock.step(DAY)
        time.sleep(2)
        assert 1.5 * DAY < world.mesh.service("web")["identity"]["seconds_left"] < 2.1 * DAY
        world.restart()
        time.sleep(2)
        clock.step(0)
        time.sleep(2)
    assert load.failed == {}
    assert load.answered > 30


def test_clock_steps_a_day_back(world: World, clock: Clock, evidence: Evidence) -> None:
    """Certificates are not valid yet: new connections fail closed, never past the mesh; with the
    clock right again all is served, and nothing of the state was lost."""
    clock.step(-DAY)
    world.restart()
    got = {answer(world) for _ in range(3)}
    evidence(f"answers: {sorted(got)}")
    assert "" not in got
    assert "past the mesh" not in got
    assert "web" in rules(world.space)
    assert world.mesh.service("web")["identity"]["seconds_left"] > 3 * DAY
    began = time.monotonic()
    clock.step(0)
    world.mesh.eventually(lambda: answer(world) == "", "service", 30)
    evidence(f"served {time.monotonic() - began:.1f} s after the clock was right")


def test_expired_certificates_close_what_needs_identity(
    world: World, clock: Clock, evidence: Evidence
) -> None:
    """With nobody to renew them, and although `on_stop` is open: also over a restart, and after a
    boot from the disk. Renewed, all is served."""
    world.proxy.become("cut")
    clock.step(4 * DAY)
    for what in ("at once", "restarted", "booted"):
        if what == "restarted":
            world.restart()
        elif what == "booted":
            world.forget()
            world.space.run("nft", "delete", "table", "inet", "fleetmesh")
            world.mesh.start()
        if what == "at once":
            # Connections of before are good; a new handshake is what counts.
            world.mesh.eventually(lambda: _kill_workers(world) or answer(world) != "", "refusal")
        got = {answer(world) for _ in range(3)}
        evidence(f"{what}: {sorted(got)}")
        assert "" not in got
        assert "past the mesh" not in got
        assert "web" in rules(world.space)
    assert world.mesh.service("web")["identity"]["serial"] == ""
    world.proxy.become()
    clock.step(0)
    began = time.monotonic()
    world.mesh.eventually(lambda: answer(world) == "", "service", 60)
    evidence(f"served {time.monotonic() - began:.1f} s after Consul was back")


def _kill_workers(world: World) -> None:
    for worker in world.mesh.status()["workers"]:
        os.kill(worker["pid"], 9)
    time.sleep(0.5)


@pytest.mark.skipif(not MEMORY.is_dir(), reason="no memory controller of cgroups v1")
def test_a_worker_out_of_memory_is_replaced(world: World, evidence: Evidence) -> None:
    """The kernel ends it in a cgroup with a limit; the controller lives, another worker serves."""
    before = world.mesh.status()
    victim = before["workers"][0]["pid"]
    group = MEMORY / f"fleetmesh-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text("4096")
        (group / "cgroup.procs").write_text(str(victim))
        began = time.monotonic()
        with Load(world.space) as load:
            world.mesh.eventually(
                lambda: victim not in {w["pid"] for w in world.mesh.status()["workers"]},
                "another worker",
                60,
            )
            time.sleep(2)
        evidence(
            f"replaced after {time.monotonic() - began:.1f} s, {load.answered} answered, "
            f"failed {dict(load.failed)}"
        )
    finally:
        world.mesh.eventually(lambda: not (group / "cgroup.procs").read_text(), "its end")
        group.rmdir()
    after = world.mesh.status()
    assert after["pid"] == before["pid"]
    assert f"(pid {victim}) died with status -9" in world.mesh.log()
    assert answer(world) == ""
