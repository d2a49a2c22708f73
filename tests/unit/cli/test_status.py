"""What somebody on call reads."""

from __future__ import annotations

import datetime
import io
import re
from pathlib import Path

import msgspec
import pytest
from tests.unit.cli.conftest import TRUST_DOMAIN, Run, healthy
from tests.unit.cli.fake_agent import FakeAgent

from fleetmesh.cli import render
from fleetmesh.model.identity import SpiffeId
from fleetmesh.model.problem import Problem
from fleetmesh.model.report import Ejected
from fleetmesh.model.snapshot import LocalService, Mode, Snapshot
from fleetmesh.model.status import (
    CaptureStatus,
    ConsulStatus,
    HandshakeStatus,
    Status,
    WatchStatus,
)
from fleetmesh.model.traffic import Protocol
from fleetmesh.process.snapshot_file import SnapshotFile

EXPECTED = """\
fleetmesh 0.1.0 on shop1 (dc1)
  agent         pid 4711, up 26h 3m
  snapshot      generation 7, digest 0123456789abcdef
  trust domain  11111111-2222-3333-4444-555555555555.consul
  consul        reachable at http://127.0.0.1:8500, last answer 2.5s ago
  capture       applied, 14 rules
  kernel TLS    no (the kernel has no module tls loaded)

Services
  service  port  protocol  mode    user         outbound  sidecar  consul
  cart     7001  http      strict  cart (1001)  15100     21000    registered

Identities
  service  certificate left  workers  handshake           SPIFFE ID
  cart     50h 0m of 72h 0m  2/2      the same, 4.0s ago  \
spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/cart

Intentions
  service  callers
  cart     allow web => cart, deny * => cart
  others: denied by default

Upstreams
  service  protocol  endpoint                address                          health    \
weight  meta
  api      http      api1/api-sidecar-proxy  10.77.0.3:21000 [fd00::3]:21000  passing   \
1       v=1
                     api2/api-sidecar-proxy  10.77.0.4:21000                  critical  1

Consul
  what       last answer  stale  error
  catalog    2.5s ago     no
  leaf:cart  3m 20s ago   no

Workers
  pid   generation  connections  memory  restarts
  4712  7           12           40 MiB  0
  4713  7           3            41 MiB  0
"""


def test_a_healthy_host(agent: FakeAgent, run: Run) -> None:
    """Plain text in a pipe, nothing to complain of at the top."""
    result = run("status")
    assert result.stdout == EXPECTED
    assert (result.exit_code, result.stderr) == (0, "")


def test_what_is_wrong_stands_at_the_top(agent: FakeAgent, run: Run) -> None:
    sick = healthy(
        problems=(Problem("/etc/fleetmesh/agent.yaml:3: workerz", "is not known", "Remove it"),),
        consul=ConsulStatus("http://127.0.0.1:8500", False, 75.0, "connection refused"),
        capture=CaptureStatus("unconfirmed", rules=14, undo_in=42.9),
        workers=(),
        upstreams=(),
    )
    agent.answers["GET", "/v1/status"] = (200, msgspec.to_builtins(sick))
    lines = run("status").stdout.splitlines()
    assert "  consul        NOT REACHABLE at http://127.0.0.1:8500, last answer 1m 15s ago" in lines
    assert lines[7 : lines.index("Services")] == [
        "error     configuration: /etc/fleetmesh/agent.yaml:3: workerz: is not known",
        "          → Remove it",
        (
            "warning   consul: http://127.0.0.1:8500 last answered 1m 15s ago, "
            "the last state is served on: connection refused"
        ),
        "          → Look at the local Consul agent: systemctl status consul",
        "warning   capture: the rules undo themselves in 42s",
        "          → fleetmesh capture confirm",
        "error     workers: none is running",
        "          → journalctl -u fleetmesh-agent tells why",
        "",
    ]


