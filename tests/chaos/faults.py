"""What is done to the fleet, each with its end and with what must hold meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

from tests.chaos.releases import other_release, release_of, restore, switch_release
from tests.support.fleet import Fleet
from tests.support.hosts import Host, eventually

SERVICE = "api"
CALLER = "web1"
INSTANCES = ("api1", "api2", "api3", "api4")
STATE = "/var/lib/fleetmesh"

Act = Callable[[Fleet, Sequence[str]], AbstractContextManager[None]]


@dataclass(frozen=True)
class Target:
    """What must hold. `success` of the client's requests from the fault's begin until traffic is
    back; `away` in seconds; `p99` as a multiple of what it was before, and `share` of the victim's
    answers, both from `after` seconds of the fault on. None is not asked."""

    success: float | None = None
    away: float | None = None
    p99: float | None = None
    share: float | None = None
    after: float = 0.0


@dataclass(frozen=True)
class Fault:
    """`victims` is how many instances of api it falls on; `seconds` how long it lasts at least.
    `gone` where traffic is expected to move away, and so to come back."""

    name: str
    act: Act
    target: Target
    victims: int = 1
    seconds: float = 12.0
    gone: bool = True


@contextmanager
def killed(fleet: Fleet, victims: Sequence[str]) -> Iterator[None]:
    """SIGKILL for the application, and nobody starts it again: connections are refused."""
    for host in _hosts(fleet, victims):
        host.run(
            f"mkdir -p /run/systemd/system/{SERVICE}.service.d && "
            f"printf '[Service]\\nRestart=no\\n' > "
            f"/run/systemd/system/{SERVICE}.service.d/chaos.conf && systemctl daemon-reload"
        )
    try:
        for host in _hosts(fleet, victims):
            host.run(f"systemctl kill -s KILL {SERVICE}")
        yield
    finally:
        for host in _hosts(fleet, victims):
            host.run(
                f"rm -rf /run/systemd/system/{SERVICE}.service.d && systemctl daemon-reload && "
                f"systemctl restart {SERVICE}"
            )


@contextmanager
def stopped(fleet: Fleet, victims: Sequence[str]) -> Iterator[None]:
    """SIGSTOP for the application: connections are accepted by the kernel and nothing answers."""
    try:
        for host in _hosts(fleet, victims):
            host.run(f"systemctl kill -s STOP {SERVICE}")
        yield
    finally:
        for host in _hosts(fleet, victims):
            host.run(f"systemctl kill -s CONT {SERVICE}")


def _filtered(verdict: str) -> Act:
    @contextmanager
    def act(fleet: Fleet, victims: Sequence[str]) -> Iterator[None]:
        try:
            for host in _hosts(fleet, victims):
                port = host.service(SERVICE)["sidecar_port"]
                host.run(
                    "nft -f -",
                    stdin="table inet chaos { chain in { type filter hook input priority -300; "
                    f"iifname eth0 tcp dport {port} {verdict}; }} }}",
                )
            yield
        finally:
            for host in _hosts(fleet, victims):
                host.run("nft delete table inet chaos", check=False)

    return act


def _file(name: str, content: str) -> Act:
    """A file that makes the lab's application faulty; its health check stays content."""

    @contextmanager
    def act(fleet: Fleet, victims: Sequence[str]) -> Iterator[None]:
        path = f"/run/{SERVICE}/{name}"
        try:
            for host in _hosts(fleet, victims):
                host.run(f"echo {content} > {path}.new && mv {path}.new {path}")
            yield
        finally:
            for host in _hosts(fleet, victims):
                host.run(f"rm -f {path}")

    return act


@contextmanager
def consul_agents_killed(fleet: Fleet, victims: Sequence[str]) -> Iterator[None]:
    """The local Consul agents of the caller and of an instance."""
    with _consul_gone(_hosts(fleet, (CALLER, *victims))):
        yield


@contextmanager
def servers_killed(fleet: Fleet, victims: Sequence[str]) -> Iterator[None]:
    with _consul_gone([fleet["consul1"]]):
        yield
    eventually(lambda: fleet.consul("GET", "/v1/status/leader"), 30, "Consul leads again")


@contextmanager
def _consul_gone(hosts: Sequence[Host]) -> Iterator[None]:
    try:
        for host in hosts:
            host.run("systemctl kill -s KILL consul; systemctl stop consul")
        yield
    finally:
        for host in hosts:
            host.run("systemctl start consul")


@contextmanager
def agents_restarted(fleet: Fleet, victims: Sequence[str]) -> Iterator[None]:
    """The caller's, then an instance's."""
    for host in _hosts(fleet, (CALLER, *victims)):
        host.run("systemctl restart fleetmesh-agent")
        host.wait_ready()
    yield


@contextmanager
def upgraded(fleet: Fleet, victims: Sequence[str]) -> Iterator[None]:
    """Another release for the caller and for an instance, and back to the one before."""
    hosts = _hosts(fleet, (CALLER, *victims))
    before = [release_of(host) for host in hosts]
    try:
        for host in hosts:
            switch_release(host, other_release(host))
        yield
    finally:
        for host, release in zip(hosts, before, strict=True):
            switch_release(host, release)


