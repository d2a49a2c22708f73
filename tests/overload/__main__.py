"""`python -m tests.overload`: the table, and the verdict."""

from __future__ import annotations

import argparse
import asyncio
import sys

from tests.overload.trial import CAPACITY, Outcome, trial

STRETCH = 3.0
GOODPUT = 0.8
SLOWER = 3.0
HEADER = "adaptive | normal  | p50 x | p99 x | good answers of the capacity, by 3 s | answers"


def faults(outcome: Outcome) -> list[str]:
    """What is not as it must be with adaptive concurrency."""
    found = []
    least = min(outcome.stretches)
    if least < GOODPUT * CAPACITY:
        found.append(f"goodput fell to {least / CAPACITY:.0%}")
    if outcome.within < 0.99:
        found.append(f"only {outcome.within:.1%} of the answers came within {SLOWER:g} x normal")
    return found


async def main(times: float, seconds: float) -> int:
    print(f"{times:g} times {CAPACITY:g} requests a second, for {seconds:g} s")
    print(HEADER)
    found: list[str] = []
    for adaptive in (True, False):
        outcome = await trial(adaptive, times, seconds, STRETCH)
        print(f"{'on' if adaptive else 'off':8} | {outcome.row}", flush=True)
        if adaptive:
            found = faults(outcome)
    for fault in found:
        print(f"FAILED: {fault}")
    return 1 if found else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.overload")
    parser.add_argument("--times", type=float, default=50.0, help="the load, of the capacity")
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.times, options.seconds)))
