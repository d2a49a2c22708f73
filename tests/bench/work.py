"""The work: each row of the report is one kind, done by one contender for a few seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import h2load
from tests.bench.contenders import Contender
from tests.bench.install import environment, path
from tests.bench.openloop import CONNECTIONS
from tests.bench.running import (
    FailedError,
    cpu_seconds,
    favoured,
    machine_seconds,
    own_seconds,
    pss,
)

LUA = Path(__file__).with_name("requests.lua")
MARGIN = 40.0
"""Seconds beyond its own time until a load generator is given up."""
RATE = 1000
BURST = 50
IDLE_CONNECTIONS = 1000
IDLE_RATE = 100

Figures = dict[str, float]
"""By metric: `cpu` in CPU-seconds per unit (request, connection, GB), others in their own."""


@dataclass(frozen=True)
class Work:
    """`unit` is what `cpu` is divided by; `seconds` in a full run."""

    name: str
    title: str
    unit: str
    seconds: float
    do: Callable[[Contender, float], Figures]
    needs_proxy: bool = True


@contextmanager
def measured(contender: Contender, into: Figures) -> Iterator[None]:
    """Adds the CPU-seconds that the contender spent, the most memory that it had, and how many
    cores others kept busy meanwhile."""
    pids = contender.pids
    before = cpu_seconds(pids)
    others, begin = machine_seconds() - own_seconds(), time.monotonic()
    samples: list[int] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.7):
            samples.append(pss(pids))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    others = machine_seconds() - own_seconds() - others
    into["others"] = max(0.0, others / (time.monotonic() - begin))
    into["cpu_seconds"] = cpu_seconds(pids) - before
    into["pss"] = max([*samples, pss(pids)])


def wrk(kind: str, connections: int, service: str = "api") -> Callable[[Contender, float], Figures]:
    def do(contender: Contender, seconds: float) -> Figures:
        figures: Figures = {}
        command = [path("wrk"), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        command += ["--timeout", "10s", "-s", str(LUA)]
        command += [f"http://127.0.0.1:{contender.entry[service]}", "--", kind]
        with measured(contender, figures):
            output = _output(command, seconds)
        result = json.loads(output.rpartition("RESULT ")[2])
        if not result["requests"]:
            raise FailedError(f"{contender.name}: {kind}: nothing was answered")
        figures["errors"] = result["errors"]
        figures["rps"] = result["requests"] / result["seconds"]
        figures["cpu"] = figures["cpu_seconds"] / result["requests"]
        return figures

    return do


def paced(rate: int, connections: int = CONNECTIONS) -> Callable[[Contender, float], Figures]:
    def do(contender: Contender, seconds: float) -> Figures:
        figures: Figures = {}
        command = [sys.executable, "-m", "tests.bench.openloop", str(contender.entry["api"])]
        command += [str(rate), str(seconds), str(connections)]
        with favoured(), measured(contender, figures):
            result = json.loads(_output(command, seconds + connections / 100))
        if not result["requests"]:
            raise FailedError(f"{contender.name}: {rate} requests/s: nothing was answered")
        figures |= result
        figures["cpu"] = figures["cpu_seconds"] / result["sent"]
        return figures

    return do


def bursts(rate: int, burst: int) -> Callable[[Contender, float], Figures]:
    def do(contender: Contender, seconds: float) -> Figures:
        figures: Figures = {}
        with favoured(), measured(contender, figures):
            figures |= h2load.ask(
                contender, rate, burst, seconds, lambda command: _output(command, seconds)
            )
        # What warmed it up costs the same, but is not in its log.
        asked = figures["requests"] + h2load.WARM_UP * rate
        figures["cpu"] = figures["cpu_seconds"] / asked
        return figures

    return do


def bulk(contender: Contender, seconds: float) -> Figures:
    """One stream there, one back."""
    figures: Figures = {}
    received = 0
    part = max(1, round(seconds / 2))
    with measured(contender, figures):
        for direction in ([], ["--reverse"]):
            command = [path("iperf3"), "--client", "127.0.0.1", "--json", *direction]
            command += ["--port", str(contender.entry["bulk"]), "--time", str(part)]
            result = json.loads(_output(command, seconds))
            if "error" in result:
                raise FailedError(f"{contender.name}: iperf3: {result['error']}")
            received += result["end"]["sum_received"]["bytes"]
    figures["errors"] = 0
    figures["gbit_per_s"] = received * 8 / 1e9 / (2 * part)
    figures["cpu"] = figures["cpu_seconds"] / (received / 1e9)
    return figures


WORKS = (
    Work("http_small", "HTTP, 8 headers, 96 bytes back", "request", 5, wrk("small", 32), False),
    Work("http_4k", "HTTP, 12 headers, 4 KiB back", "request", 5, wrk("4k", 32)),
    Work("http_64k", "HTTP, 64 KiB there and back", "request", 4, wrk("64k", 16)),
    Work("http_paced", f"HTTP, {RATE} requests/s, open loop", "request", 6, paced(RATE), False),
    Work(
        "http_bursts",
        f"HTTP, {RATE} requests/s in bursts of {BURST}, h2load",
        "request",
        5,
        bursts(RATE, BURST),
        False,
    ),
    Work("tcp_bulk", "TCP, one stream, each way", "GB", 4, bulk),
    Work(
        "new_connections",
        "TCP, a new connection of the caller for each request",
        "connection",
        4,
        wrk("close", 16, "conn"),
    ),
    Work(
        "idle_connections",
        f"{IDLE_CONNECTIONS} connections, {IDLE_RATE} requests/s over all of them",
        "request",
        4,
        paced(IDLE_RATE, IDLE_CONNECTIONS),
    ),
)


def _output(command: list[str], seconds: float) -> str:
    """Raises FailedError."""
    try:
        done = subprocess.run(
            ["setpriv", "--pdeathsig", "TERM", *command],
            capture_output=True,
            text=True,
            timeout=seconds + MARGIN,
            check=False,
            env={**os.environ, **environment(), "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    except subprocess.TimeoutExpired:
        raise FailedError(f"{command[0]} did not end") from None
    if done.returncode:
        raise FailedError(f"{' '.join(command)}: {done.stdout[-300:]}{done.stderr[-300:]}")
    return done.stdout
