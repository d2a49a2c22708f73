"""The files of one host, read together."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetmesh.model.problem import Problem
from fleetmesh.model.snapshot import Mode
from fleetmesh.model.traffic import Protocol
from fleetmesh.settings import OnStop, ServiceSettings, Settings
from fleetmesh.settings.load import list_dir, load, read_files
from fleetmesh.settings.rules import ResolveUid


class Host:
    """The two places that settings stand in."""

    def __init__(self, root: Path) -> None:
        self.agent = root / "agent.yaml"
        self.services = root / "services.d"
        self.services.mkdir()
        self.agent.write_text("address: 192.0.2.5\n")

    def declare(self, file: str, text: str) -> Path:
        path = self.services / file
        path.write_text(text)
        return path

    def load(self, resolve_uid: ResolveUid | None = None) -> Settings | list[Problem]:
        return load(self.agent, self.services, resolve_uid)

    def settings(self) -> Settings:
        found = self.load()
        assert isinstance(found, Settings), found
        return found

    def problems(self, resolve_uid: ResolveUid | None = None) -> list[str]:
        found = self.load(resolve_uid)
        assert isinstance(found, list)
        return [str(problem).replace(f"{self.services}/", "") for problem in found]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_full_host(host: Host) -> None:
    """Every way to write a value arrives in the one form that the program uses."""
    host.agent.write_text(
        """
address: 192.0.2.5
address6: 2001:DB8:0::5
workers: 2
on_stop: closed
drain_timeout: 1m30s
consul: {address: "http://127.0.0.1:8500/"}
capture: {exclude_cidrs: [10.0.0.0/8, "2001:db8::/32"], confirm_timeout: 30}
ports: {outbound: [16000, 16010]}
http: {request_timeout: 250ms}
"""
    )
    host.declare(
        "cart.yaml",
        """
name: cart
port: 7001
id: cart-1
user: cart
protocol: http
mode: permissive
on_stop: open
tags: [blue]
meta: {version: "1.10"}
upstreams: [api]
weight: 3
checks:
  - {name: alive, http: "http://127.0.0.1:7001/health", interval: 1m30s, timeout: 1500ms}
  - {ID: own, TCP: "[::1]:7001", Interval: 5, TLSSkipVerify: true}
  - {http: "http://127.0.0.1:7001/", interval: 5s, header: {host: cart, x-a: [b, c]}}
  - {script_args: [/bin/true], interval: 10s}
  - {alias_service: api, alias_node: api1}
