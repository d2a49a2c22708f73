"""The agent restarted and upgraded again and again, and not one request of all may fail."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from tests.chaos.faults import CALLER, INSTANCES
from tests.chaos.load import API, Load
from tests.chaos.measure import Request, Span
from tests.chaos.releases import other_release, switch_release
from tests.support.fleet import Fleet
from tests.support.hosts import Host

REQUESTS = 2000
"""For every restart: 100 of them make 200,000."""
LONG = 3.0
"""Seconds of a download and of a WebSocket; less than `drain_timeout`."""


@dataclass
class Account:
    """`longest` in milliseconds, `ready` in seconds from a restart's begin."""

    restarts: int = 0
    upgrades: int = 0
    requests: int = 0
    failed: int = 0
    p50: float = 0.0
    p99: float = 0.0
    longest: float = 0.0
    ready: float = 0.0
    streams: dict[str, int] = field(default_factory=dict)
    crossed: int = 0
    failures: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, object]:
        return asdict(self)

    def text(self) -> str:
        head = (
            f"{self.restarts} restarts and {self.upgrades} upgrades or rollbacks, "
            f"{self.requests} requests, {self.failed} failed, p50 {self.p50:.1f} ms, "
            f"p99 {self.p99:.0f} ms, longest {self.longest:.0f} ms; "
            f"{self.streams} of {LONG:g} s each, {self.crossed} of them across a restart; "
            f"ready after {self.ready:.1f} s on average"
        )
        return "\n".join([head, *self.failures[:30]])


def run(
    fleet: Fleet,
    count: int,
    rate: float,
    say: Callable[[str], None] = lambda line: None,
    requests: int = REQUESTS,
) -> Account:
    """`count` times, each with at least `requests` requests, on the caller and on an instance in
    turn; every second time it is another release that starts. Raises AssertionError when an agent
    does not come back."""
    account = Account()
    moments: list[tuple[float, float, str]] = []
    for name in (CALLER, *INSTANCES):
        other_release(fleet[name])
    period = requests / rate
    load = Load(fleet, rate, 24 * 3600.0)
    streams = fleet[CALLER].start("crossing.py", API, str(LONG), user="web")
    streams.until("open")
    try:
        time.sleep(2.0)
        start = time.monotonic()
        for number in range(count):
            name = CALLER if number % 2 == 0 else INSTANCES[number // 2 % len(INSTANCES)]
            began = time.time()
            what = _restart(fleet[name], upgrade=(number // 2 + number // 8) % 2 == 1)
            account.restarts += what == "restart"
            account.upgrades += what != "restart"
            moments.append((began, time.time(), f"{what} on {name}"))
            failed = sum(one.failed for one in tuple(load.requests))
            if number % 10 == 9 or failed != account.failed:
                say(f"{number + 1}: {len(load.requests)} requests, {failed} failed")
                for one in [one for one in tuple(load.requests) if one.failed][account.failed :][
                    :5
                ]:
                    say(f"    {_told(one, moments)}")
            account.failed = failed
            load.check()
            time.sleep(max(0.0, start + (number + 1) * period - time.monotonic()))
    finally:
        streams.close_input()
        account.requests = load.finish()
    account.ready = sum(ended - began for began, ended, _ in moments) / max(count, 1)
    _settle(account, load, moments)
    while (event := streams.next(30))["event"] != "done":
        kind, took = event["event"], event["took"]
        account.streams[kind] = account.streams.get(kind, 0) + 1
        account.crossed += any(event["began"] < at < event["began"] + took for at, _, _ in moments)
        if event["why"]:
            account.failed += 1
            when = _after(moments, event["began"])
            account.failures.append(f"{kind} begun {when}: {event['why']} after {took} s")
    return account


def _restart(host: Host, upgrade: bool) -> str:
    if upgrade:
        switch_release(host, other_release(host))
        return "upgrade"
    host.run("systemctl restart fleetmesh-agent")
    host.wait_ready()
    return "restart"


def _settle(account: Account, load: Load, moments: list[tuple[float, float, str]]) -> None:
    span = Span.of(load.requests, 0.0, float("inf"))
    account.failed = len(span.failures)
    account.p50, account.p99 = span.percentile(0.5), span.percentile(0.99)
    account.longest = max(one.ms for one in span.requests)
    account.failures = [_told(one, moments) for one in span.failures]


def _told(one: Request, moments: list[tuple[float, float, str]]) -> str:
    return f"due {_after(moments, one.due)}, {one.ms:.0f} ms: {one.status} {one.said}"


def _after(moments: list[tuple[float, float, str]], at: float) -> str:
    before = [(at - began, what) for began, _, what in moments if began <= at]
    return f"{before[-1][0]:.2f} s after {before[-1][1]}" if before else "before the first restart"
