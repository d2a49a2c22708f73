"""Proof 8: rules that nobody confirms go away by themselves, and SSH never notices."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.evidence import Evidence
from tests.support.fleet import Fleet
from tests.support.hosts import Host, Session, eventually

AGENT = "/etc/fleetmesh/agent.yaml"


def rules(host: Host) -> str:
    """The agent's table as nft shows it, without counters and handles; "" when there is none."""
    listed = host.run("nft -s list table inet fleetmesh", check=False)
    return re.sub(r"packets \d+ bytes \d+", "", listed.stdout) if listed.returncode == 0 else ""


def captured(host: Host, fleet: Fleet) -> bool:
    return host.curl(fleet["api1"].url(8000), user="web").status == 200


class SshWatch:
    """An SSH session opened beforehand, that must hear from its host five times a second."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._session: Session = host.start("ticker.py", own_connection=True)
        self._session.until("tick")

    def check(self) -> float:
        """The longest silence so far, in seconds; also a new connection must succeed."""
        times = []
        while (event := self._session.until("tick"))["time"] < time.time() - 0.3:
            times.append(event["time"])
        assert self._session.running
        fresh = self._host.start("ticker.py", own_connection=True)
        fresh.until("tick")
        fresh.stop()
        return max((b - a for a, b in itertools.pairwise(times)), default=0.0)


@pytest.fixture
def watch(fleet: Fleet) -> SshWatch:
    return SshWatch(fleet["web1"])


def exclude(port: int) -> Callable[[dict[str, Any]], None]:
    def edit(document: dict[str, Any]) -> None:
        capture = document.setdefault("capture", {})
        capture["exclude_ports"] = [*capture.get("exclude_ports", []), port]

    return edit


def test_unconfirmed_rules_are_undone(fleet: Fleet, evidence: Evidence, watch: SshWatch) -> None:
    """A rule set applied with --confirm-within 5 gives way to the confirmed one after 5 s."""
    web1 = fleet["web1"]
    confirmed = rules(web1)
    assert web1.status()["capture"]["state"] == "applied"
    with web1.edited(AGENT, exclude(9999)):
        began = time.monotonic()
        web1.run("fleetmesh capture apply --confirm-within 5")
        changed = rules(web1)
        assert changed != confirmed
        assert "9999" in changed
        status = web1.status()["capture"]
        assert status["state"] == "unconfirmed"
        assert 0 < status["undo_in"] <= 5
        eventually(lambda: rules(web1) == confirmed, 10, "the confirmed rules are back")
        took = time.monotonic() - began
        assert 4 <= took <= 8
        evidence(f"undone after {took:.1f} s; longest silence of SSH {watch.check():.2f} s")
        assert captured(web1, fleet)
    eventually(lambda: web1.status()["capture"]["state"] == "applied", 5, "as before")
    assert rules(web1) == confirmed


def test_confirmed_rules_stay(fleet: Fleet, watch: SshWatch) -> None:
    """The same with a confirmation: nothing is undone."""
    web1 = fleet["web1"]
    before = rules(web1)
    with web1.edited(AGENT, exclude(9998)):
        web1.run("fleetmesh capture apply --confirm-within 4")
        web1.run("fleetmesh capture confirm")
        time.sleep(5)
        assert "9998" in rules(web1)
        assert web1.status()["capture"]["state"] == "applied"
    web1.run("fleetmesh capture apply && fleetmesh capture confirm")
    assert rules(web1) == before
    watch.check()


def test_unconfirmed_rules_are_undone_without_the_agent(fleet: Fleet, evidence: Evidence) -> None:
    """A controller killed while it waits is restarted, and still undoes in time."""
    web1 = fleet["web1"]
    confirmed = rules(web1)
    with web1.edited(AGENT, exclude(9997)):
        web1.run("fleetmesh capture apply --confirm-within 6")
        began = time.monotonic()
        assert "9997" in rules(web1)
        web1.run(["kill", "-KILL", str(web1.status()["pid"])])
        eventually(lambda: rules(web1) == confirmed, 15, "the confirmed rules are back")
        evidence(f"undone {time.monotonic() - began:.1f} s after the controller was killed")
        web1.wait_ready()
    assert rules(web1) == confirmed
    assert captured(web1, fleet)


def test_removed_and_applied_again(fleet: Fleet, watch: SshWatch) -> None:
    """`capture remove` leaves no table; `capture apply` brings the same rules back."""
    web1 = fleet["web1"]
    before = rules(web1)
    web1.run("fleetmesh capture remove")
    assert rules(web1) == ""
    assert web1.status()["capture"]["state"] == "removed"
    assert not captured(web1, fleet), "strict api answered a call in the clear"
    web1.run("fleetmesh capture apply && fleetmesh capture confirm")
    assert rules(web1) == before
    eventually(lambda: captured(web1, fleet), 3, "captured again")
    watch.check()


def test_flushed_rules_come_back(fleet: Fleet, evidence: Evidence) -> None:
    """`nft flush ruleset` by an operator is noticed, logged and mended."""
    web1 = fleet["web1"]
    before = rules(web1)
    began = time.time()
    web1.run("nft flush ruleset")
    shown = web1.run("fleetmesh capture show", check=False)
    assert shown.stdout.strip()
    eventually(lambda: rules(web1) == before, 40, "the rules are back", every=0.5)
    evidence(f"mended {time.time() - began:.0f} s after the flush")
    assert captured(web1, fleet)
    assert [e for e in web1.journal(since=began - 1) if "drift" in e["MESSAGE"].lower()]


def test_show_tells_wanted_kernel_and_difference(fleet: Fleet) -> None:
    """A rule deleted behind the agent's back is in `capture show` as a difference."""
    shop1 = fleet["shop1"]
    good = shop1.run("fleetmesh capture show", check=False)
    assert good.returncode == 0
    for name in ("cart", "orders"):
        service = shop1.service(name)
        assert str(service["outbound_port"]) in good.stdout
        assert str(service["uid"]) in good.stdout
    try:
        # The agent mends its rules now and then, and may do so in between.
        eventually(lambda: _seen_without_a_rule(shop1, good.stdout), 60, "the difference is told")
    finally:
        shop1.run("fleetmesh capture apply && fleetmesh capture confirm")
    assert shop1.run("fleetmesh capture show").stdout == good.stdout


