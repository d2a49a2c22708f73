"""fleetmesh beside Envoy: `python -m tests.chaos.beside`. The same four instances, the same load.

Each contender is the caller's side alone: it dials instances that speak mutual TLS themselves, on
loopback. In turns, each with instances and memory that know of no fault before, they get CALM
seconds of load and then a fault on one instance. Envoy balances by least request, ejects outliers
up to half of the instances, and tries again elsewhere after a connect failure, a reset or a refused
stream; fleetmesh has its defaults. Exit status 1 if ours is worse.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.running import answers, free_ports, running, wait_for
from tests.chaos import contenders
from tests.chaos.measure import Request, Span
from tests.chaos.report import machine, write
from tests.support.ca import Authority
from tests.support.fleet import ROOT

NAMES = ("i1", "i2", "i3", "i4")
VICTIM = "i2"
CALM = 5.0
FAULT = 15.0
REACTED = 5.0
"""Seconds after which a contender is expected to have reacted."""
PACED = ROOT / "tests/support/guest/paced.py"
SLACK = 1.10
"""No worse: by the medians of the rounds. Latencies of the same differ by as much from run to run,
and where they are small by a millisecond; of the success not one request is given away."""
HALF = 0.5
"""Of a request: the runs differ by a few in how many they send."""

FAULTS = ("slow instance (+2 s)", "fast 500", "dead instance (SIGKILL)")
CONTENDERS: dict[str, Callable[..., AbstractContextManager[int]]] = {
    "fleetmesh": contenders.fleetmesh,
    "Envoy": contenders.envoy,
}


@dataclass(frozen=True)
class Outcome:
    """Of the seconds of the fault; the late figures of those after REACTED. Latencies in ms."""

    requests: int
    success: float
    p99: float
    late_success: float
    late_p99: float
    late_share: float
    calm_p99: float


@contextmanager
def _instances(directory: Path, pki: Path) -> Iterator[tuple[list[int], dict[str, int]]]:
    """Ports and pids."""
    ports = free_ports(len(NAMES))
    with ExitStack() as stack:
        pids = {}
        for name, port in zip(NAMES, ports, strict=True):
            (directory / name).unlink(missing_ok=True)
            command = [sys.executable, "-m", "tests.chaos.instance", str(port), name]
            command += [str(pki), str(directory / name)]
            pids[name] = stack.enter_context(running(f"instance-{name}", command, directory))
        yield ports, pids


def _inflict(fault: str, directory: Path, pids: dict[str, int]) -> None:
    if fault == FAULTS[2]:
        subprocess.run(["kill", "-KILL", str(pids[VICTIM])], check=True)
        return
    new = directory / f"{VICTIM}.new"
    new.write_text("slow 2" if fault == FAULTS[0] else "broken")
    new.rename(directory / VICTIM)


def measure(contender: str, fault: str, rate: float, directory: Path, pki: Path) -> Outcome:
    """One contender, one fault. Raises FailedError if something does not start."""
    with (
        _instances(directory, pki) as (ports, pids),
        CONTENDERS[contender](directory, pki, ports) as entry,
    ):
        wait_for(contender, lambda: answers(entry, "/"))
        url = f"http://127.0.0.1:{entry}/"
        load = subprocess.Popen(
            [sys.executable, str(PACED), url, str(rate), str(CALM + FAULT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        began = time.time()
        time.sleep(CALM)
        struck = time.time()
        _inflict(fault, directory, pids)
        assert load.stdout is not None
        output = load.stdout.read()  # its input stays open: with that it would end
        load.communicate(timeout=60)
    lines = [json.loads(line) for line in output.splitlines()]
    requests = [Request(*row) for line in lines if line["event"] == "rows" for row in line["rows"]]
    if not len(requests) == lines[-1]["sent"] > 0.95 * rate * (CALM + FAULT):
        raise AssertionError(f"{contender}: {lines[-1]['sent']} sent, {len(requests)} told of")
    during = Span.of(requests, struck, float("inf"))
    late = Span.of(requests, struck + REACTED, float("inf"))
    return Outcome(
        len(during.requests),
        during.success,
        during.percentile(0.99),
        late.success,
        late.percentile(0.99),
        late.share([VICTIM]),
        Span.of(requests, began + 1, struck).percentile(0.99),
    )


def median(outcomes: list[Outcome], figure: str) -> float:
    return statistics.median(getattr(one, figure) for one in outcomes)


def worse(ours: list[Outcome], theirs: list[Outcome]) -> list[str]:
    """In what ours is worse, in words."""
    found = []
    for figure in ("success", "late_success"):
        a, b = median(ours, figure), median(theirs, figure)
        if a < b - HALF / median(ours, "requests"):
            found.append(f"{figure} {a:.3%} < {b:.3%}")
    for figure in ("p99", "late_p99"):
        a, b = median(ours, figure), median(theirs, figure)
        if a > SLACK * b + 1.0:
            found.append(f"{figure} {a:.1f} ms > {b:.1f} ms")
    return found


def table(results: dict[str, dict[str, list[Outcome]]]) -> str:
    """Markdown: medians of the rounds."""
    head = ("fault", "contender", "success", "p99 ms", "after 5 s: success", "p99 ms", "share")
    lines = [head, tuple("---" for _ in head)]
    for fault, by_contender in results.items():
        for name, outcomes in by_contender.items():
            lines.append(
                (
                    fault,
                    name,
                    f"{median(outcomes, 'success'):.3%}",
                    f"{median(outcomes, 'p99'):.1f}",
                    f"{median(outcomes, 'late_success'):.3%}",
                    f"{median(outcomes, 'late_p99'):.1f}",
                    f"{median(outcomes, 'late_share'):.1%}",
                )
            )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.beside", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=200.0, help="requests/s, default 200")
    parser.add_argument("--json", type=Path, default=ROOT / "build/chaos/beside.json")
    options = parser.parse_args()
    results: dict[str, dict[str, list[Outcome]]] = {
        fault: {name: [] for name in CONTENDERS} for fault in FAULTS
    }
    with tempfile.TemporaryDirectory(prefix="fleetmesh-beside") as name:
        directory = Path(name)
        pki = contenders.certificates(directory, Authority())
        for number in range(options.rounds):
            for fault, by_contender in results.items():
                for contender, outcomes in by_contender.items():
                    outcomes.append(measure(contender, fault, options.rate, directory, pki))
                    print(
                        f"{number + 1}/{options.rounds} {fault}: {contender} {outcomes[-1]}",
                        flush=True,
                    )
    print(f"\n{table(results)}\n\n{options.rate:g} requests/s, {machine()}")
    verdicts = {
        fault: worse(by_contender["fleetmesh"], by_contender["Envoy"])
        for fault, by_contender in results.items()
    }
    for fault, found in verdicts.items():
        print(f"{fault}: {'no worse' if not found else '; '.join(found)}")
    figures = {
        fault: {name: [vars(one) for one in outcomes] for name, outcomes in by_contender.items()}
        for fault, by_contender in results.items()
    }
    write(options.json, {"machine": machine(), "rate": options.rate, "outcomes": figures})
    return 1 if any(verdicts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