@contextmanager
def ca_rotated(fleet: Fleet, victims: Sequence[str]) -> Iterator[None]:
    """A new root; all leaves are renewed (Consul 1.8 spreads them over 30 s)."""
    mesh = [fleet[name] for name in (CALLER, *INSTANCES, "shop1")]

    def serials() -> dict[str, str]:
        return {
            f"{host.name}/{service['name']}": service["identity"]["serial"]
            for host in mesh
            for service in host.status()["services"]
        }

    before = serials()
    fleet.rotate_ca()
    eventually(
        lambda: all(before[name] != serial for name, serial in serials().items()),
        75,
        "every service has a new leaf",
        every=2,
    )
    yield


@contextmanager
def rebooted(fleet: Fleet, victims: Sequence[str]) -> Iterator[None]:
    hosts = _hosts(fleet, victims)
    boots = [host.output(_BOOT) for host in hosts]
    for host in hosts:
        host.run("systemctl reboot", check=False, timeout=20)
    for host, boot in zip(hosts, boots, strict=True):
        eventually(partial(_booted, host, boot), 60, f"{host.name} is up again", every=0.5)
        host.wait_ready(60)
    yield


def _booted(host: Host, before: str) -> bool:
    done = host.run(_BOOT, check=False, timeout=15)
    return done.returncode == 0 and done.stdout.strip() not in ("", before)


_BOOT = "cat /proc/sys/kernel/random/boot_id"


@contextmanager
def disk_full(fleet: Fleet, victims: Sequence[str]) -> Iterator[None]:
    """Not a byte is left where the agents of the caller and of an instance keep their state, and
    they are restarted so."""
    hosts = _hosts(fleet, (CALLER, *victims))
    try:
        for host in hosts:
            host.run(
                f"set -e; cp -a {STATE} /run/chaos-state; "
                f"mount -t tmpfs -o size=512k chaos {STATE}; "
                f"cp -a /run/chaos-state/. {STATE}/; chown --reference=/run/chaos-state {STATE}; "
                f"chmod --reference=/run/chaos-state {STATE}; "
                f"dd if=/dev/zero of={STATE}/full bs=1k 2>/dev/null || true; "
                "systemctl restart fleetmesh-agent"
            )
            host.wait_ready()
        yield
    finally:
        for host in hosts:
            host.run(
                f"mountpoint -q {STATE} && umount -l {STATE}; rm -rf /run/chaos-state; "
                "systemctl restart fleetmesh-agent"
            )
            host.wait_ready()


@contextmanager
def out_of_files(fleet: Fleet, victims: Sequence[str]) -> Iterator[None]:
    """No process of an instance's agent may open one more file."""
    limits: list[tuple[Host, str, str]] = []
    try:
        for host in _hosts(fleet, victims):
            status = host.status()
            for pid in (status["pid"], *(worker["pid"] for worker in status["workers"])):
                limits.append((host, pid, host.output(_LIMIT.format(pid=pid))))
                host.run(f"prlimit --pid {pid} --nofile=$(ls /proc/{pid}/fd | wc -l):")
        yield
    finally:
        for host, pid, limit in limits:
            host.run(f"prlimit --pid {pid} --nofile={limit}:", check=False)


_LIMIT = "prlimit --pid {pid} --nofile --noheadings --output SOFT"


def _hosts(fleet: Fleet, names: Sequence[str]) -> list[Host]:
    return [fleet[name] for name in names]


NOTHING_FAILS = Target(success=1.0)

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("application killed", killed, Target(success=0.9999)),
        Fault("application stopped", stopped, Target(), seconds=10.0),
        Fault("black hole", _filtered("drop"), Target(success=0.999, away=3.0)),
        Fault("reset", _filtered("reject with tcp reset"), Target(success=0.9999)),
        Fault("latency +0.2 s", _file("slow", "0.2"), Target(success=1.0), seconds=20.0),
        Fault(
            "slow +2 s", _file("slow", "2"), Target(success=1.0, p99=1.2, after=10.0), seconds=20.0
        ),
        Fault("half slow +1 s", _file("slow", "1"), Target(success=1.0), victims=2, seconds=20.0),
        Fault("fast 500", _file("broken", "1"), Target(share=0.02, after=5.0), seconds=15.0),
        Fault("Consul agents killed", consul_agents_killed, NOTHING_FAILS, gone=False),
        Fault("Consul servers killed", servers_killed, NOTHING_FAILS, victims=0, gone=False),
        Fault("agents restarted", agents_restarted, NOTHING_FAILS, seconds=5.0, gone=False),
        Fault("agents upgraded, rolled back", upgraded, NOTHING_FAILS, seconds=5.0, gone=False),
        Fault("CA rotated", ca_rotated, NOTHING_FAILS, victims=0, seconds=3.0, gone=False),
        Fault("host rebooted", rebooted, Target(success=0.999), seconds=1.0),
        Fault("disk full", disk_full, NOTHING_FAILS, seconds=5.0, gone=False),
        Fault("out of files", out_of_files, NOTHING_FAILS, gone=False),
    )
}
SHORT = ("application killed", "fast 500", "black hole", "agents restarted")


def heal(fleet: Fleet) -> None:
    """Undo whatever an interrupted run may have left, and wait until the mesh serves."""
    for name in INSTANCES:
        fleet[name].run(
            f"nft delete table inet chaos 2>/dev/null; rm -f /run/{SERVICE}/slow "
            f"/run/{SERVICE}/broken; rm -rf /run/systemd/system/{SERVICE}.service.d; "
            f"systemctl daemon-reload; systemctl kill -s CONT {SERVICE}; "
            f"systemctl start {SERVICE} consul fleetmesh-agent"
        )
    for name in (CALLER, *INSTANCES):
        fleet[name].wait_ready()
        restore(fleet[name])
