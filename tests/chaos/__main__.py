"""Faults under load on a fleet of its own: see docs/chaos.md. Ends with 1 if a target is missed."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos import restarts
from tests.chaos.faults import FAULTS, SHORT
from tests.chaos.report import cells, machine, table, write
from tests.chaos.run import BUILD, Row, plan, run, widened
from tests.support.fleet import Fleet

RATE = 150.0


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    print(f"seed {options.seed} ({options.rate:g} requests/s, {machine()})", flush=True)
    schedule = plan(options.seed, options.only)
    with _fleet(options) as fleet:
        if options.restarts:
            account = restarts.run(fleet, options.restarts, options.rate, print)
            write(options.json, {"machine": machine(), "restarts": account.plain()})
            print(account.text())
            return 0 if account.failed == 0 else 1
        began = time.monotonic()
        rows = run(fleet, schedule, options.rate, _say)
    write(
        options.json,
        {
            "seed": options.seed,
            "rate": options.rate,
            "machine": machine(),
            "seconds": round(time.monotonic() - began),
            "rows": [row.plain() for row in rows],
        },
    )
    print(f"\n{table(rows)}\n\nseed {options.seed}, {time.monotonic() - began:.0f} s, {machine()}")
    print(f"replay: make chaos ARGS='{_replay(options)}'; figures: {options.json}")
    return 1 if any(row.missed for row in rows) else 0


@contextmanager
def _fleet(options: argparse.Namespace) -> Iterator[Fleet]:
    """A lab that is up, as it was; else one of its own, removed whatever happens."""
    fleet = Fleet(options.lab)
    try:
        with widened(fleet, whole=not options.keep):
            yield fleet
    finally:
        fleet.end_sessions()
        if not options.keep:
            fleet.make("lab-down", log=BUILD / "lab-down.log")


def _say(row: Row) -> None:
    print("  ".join(cells(row)), flush=True)
    for line in row.failures[:5]:
        print(f"    {line}", flush=True)


def _replay(options: argparse.Namespace) -> str:
    words = ["--seed", str(options.seed), "--rate", f"{options.rate:g}"]
    if options.only != list(FAULTS):
        words += [word for name in options.only for word in ("--only", f'"{name}"')]
    return " ".join(words)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos ARGS=...", description=__doc__)
    parser.add_argument("--seed", type=int, help="which schedule; another each time without")
    parser.add_argument("--short", action="store_true", help="only " + ", ".join(SHORT))
    parser.add_argument("--only", action="append", metavar="NAME", help="a fault, repeatable")
    parser.add_argument("--rate", type=float, default=RATE, help=f"requests/s, default {RATE:g}")
    parser.add_argument("--restarts", type=int, default=0, metavar="N", help="N restarts instead")
    parser.add_argument("--json", type=Path, default=BUILD / "chaos.json", metavar="FILE")
    parser.add_argument("--lab", default=os.environ.get("LAB", "chaos"), help="the lab's name")
    parser.add_argument(
        "--keep", action="store_true", help="use a lab that is up (make demo) and leave it up"
    )
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    options.only = options.only or list(SHORT if options.short else FAULTS)
    if unknown := set(options.only) - set(FAULTS):
        parser.error(f"--only: unknown: {', '.join(sorted(unknown))}; known: {', '.join(FAULTS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
