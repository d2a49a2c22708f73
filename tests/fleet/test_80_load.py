"""Proof 6: a minute of load during restarts, and nothing fails."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable

from tests.support.evidence import Evidence
from tests.support.fleet import Fleet
from tests.support.hosts import Host, eventually, ssh

SECONDS = 60


class Wrk:
    """wrk on a host, as `user`."""

    def __init__(self, host: Host, user: str, url: str, seconds: int) -> None:
        command = f"runuser -u {user} -- wrk -t1 -c16 -d{seconds}s --timeout 10s --latency {url}"
        self._process = subprocess.Popen(
            ssh(host.lab, host.name, command), stdout=subprocess.PIPE, text=True
        )

    def finish(self) -> dict[str, float]:
        """Requests, socket errors of each kind, answers other than 2xx and 3xx, p99 in ms."""
        output, _ = self._process.communicate(timeout=SECONDS + 30)
        assert self._process.returncode == 0, output
        requests = re.search(r"(\d+) requests in", output)
        assert requests, output
        errors = re.search(
            r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output
        )
        other = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
        tail = re.search(r"99%\s+([\d.]+)(us|ms|s)", output)
        assert tail, output
        scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}[tail[2]]
        kinds = ("connect", "read", "write", "timeout")
        counts = [int(one) for one in errors.groups()] if errors else [0, 0, 0, 0]
        return {
            "requests": int(requests[1]),
            **dict(zip(kinds, counts, strict=True)),
            "other_status": int(other[1]) if other else 0,
            "p99_ms": round(float(tail[1]) * scale, 1),
        }


def test_nothing_fails_in_a_minute_of_load(fleet: Fleet, evidence: Evidence) -> None:
    """Agents restarted on caller and callee, Consul restarted on both, one instance failing its
    health check: not one failed request among all."""
    web1, api1, api2 = fleet["web1"], fleet["api1"], fleet["api2"]
    began = time.monotonic()
    wrk = Wrk(web1, "web", api1.url(8000), SECONDS)
    steady = web1.start("steady.py", api1.url(8000), str(SECONDS), "4", "10", user="web")
    steady.until("open")

    def at(second: float, what: str, act: Callable[[], object]) -> None:
        time.sleep(max(0.0, began + second - time.monotonic()))
        start = time.monotonic()
        act()
        evidence(f"{start - began:4.1f} s: {what} (took {time.monotonic() - start:.1f} s)")

    def only_api1() -> bool:
        healthy = fleet.consul("GET", "/v1/health/connect/api?passing")
        return {entry["Node"]["Node"] for entry in healthy} == {"api1"}

    def sick() -> None:
        api2.run("touch /run/api/sick")
        eventually(only_api1, 20, "Consul takes api2 out", every=0.5)

    try:
        at(5, "agent restart on web1", lambda: web1.run("systemctl restart fleetmesh-agent"))
        at(14, "agent restart on api1", lambda: api1.run("systemctl restart fleetmesh-agent"))
        at(23, "Consul restart on web1", lambda: web1.run("systemctl restart consul"))
        at(30, "Consul restart on api1", lambda: api1.run("systemctl restart consul"))
        at(37, "api2 fails its health check", sick)
        out = eventually(
            lambda: (
                {web1.curl(api1.url(8000, "/probe"), user="web").instance for _ in range(4)}
                == {"api1/api"}
            ),
            15,
            "api2 gets no more requests",
        )
        assert out
        at(52, "api2 is well again", lambda: api2.run("rm /run/api/sick"))
    finally:
        api2.run("rm -f /run/api/sick")
    counts = wrk.finish()
    account = steady.finish(SECONDS)

    evidence(f"wrk, 16 connections: {counts}")
    evidence(
        f"counting client: {account['requests']} requests, statuses {account['statuses']}, "
        f"instances {account['instances']}, failed {account['failed']}, "
        f"longest {account['longest']} s"
    )
    for failure in account["failures"]:
        evidence(
            f"failed at {failure['time'] - (time.time() - (time.monotonic() - began)):.1f} s: "
            f"{failure['why']}"
        )
    assert counts["requests"] > 1000
    assert account["failed"] == 0, account["failures"]
    errors = {key: counts[key] for key in ("connect", "read", "write", "timeout", "other_status")}
    assert set(errors.values()) == {0}, errors
    assert set(account["instances"]) == {"api1/api", "api2/api"}