""",
    )
    settings = host.settings()
    assert settings.address6 == "2001:db8::5"
    assert settings.drain_timeout == 90.0
    assert settings.consul.address == "http://127.0.0.1:8500"
    assert settings.capture.exclude_cidrs == ("10.0.0.0/8", "2001:db8::/32")
    assert settings.capture.confirm_timeout == 30.0
    assert settings.ports.outbound == (16000, 16010)
    assert settings.http.request_timeout == 0.25
    (cart,) = settings.services
    assert (cart.service_id, cart.sidecar_id) == ("cart-1", "cart-1-sidecar-proxy")
    assert (cart.protocol, cart.mode) == (Protocol.HTTP, Mode.PERMISSIVE)
    assert settings.on_stop_of(cart) is OnStop.OPEN
    assert cart.file == str(host.services / "cart.yaml")
    assert cart.checks == (
        {
            "Name": "alive",
            "HTTP": "http://127.0.0.1:7001/health",
            "Interval": "90s",
            "Timeout": "1500ms",
        },
        {"CheckID": "own", "TCP": "[::1]:7001", "Interval": "5s", "TLSSkipVerify": True},
        {
            "HTTP": "http://127.0.0.1:7001/",
            "Interval": "5s",
            "Header": {"host": ["cart"], "x-a": ["b", "c"]},
        },
        {"Args": ["/bin/true"], "Interval": "10s"},
        {"AliasService": "api", "AliasNode": "api1"},
    )


def test_a_missing_directory_is_not_an_empty_one(host: Host) -> None:
    """A reload that took it for one would deregister every service."""
    assert host.settings().services == ()
    host.services.rmdir()
    (found,) = host.problems()
    assert found.startswith(f"{host.services}: does not exist")


def test_a_service_on_the_ssh_port_is_told_without_the_agents_file(host: Host) -> None:
    host.declare("a.yaml", "name: a\nport: 22\n")
    (found,) = read_files(None, [host.services / "a.yaml"]).problems
    assert found.rule == "22 is an SSH port (capture.ssh_ports)"


def test_every_problem_of_every_file_is_told(host: Host) -> None:
    """Files by name, problems by line; none stops the next."""
    host.agent.write_text("workers: -1\nlog_level: loud\n")
    host.declare("b.yaml", "name: b\nport: 0\nmode: open\n")
    host.declare("a.yaml", "{")
    found = host.problems()
    assert [line.split(":")[0].rpartition("/")[2] for line in found] == [
        "a.yaml",
        *["agent.yaml"] * 3,
        *["b.yaml"] * 2,
    ]


def test_files_that_would_not_be_read(host: Host) -> None:
    """A .yml is told, an editor's backup and a hidden file are nobody's business."""
    host.declare("web.yml", "name: web\nport: 80\n")
    host.declare("web.yaml~", "{")
    host.declare(".web.yaml", "{")
    assert host.problems() == ["web.yml: ends in .yml and would not be read. Rename it to .yaml"]


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    (found,) = list_dir(tmp_path / "nowhere").problems
    assert str(found).startswith(f"{tmp_path / 'nowhere'}: does not exist. Name a directory")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            "name: a\nport: 80",
            "name: a\nport: 81",
            '1: name: service "a" is declared in 1.yaml already. Keep one file per service',
        ),
        (
            "name: a\nport: 80\nid: x",
            "name: b\nport: 81\nid: x",
            '3: id: ID "x" is taken by 1.yaml. Give one of the two another id',
        ),
        (
            "name: a\nport: 80\nid: x",
            "name: b\nport: 81\nid: x-sidecar-proxy",
            '3: id: ID "x-sidecar-proxy" is taken by 1.yaml. Give one of the two another id',
        ),
        (
            "name: a\nport: 80\nchecks: [{check_id: x, ttl: 5s}]",
            "name: b\nport: 81\nchecks: [{ttl: 5s}, {CheckID: x, ttl: 9s}]",
            (
                '3: checks[1]: check ID "x" is taken by 1.yaml. '
                "Give one of the two another check_id, or none"
            ),
        ),
        (
            "name: a\nport: 80",
            "name: b\nport: 80",
            "2: port: 80 is taken by 1.yaml. Choose another port",
        ),
        (
            "name: a\nport: 80\nsidecar_port: 21000",
            "name: b\nport: 81\nsidecar_port: 21000",
            "3: sidecar_port: 21000 is taken by 1.yaml. Choose another port",
        ),
        (
            "name: a\nport: 80",
            "name: b\nport: 81\nsidecar_port: 80",
            "3: sidecar_port: 80 is taken by 1.yaml. Choose another port",
        ),
        (
            "name: a\nport: 80\nuser: app",
            "name: b\nport: 81\nuser: app",
            (
                '3: user: user "app" is the user of the service in 1.yaml too. Give each service a '
                "user of its own: the user decides whose identity a connection has"
            ),
        ),
        (
            "name: a\nport: 80",
            "name: b\nport: 22",
            "2: port: 22 is an SSH port (capture.ssh_ports). Choose another port",
        ),
        (
            "name: a\nport: 80",
            "name: b\nport: 8500",
            "2: port: 8500 is the port of consul.address. Choose another port",
        ),
        (
            "name: a\nport: 80",
            "name: b\nport: 15006",
            "2: port: 15006 is the port of ports.plain. Choose another port",
        ),
        (
            "name: a\nport: 80",
            "name: b\nport: 21000",
            (
                "2: port: 21000 lies in ports.sidecar (21000 to 21255). "
                "Choose another port, or move ports.sidecar in agent.yaml"
            ),
        ),
        (
            "name: a\nport: 80",
            "name: b\nport: 81\nsidecar_port: 15100",
            (
                "3: sidecar_port: 15100 lies in ports.outbound (15100 to 15355). "
                "Choose another port, or move ports.outbound in agent.yaml"
            ),
        ),
    ],
)
def test_two_files_that_contradict(host: Host, first: str, second: str, message: str) -> None:
    """The second file is told, once, and names the first."""
    host.declare("1.yaml", first)
    host.declare("2.yaml", second)
    (found,) = host.problems()
    assert found == f"2.yaml:{message}"


def test_a_range_that_is_too_small(host: Host) -> None:
    """Who comes last finds none left; explicit ports count, services that call nobody do not."""
    host.agent.write_text("address: 192.0.2.5\nports: {outbound: [16000, 16001]}\n")
    host.declare("1.yaml", "name: a\nport: 80\nuser: a\noutbound_port: 16000\n")
    host.declare("2.yaml", "name: b\nport: 81\nuser: b\n")
    host.declare("3.yaml", "name: c\nport: 82\n")
    host.settings()
    host.declare("4.yaml", "name: d\nport: 83\nuser: d\n")
    assert host.problems() == [
        (
            "4.yaml:1: outbound_port: finds no free port in ports.outbound (16000 to 16001). "
            "Widen ports.outbound in agent.yaml"
        )
    ]


UIDS = {"fleetmesh": 990, "app": 1001, "alias-of-app": 1001, "toor": 0, "mesh2": 990}


def _uid(service: ServiceSettings) -> int | str | None:
    if service.user is None:
        return None
    return UIDS.get(service.user, f'this host has no user "{service.user}"')


@pytest.mark.parametrize(
    ("user", "message"),
    [
        (
            "ghost",
            (
                'this host has no user "ghost". '
                "Create the user first, or name the one that runs the service"
            ),
        ),
        ("toor", "resolves to root. Run the service under a user of its own"),
        ("mesh2", "resolves to fleetmesh. Run the service under a user of its own"),
    ],
)
def test_users_that_cannot_be(host: Host, user: str, message: str) -> None:
    host.declare("a.yaml", f"name: a\nport: 80\nuser: {user}\n")
    assert host.problems(_uid) == [f"a.yaml:3: user: {message}"]


def test_two_names_of_one_user(host: Host) -> None:
    """The uid decides, however it is called."""
    host.declare("a.yaml", "name: a\nport: 80\nuser: app\n")
    host.declare("b.yaml", "name: b\nport: 81\nuser: alias-of-app\n")
    (found,) = host.problems(_uid)
    assert found.startswith("b.yaml:3: user: uid 1001 is the user of the service in a.yaml too.")


def test_a_directory_that_may_not_be_read_is_a_problem(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no reason to believe that no service is declared, and no traceback."""

    def refuse(path: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert host.problems() == [
        f"{host.services}: cannot be read: Permission denied. Run it as root"
    ]
