"""What fails beneath the mesh, with a real agent under load: the wall clock, certificates that run
out, memory. Outcomes are those that docs/operations.md declares."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.test_outage import (
    ADDRESS,
    CALLER,
    PATIENCE,
    PORT,
    Load,
    World,
    called,
    end,
)
from tests.integration.test_outage import world as world
from tests.support.clock import DAY, Clock, stepped
from tests.support.consul import consul_binary
from tests.support.evidence import Evidence
from tests.support.netns import Netns, needs_root

from fleetmesh.cli import headroom
from fleetmesh.cli.findings import Level
from fleetmesh.edge import host

pytestmark = [
    pytest.mark.consul,
    needs_root,
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


def test_a_full_disk(world: World, evidence: Evidence) -> None:
    """No request fails, also over a restart; it is told, and over when there is room."""
    state = world.mesh.home / "state"
    kept = state.with_name("kept")
    with Load(world.space) as load:
        assert world.mesh.stop() == 0
        state.rename(kept)
        state.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "none", state], check=True
        )
        try:
            for file in kept.iterdir():
                (state / file.name).write_bytes(file.read_bytes())
                (state / file.name).chmod(file.stat().st_mode & 0o777)
            _fill(state)
            world.mesh.start()
            # Something new, which must be remembered.
            world.mesh.declare("more", 8099, protocol="tcp")
            assert world.mesh.ask("POST", "/v1/reload", {})[0] == 200
            problems = world.mesh.eventually(
                lambda: world.mesh.status()["problems"], "a problem is told", 30
            )
            evidence(f"told: {problems[0]['rule']}")
            assert "No space left on device" in problems[0]["rule"]
            time.sleep(2)
            (state / "filler").unlink()
            (world.mesh.services / "more.yaml").unlink()
            assert world.mesh.ask("POST", "/v1/reload", {})[0] == 200
            world.mesh.eventually(lambda: not world.mesh.status()["problems"], "its end", 30)
            assert world.mesh.stop() == 0
        finally:
            subprocess.run(["umount", state], check=True)
            state.rmdir()
            kept.rename(state)
        world.mesh.start()
        time.sleep(1)
    evidence(f"{load.answered} answered, failed {dict(load.failed)}")
    assert load.failed == {}
    assert load.answered > 30


def _fill(directory: Path) -> None:
    with (directory / "filler").open("wb", buffering=0) as filler:
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while filler.write(b"\0" * size):
                    pass


def test_out_of_file_descriptors(world: World, evidence: Evidence) -> None:
    """What is open goes on, new connections end at once, the admin API answers and check's finding
    tells; with room again all is as before, with the same workers."""
    kept = world.space.call(_connected, uid=CALLER)
    with contextlib.closing(kept):
        assert _asked(kept) == 200
        workers = [worker["pid"] for worker in world.mesh.status()["workers"]]
        before = {}
        for pid in workers:
            room = len(list(Path(f"/proc/{pid}/fd").iterdir())) + 10
            before[pid] = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (room, before[pid][1]))
        crowd: list[http.client.HTTPConnection] = []
        try:
            got: Counter[str] = Counter()
            longest = 0.0
            for _ in range(60):
                began = time.monotonic()
                crowd.append(world.space.call(_connected, uid=CALLER))
                got[_outcome(crowd[-1])] += 1
                longest = max(longest, time.monotonic() - began)
            evidence(f"60 more connections: {dict(got)}, longest {longest:.1f} s")
            assert got["200"] < 30
            assert got["past the mesh"] == 0
            assert longest < 5
            assert _asked(kept) == 200
            assert [worker["pid"] for worker in world.mesh.status()["workers"]] == workers
            assert world.space.call(world.mesh.page, "/healthz")[0] == 200
            assert headroom.files(host.open_files(pid) for pid in workers).level is Level.ERROR
        finally:
            for pid, both in before.items():
                resource.prlimit(pid, resource.RLIMIT_NOFILE, both)
            for connection in crowd:
                connection.close()
        world.mesh.eventually(lambda: _tried(world) == "", "service", 30)
        assert _asked(kept) == 200
        assert [worker["pid"] for worker in world.mesh.status()["workers"]] == workers


def _connected() -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(ADDRESS, PORT, timeout=PATIENCE)
    connection.connect()
    return connection


def _asked(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/")
    answer = connection.getresponse()
    answer.read()
    return answer.status


def _outcome(connection: http.client.HTTPConnection) -> str:
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    if answer.status == 200 and b"X-Forwarded-Client-Cert" not in body:
        return "past the mesh"
    return str(answer.status)


def _tried(world: World) -> str:
    try:
        return answer(world)
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
