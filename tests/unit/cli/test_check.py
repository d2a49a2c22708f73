"""The doctor's judgements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.cli.conftest import HOUR, Run, healthy
from tests.unit.cli.fake_agent import FakeAgent

from fleetmesh.cli import doctor
from fleetmesh.cli.findings import Finding, Level, of_status, unreachable, worst
from fleetmesh.edge.consul_probe import Probe
from fleetmesh.edge.host import Conntrack
from fleetmesh.model.problem import Problem
from fleetmesh.model.status import (
    CaptureStatus,
    ConsulStatus,
    HandshakeStatus,
    Status,
    WatchStatus,
    WorkerStatus,
)
from fleetmesh.model.traffic import Match, Route
from fleetmesh.settings import ServiceSettings, Settings


def told(findings: list[Finding]) -> list[tuple[Level, str]]:
    """What is not ok, in short."""
    return [
        (finding.level, f"{finding.subject}: {finding.message}")
        for finding in findings
        if finding.level is not Level.OK
    ]


def with_service(**changes: Any) -> Status:
    status = healthy()
    return healthy(services=(msgspec.structs.replace(status.services[0], **changes),))


def with_identity(**changes: Any) -> Status:
    identity = healthy().services[0].identity
    return with_service(identity=msgspec.structs.replace(identity, **changes))


def test_a_healthy_agent_has_nothing_told() -> None:
    assert told(of_status(healthy())) == []


@pytest.mark.parametrize(
    ("status", "level", "message"),
    [
        (
            healthy(consul=ConsulStatus("http://c", True, 400.0)),
            Level.WARNING,
            "consul: http://c last answered 6m 40s ago",
        ),
        (
            healthy(
                consul=ConsulStatus(
                    "http://c",
                    True,
                    1.0,
                    watches=(
                        WatchStatus("catalog", 100.0, 0.0),
                        WatchStatus("instances", 90.0, 61.0, "500 No cluster leader"),
                        WatchStatus("roots", 59.0, 59.0, "500 No cluster leader"),
                    ),
                )
            ),
            Level.WARNING,
            "stale: instances (1m 1s): 500 No cluster leader",
        ),
        (
            healthy(capture=CaptureStatus("applied", drift=True)),
            Level.WARNING,
            "capture: the rules in the kernel are not the wanted ones",
        ),
        (
            healthy(capture=CaptureStatus("failed", error="EPERM")),
            Level.ERROR,
            "capture: the kernel refused: EPERM",
        ),
        (
            healthy(capture=CaptureStatus("removed")),
            Level.WARNING,
            "capture: no rules: removed",
        ),
        (
            healthy(workers=(WorkerStatus(1, 6, 0, 0, 0), WorkerStatus(2, 7, 0, 0, 0))),
            Level.WARNING,
            "workers: 1 serves generation 6, not 7",
        ),
        (
            with_service(registered=False),
            Level.ERROR,
            "service cart: is not registered with Consul",
        ),
        (
            with_identity(serial=""),
            Level.ERROR,
            "service cart: has no certificate, so that it neither calls nor answers",
        ),
        (
            with_identity(workers=1),
            Level.WARNING,
            "service cart: 1 of 2 workers serve its current certificate",
        ),
        (
            with_identity(seconds_left=7 * HOUR),
            Level.WARNING,
            "service cart: its certificate has 7h 0m of 72h 0m left",
        ),
        (
            with_identity(seconds_left=3 * HOUR),
            Level.ERROR,
            "service cart: its certificate has 3h 0m of 72h 0m left",
        ),
        (
            with_identity(seconds_left=30 * HOUR, renewable=False),
            Level.WARNING,
            (
                "service cart: its certificate has 30h 0m of 72h 0m left and nobody renews it "
                "while Consul does not answer"
            ),
        ),
        (
            with_identity(seconds_left=14 * HOUR, renewable=False),
            Level.ERROR,
            (
                "service cart: its certificate has 14h 0m of 72h 0m left and nobody renews it "
                "while Consul does not answer"
            ),
        ),
        (
            with_identity(handshake=HandshakeStatus(2.0, "09", 30 * HOUR, 72 * HOUR, 31.0)),
            Level.ERROR,
            (
                "service cart: handshakes with port 21000 show certificate 09, not its own 0a, "
                "for 31s"
            ),
        ),
        (
            with_identity(handshake=HandshakeStatus(2.0, wrong_for=90.0, error="closed")),
            Level.ERROR,
            "service cart: handshakes with port 21000 fail: closed, for 1m 30s",
        ),
        (
            with_identity(handshake=HandshakeStatus(61.0, "0a", 30 * HOUR, 72 * HOUR)),
            Level.WARNING,
            "service cart: nobody has looked for 1m 1s at the certificate that it shows",
        ),
        (  # what was fetched is fresh, what peers get is old
            with_identity(handshake=HandshakeStatus(2.0, "09", 7 * HOUR, 72 * HOUR, 12.0)),
            Level.WARNING,
            "service cart: its certificate has 7h 0m of 72h 0m left",
        ),
        (
            with_identity(seconds_left=-60.0),
            Level.ERROR,
            "service cart: its certificate expired 1m 0s ago",
        ),
        (
            with_identity(seconds_left=73 * HOUR),
            Level.ERROR,
            "service cart: its certificate is valid from 1h 0m ahead",
        ),
    ],
)
def test_one_thing_is_wrong(status: Status, level: Level, message: str) -> None:
    """It alone is told."""
    assert told(of_status(status)) == [(level, message)]


def test_without_consul_there_is_one_cause() -> None:
    """What follows from it is not told as well."""
    silent = ConsulStatus("http://c", False, None, "refused")
    missing = (Problem("consul: /v1/catalog/services", "not known yet"),)
    first = healthy(consul=silent, generation=0, workers=(), problems=missing)
    assert told(of_status(first)) == [
        (Level.ERROR, "consul: http://c has not answered so far, nothing is served yet: refused"),
        (Level.ERROR, "workers: none is running"),
        (Level.WARNING, "services: cart wait for Consul"),
    ]
    gone = msgspec.structs.replace(with_service(registered=False), consul=silent)
    assert [subject for _, subject in told(of_status(gone))] == [
        "consul: http://c has not answered so far, the last state is served on: refused"
    ]


def test_a_draining_worker_may_be_behind() -> None:
    workers = (
        WorkerStatus(1, 6, 9, 0, 0, draining=True),
        WorkerStatus(2, 7, 0, 0, 0),
        WorkerStatus(3, 7, 0, 0, 0),
    )
    assert told(of_status(healthy(workers=workers))) == []


def test_an_upstream_without_a_live_endpoint() -> None:
    (api,) = healthy().upstreams
    assert unreachable([api]) == []
    target = msgspec.structs.replace(api.target, endpoints=api.target.endpoints[1:])
    (found,) = unreachable([msgspec.structs.replace(api, target=target)])
    assert found.subject == "upstream api"


def test_a_route_to_a_target_without_a_live_endpoint() -> None:
    (api,) = healthy().upstreams
    dead = msgspec.structs.replace(api.target, id="v2.api.default.dc1", endpoints=())
    routes = (Route("new", Match(path_prefix="/v2/"), dead), Route("old", Match()))
    (found,) = unreachable([msgspec.structs.replace(api, routes=routes)])
    assert found.subject == "upstream api"
    assert "v2.api.default.dc1" in found.message


def test_consul_without_an_answer() -> None:
    assert told(list(doctor.consul("http://c", "connection refused"))) == [
        (Level.ERROR, "consul: http://c does not answer: connection refused")
    ]


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        (Probe("10.0.0.1:8300", "1.8.7", False, None, 0.2), []),
        (Probe("10.0.0.1:8300", "", False, True, -4.9), []),
        (
            Probe("", "1.8.7", False, None, 0.0),
            [(Level.ERROR, "consul: its cluster has no leader")],
        ),
        (
            Probe("10.0.0.1:8300", "1.8.7", False, False, 0.0),
            [(Level.ERROR, "token: Consul does not accept it")],
        ),
        (
            Probe("10.0.0.1:8300", "1.8.7", False, None, 90.0),
            [(Level.WARNING, "clock: 90 s behind Consul's")],
        ),
        (
            Probe("10.0.0.1:8300", "1.8.7", False, None, -90.0),
            [(Level.WARNING, "clock: 90 s ahead of Consul's")],
        ),
    ],
)
def test_consul_answers(probe: Probe, expected: list[tuple[Level, str]]) -> None:
    assert told(list(doctor.consul("http://c", probe))) == expected


SETTINGS = Settings(address="192.0.2.5")
OPEN = {15006: {1}, 15020: {2}, 15100: {3, 4}, 21000: {5}}


@pytest.mark.parametrize(
    ("listeners", "ours", "expected"),
    [
        (OPEN, {1, 2, 3, 4, 5}, []),
        (OPEN, None, [(Level.SKIPPED, "sockets: whose they are, only root can see")]),
        (
            {**OPEN, 15100: {3, 99}},
            {1, 2, 3, 4, 5},
            [(Level.ERROR, "sockets: 15100 (outbound of cart) is open in another process")],
        ),
        (
            {**OPEN, 21000: set()},
            {1, 2, 3, 4, 5},
            [(Level.ERROR, "sockets: nobody listens on 21000 (sidecar of cart)")],
        ),
    ],
)
def test_sockets(
    listeners: dict[int, set[int]], ours: set[int] | None, expected: list[tuple[Level, str]]
) -> None:
    """Each port is open, and by the agent."""
    assert told(list(doctor.sockets(SETTINGS, healthy(), listeners, ours))) == expected


def test_a_port_in_the_way_of_an_agent_that_is_down() -> None:
    assert told(list(doctor.ports_free(SETTINGS, {15006: {1}, 80: {2}}))) == [
        (Level.WARNING, "ports: 15006 (ports.plain) is in use while no agent answers")
    ]


@pytest.mark.parametrize(
    ("count", "level"), [(10, Level.OK), (75, Level.WARNING), (95, Level.ERROR)]
)
def test_room_for_connections(count: int, level: Level) -> None:
    assert doctor.conntrack(Conntrack(count, 100)).level is level


def test_other_findings() -> None:
    assert doctor.files(1024).level is Level.WARNING
    assert doctor.files(65536).level is Level.OK
    assert doctor.files(None).level is Level.SKIPPED
    assert doctor.rules(("- a rule",)).level is Level.ERROR
    assert doctor.rules(()).level is Level.OK
    assert doctor.foreign_chains(("ip docker/OUTPUT hook output priority -100",)).level is (
        Level.WARNING
    )
    assert doctor.foreign_chains(()).level is Level.OK


def test_an_application_that_does_not_listen() -> None:
    """One in a container of its own is not ours to see."""
    here = Settings("192.0.2.5", services=(ServiceSettings("cart", 7001),))
    away = Settings("192.0.2.5", services=(ServiceSettings("cart", 7001, address="10.88.0.2"),))
    assert told(list(doctor.applications(here, healthy(), {}))) == [
        (Level.WARNING, "service cart: its application does not listen on 7001")
    ]
    assert told(list(doctor.applications(here, healthy(), {7001: {1}}))) == []
    assert told(list(doctor.applications(away, healthy(), {}))) == []


def test_a_token_that_cannot_be_read(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(f"address: 192.0.2.5\nconsul: {{token_file: {tmp_path}/token}}\n")
    (tmp_path / "none.d").mkdir()
    result = run("check", "--agent", str(file), "--services", str(tmp_path / "none.d"))
    assert f"token: {tmp_path}/token cannot be read: No such file or directory" in result.stdout


def test_the_worst_decides() -> None:
    ok, bad = Finding(Level.OK, "", ""), Finding(Level.WARNING, "", "")
    assert worst([]) is Level.OK
    assert worst([ok, Finding(Level.SKIPPED, "", "")]) is Level.SKIPPED
    assert worst([bad, ok]) is Level.WARNING
    assert worst([bad, Finding(Level.ERROR, "", ""), ok]) is Level.ERROR


def test_a_host_with_nothing_on_it(run: Run, tmp_path: Path) -> None:
    """Errors in words, remedies beside them, exit code 2."""
    files = ["--agent", str(tmp_path / "none.yaml"), "--services", str(tmp_path / "none.d")]
    result = run("check", *files)
    assert result.exit_code == 2
    assert f"error     settings: {tmp_path / 'none.yaml'}: does not exist" in result.stdout
    assert "→ systemctl status fleetmesh-agent" in result.stdout


def test_findings_as_json(agent: FakeAgent, run: Run, tmp_path: Path) -> None:
    """The difference of the rules comes from the agent; settings are those of the files."""
    (tmp_path / "agent.yaml").write_text("address: 192.0.2.5\nconsul: {address: 'http://[::1]:1'}")
    agent.answers["GET", "/v1/capture"] = (200, {"difference": ["- a rule"]})
    files = ["--agent", str(tmp_path / "agent.yaml"), "--services", str(tmp_path / "none.d")]
    (tmp_path / "none.d").mkdir()
    result = run("check", "--json", *files)
    found = {
        (finding["subject"], finding["level"]): finding["message"]
        for finding in json.loads(result.stdout)["findings"]
    }
    assert found["settings", "ok"] == "valid, 0 services declared"
    assert found["agent", "ok"] == "fleetmesh 0.1.0 answers, pid 4711"
    assert found["rules", "error"] == "the kernel's are not the wanted ones"
    assert found["service cart", "ok"] == "its certificate has 50h 0m of 72h 0m left"
    assert found["consul", "error"].startswith("http://[::1]:1 does not answer: ")
    assert result.exit_code == 2
