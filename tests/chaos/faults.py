"""What is done to the fleet, each with its end and with what must hold meanwhile."""

from __future__ import annotations

import time
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

Act = Callable[[Fleet, Sequence[str]], AbstractContextManager[float]]
"""Within it the fault is there; it gives the fault's begin, in seconds since the epoch."""


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
def killed(fleet: Fleet, victims: Sequence[str]) -> Iterator[float]:
    """SIGKILL for the application, and nobody starts it again: connections are refused."""
    for host in _hosts(fleet, victims):
        host.run(
            f"mkdir -p /run/systemd/system/{SERVICE}.service.d && "
            f"printf '[Service]\\nRestart=no\\n' > "
            f"/run/systemd/system/{SERVICE}.service.d/chaos.conf && systemctl daemon-reload"
        )
    try:
        yield _strike(fleet, victims, f"systemctl kill -s KILL {SERVICE}")
    finally:
        for host in _hosts(fleet, victims):
            host.run(
                f"rm -rf /run/systemd/system/{SERVICE}.service.d && systemctl daemon-reload && "
                f"systemctl restart {SERVICE}"
            )


@contextmanager
def stopped(fleet: Fleet, victims: Sequence[str]) -> Iterator[float]:
    """SIGSTOP for the application: connections are accepted by the kernel and nothing answers."""
    try:
        yield _strike(fleet, victims, f"systemctl kill -s STOP {SERVICE}")
    finally:
        for host in _hosts(fleet, victims):
            host.run(f"systemctl kill -s CONT {SERVICE}")


def _filtered(verdict: str) -> Act:
    @contextmanager
    def act(fleet: Fleet, victims: Sequence[str]) -> Iterator[float]:
        try:
            port = fleet[victims[0]].service(SERVICE)["sidecar_port"]
            yield _strike(
                fleet,
                victims,
                "nft -f -",
                "table inet chaos {\nchain in {\ntype filter hook input priority -300\n"
                f"iifname eth0 tcp dport {port} {verdict}\n}}\n}}\n",
            )
        finally:
            for host in _hosts(fleet, victims):
                host.run("nft delete table inet chaos", check=False)

    return act


def _file(name: str, content: str) -> Act:
    """A file that makes the lab's application faulty; its health check stays content."""

    @contextmanager
    def act(fleet: Fleet, victims: Sequence[str]) -> Iterator[float]:
        path = f"/run/{SERVICE}/{name}"
        try:
            yield _strike(fleet, victims, f"echo {content} > {path}.new && mv {path}.new {path}")
        finally:
            for host in _hosts(fleet, victims):
                host.run(f"rm -f {path}")

    return act


@contextmanager
def consul_agents_killed(fleet: Fleet, victims: Sequence[str]) -> Iterator[float]:
    """The local Consul agents of the caller and of an instance."""
    with _consul_gone(fleet, (CALLER, *victims)) as began:
        yield began


@contextmanager
def servers_killed(fleet: Fleet, victims: Sequence[str]) -> Iterator[float]:
    with _consul_gone(fleet, ("consul1",)) as began:
        yield began
    eventually(lambda: fleet.consul("GET", "/v1/status/leader"), 30, "Consul leads again")


@contextmanager
def _consul_gone(fleet: Fleet, names: Sequence[str]) -> Iterator[float]:
    try:
        yield _strike(fleet, names, "systemctl kill -s KILL consul; systemctl stop consul")
    finally:
        for host in _hosts(fleet, names):
            host.run("systemctl start consul")


@contextmanager
def agents_restarted(fleet: Fleet, victims: Sequence[str]) -> Iterator[float]:
    """The caller's, then an instance's."""
    began = time.time()
    for host in _hosts(fleet, (CALLER, *victims)):
        host.run("systemctl restart fleetmesh-agent")
        host.wait_ready()
    yield began


@contextmanager
def upgraded(fleet: Fleet, victims: Sequence[str]) -> Iterator[float]:
    """Another release for the caller and for an instance, and back to the one before."""
    hosts = _hosts(fleet, (CALLER, *victims))
    before = [release_of(host) for host in hosts]
    others = [other_release(host) for host in hosts]
    began = time.time()
    try:
        for host, release in zip(hosts, others, strict=True):
            switch_release(host, release)
        yield began
    finally:
        for host, release in zip(hosts, before, strict=True):
            switch_release(host, release)


@contextmanager
def ca_rotated(fleet: Fleet, victims: Sequence[str]) -> Iterator[float]:
    """A new root; all leaves are renewed (Consul 1.8 spreads them over 30 s)."""
    mesh = [fleet[name] for name in (CALLER, *INSTANCES, "shop1")]
    before = fleet.serials(mesh)
    began = time.time()
    fleet.rotate_ca()
    eventually(
        lambda: all(before[name] != serial for name, serial in fleet.serials(mesh).items()),
        180,
        "every service has a new leaf",
        every=2,
    )
    yield began


@contextmanager
def rebooted(fleet: Fleet, victims: Sequence[str]) -> Iterator[float]:
    hosts = _hosts(fleet, victims)
    boots = [host.output(_BOOT) for host in hosts]
    began = time.time()
    for host in hosts:
        host.run("systemctl reboot", check=False, timeout=20)
    for host, boot in zip(hosts, boots, strict=True):
        eventually(partial(_booted, host, boot), 60, f"{host.name} is up again", every=0.5)
        host.wait_ready(60)
    yield began


def _booted(host: Host, before: str) -> bool:
    done = host.run(_BOOT, check=False, timeout=15)
    return done.returncode == 0 and done.stdout.strip() not in ("", before)


_BOOT = "cat /proc/sys/kernel/random/boot_id"


@contextmanager
def disk_full(fleet: Fleet, victims: Sequence[str]) -> Iterator[float]:
    """Not a byte is left where the agents of the caller and of an instance keep their state, and
    they are restarted so."""
    hosts = _hosts(fleet, (CALLER, *victims))
    began = time.time()
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
        yield began
    finally:
        for host in hosts:
            host.run(
                f"mountpoint -q {STATE} && umount -l {STATE}; rm -rf /run/chaos-state; "
                "systemctl restart fleetmesh-agent"
            )
            host.wait_ready()


@contextmanager
def out_of_files(fleet: Fleet, victims: Sequence[str]) -> Iterator[float]:
    """No process of an instance's agent may open one more file."""
    began = time.time()
    try:
        for host, pid in _processes(fleet, victims):
            host.run(f"prlimit --pid {pid} --nofile={NO_MORE}:", user="fleetmesh")
        yield began
    finally:
        for host, pid in _processes(fleet, victims):
            host.run(f"prlimit --pid {pid} --nofile=$({_HARD.format(pid=pid)}):", user="fleetmesh")


NO_MORE = 16
"""Fewer files than any of them has open."""
_HARD = "sed -n 's/^Max open files *[0-9]* *\\([0-9]*\\).*/\\1/p' /proc/{pid}/limits"


def _processes(fleet: Fleet, names: Sequence[str]) -> list[tuple[Host, str]]:
    """Of the agents on these hosts."""
    return [
        (host, pid)
        for host in _hosts(fleet, names)
        for pid in host.output("pgrep -u fleetmesh").split()
    ]


def _strike(fleet: Fleet, names: Sequence[str], command: str, stdin: str = "") -> float:
    """Run it on these hosts, one after the other; when it began on the first, by the clock that all
    of them share."""
    told = [
        host.run(f"date +%s.%N; {command}", stdin=stdin).stdout for host in _hosts(fleet, names)
    ]
    return float(told[0].split()[0])


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