def _seen_without_a_rule(host: Host, good: str) -> bool:
    """Whether `capture show` and `check` tell of a rule that was deleted just before."""
    handles = host.output("nft -a list table inet fleetmesh")
    rule = re.search(
        r"chain (?P<chain>\w+) \{(?:(?!\bchain\b).)*?redirect[^\n]*# handle (?P<handle>\d+)",
        handles,
        re.DOTALL,
    )
    assert rule, handles
    host.run(f"nft delete rule inet fleetmesh {rule['chain']} handle {rule['handle']}")
    shown = host.run("fleetmesh capture show", check=False).stdout
    told = re.search(r"differ|missing|^[+-]", shown, re.IGNORECASE | re.MULTILINE) is not None
    return shown != good and told and host.run("fleetmesh check", check=False).returncode != 0


def test_established_sessions_and_other_tables_are_left_alone(fleet: Fleet) -> None:
    """Applying rules touches no other table and breaks no open connection."""
    web1, api1 = fleet["web1"], fleet["api1"]
    web1.run("nft add table inet neighbour; nft add chain inet neighbour mine")
    stream = web1.start("stream.py", "websocket", api1.url(8000, "/ws"), user="web")
    stream.until("echo")
    web1.run("fleetmesh capture apply && fleetmesh capture confirm")
    until = time.time() + 0.5
    while stream.until("echo")["time"] < until:
        pass
    assert stream.running
    assert "chain mine" in web1.output("nft list table inet neighbour")
    web1.run("nft delete table inet neighbour")


def test_ssh_port_is_never_captured(fleet: Fleet) -> None:
    """A service declared on SSH's port is refused by validation, and nothing is applied."""
    web1 = fleet["web1"]
    before = rules(web1)
    path = "/etc/fleetmesh/services.d/shell.yaml"
    web1.run(f"cat > {path}", stdin="name: shell\nport: 22\n")
    try:
        reload = web1.run("fleetmesh reload", check=False)
        assert reload.returncode != 0
        assert "shell.yaml" in reload.stdout + reload.stderr
        assert rules(web1) == before
        assert captured(web1, fleet)
    finally:
        web1.run(f"rm {path} && fleetmesh reload")