def test_what_is_stale_and_since_when(
    agent: FakeAgent, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1_800_000_000.0)
    watches = (
        WatchStatus("instances", 75.0, 75.0, "connection refused"),
        WatchStatus("roots", None, 0.0),
    )
    cut = healthy(consul=ConsulStatus("http://127.0.0.1:8500", False, 75.0, "refused", watches))
    agent.answers["GET", "/v1/status"] = (200, msgspec.to_builtins(cut))
    lines = run("status").stdout.splitlines()
    at = datetime.datetime.fromtimestamp(1_800_000_000 - 75).astimezone()
    begin = lines.index("Consul")
    stale = f"1m 15s, since {at:%Y-%m-%d %H:%M:%S}"
    assert [re.split(" {2,}", line.strip()) for line in lines[begin + 2 : begin + 4]] == [
        ["instances", "1m 15s ago", stale, "connection refused"],
        ["roots", "never", "no"],
    ]


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        (None, "not seen yet"),
        (HandshakeStatus(3.0, "09", 10.0, 100.0, wrong_for=20.0), "another one for 20s"),
        (HandshakeStatus(3.0, wrong_for=45.0, error="closed"), "fails for 45s"),
    ],
)
def test_what_peers_get_is_not_what_was_fetched(
    agent: FakeAgent, run: Run, shown: HandshakeStatus | None, told: str
) -> None:
    (cart,) = healthy().services
    identity = msgspec.structs.replace(cart.identity, handshake=shown)
    sick = healthy(services=(msgspec.structs.replace(cart, identity=identity),))
    agent.answers["GET", "/v1/status"] = (200, msgspec.to_builtins(sick))
    lines = run("status").stdout.splitlines()
    assert told in lines[lines.index("Identities") + 2]


def test_an_agent_that_knows_nothing_yet(agent: FakeAgent, run: Run) -> None:
    """Started a moment ago, Consul silent: no empty tables, no traceback."""
    young = healthy(
        node="",
        datacenter="",
        trust_domain="",
        generation=0,
        digest="",
        consul=ConsulStatus("http://127.0.0.1:8500", False, None),
        services=(),
        upstreams=(),
    )
    agent.answers["GET", "/v1/status"] = (200, msgspec.to_builtins(young))
    result = run("status")
    assert result.exit_code == 0
    for line in (
        "fleetmesh 0.1.0 on this host (datacenter not known yet)",
        "  none declared",
        "  none known",
    ):
        assert line in result.stdout.splitlines()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_terminal_of_any_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Colours, every value readable, no line longer than the terminal."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm-256color")
    out = Terminal()
    render.status(healthy(), out)
    assert "\x1b[" in out.getvalue()
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()
    assert max(map(len, lines)) <= width
    words = "".join("".join(lines).split())
    for value in ("4712", "10.77.0.3:21000", "[fd00::3]:21000", "critical", "/ns/default/dc/dc1"):
        assert value in words


def test_json_is_the_agents_own(agent: FakeAgent, run: Run) -> None:
    result = run("status", "--json")
    assert msgspec.json.decode(result.stdout, type=Status) == healthy()


def test_the_snapshot_is_exported(agent: FakeAgent, run: Run, tmp_path: Path) -> None:
    """As a data-plane file: to a file, whole or not at all, or to standard output."""
    spiffe_id = SpiffeId(TRUST_DOMAIN, "dc1", "cart")
    cart = LocalService("cart", "cart", "127.0.0.1", 7001, Protocol.HTTP, Mode.STRICT, spiffe_id)
    snapshot = Snapshot(TRUST_DOMAIN, "dc1", "shop1", (), (cart,), healthy().upstreams)
    agent.answers["GET", "/v1/snapshot"] = (200, msgspec.to_builtins(snapshot))
    target = tmp_path / "snapshot.json"
    assert run("status", "--export", str(target)).stdout == ""
    assert [path.name for path in tmp_path.glob("*snapshot*")] == ["snapshot.json"]
    text = target.read_text()
    assert run("status", "--export", "-").stdout == text
    file = msgspec.json.decode(text, type=SnapshotFile)
    assert (file.node, file.services, file.upstreams) == ("shop1", (cart,), snapshot.upstreams)
    assert [
        (entry.kind, entry.service, entry.upstream, entry.port) for entry in file.listeners
    ] == [
        ("inbound", "cart", "", 0),
        ("outbound", "cart", "api", 0),
    ]


def test_an_agent_of_another_version(agent: FakeAgent, run: Run) -> None:
    agent.answers["GET", "/v1/snapshot"] = (200, {"node": "shop1"})
    result = run("status", "--export", "-")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "another version" in result.stderr


@pytest.mark.parametrize("verb", ["status", "reload"])
def test_no_agent_answers(run: Run, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 3 comes from main(); here the one exception that it maps."""
    result = run(verb)
    assert type(result.exception).__name__ == "AgentUnreachableError"
    assert str(result.exception).endswith("admin.sock: no such socket")


def test_an_endpoint_that_workers_leave_out_is_told() -> None:
    out = io.StringIO()
    endpoint = healthy().upstreams[0].target.endpoints[0]
    for workers, text in ((1, "ejected by 1 worker (5xx)"), (2, "ejected by 2 workers (5xx)")):
        ejected = (Ejected("api", endpoint.id, "5xx", workers),)
        render.status(msgspec.structs.replace(healthy(), ejected=ejected), out)
        assert f"passing, {text}" in out.getvalue()
    assert out.getvalue().count("ejected") == 2
