"""`python -m tests.soak`: the load, the table and the verdict."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.application import applications
from tests.soak.load import Load
from tests.soak.samples import HEADER, MB, WARM, Sample, faults, files, growth, row, sample
from tests.soak.site import Site, site

SETTLED = 15.0
"""Seconds for connections to end once nobody asks: more than a lingering close."""


async def soak(minutes: float, rate: float, every: float, change_every: float) -> list[str]:
    """Why it failed; empty when it did not."""
    with tempfile.TemporaryDirectory() as directory:
        async with applications() as ports:
            with site(Path(directory), ports) as there:
                found = await _soak(there, minutes * 60, rate, every, change_every)
            logs = [(Path(directory) / name).read_text() for name in ("web.log", "api.log")]
    unexpected = [
        line
        for log in logs
        for line in log.splitlines()
        if "Traceback" in line or " ERROR " in line
    ]
    return found + [f"logged: {line}" for line in unexpected[:10]]


async def _soak(
    there: Site, seconds: float, rate: float, every: float, change_every: float
) -> list[str]:
    workers = sorted(there.workers)
    pids = [*there.roots, *workers]
    load = Load(there)
    before = files(pids)
    begin = time.monotonic()
    samples: list[Sample] = []
    print(f"{len(workers)} workers, {rate:g} exchanges/s for {seconds:g} s, {before} files\n")
    print(HEADER)

    async def watch() -> None:
        while True:
            await asyncio.sleep(every)
            done, errors = load.done.total(), load.errors.total()
            at = time.monotonic() - begin
            samples.append(sample(at, pids, done, errors))
            print(row(samples[-1], samples[-2] if len(samples) > 1 else None), flush=True)

    async def change() -> None:
        while True:
            await asyncio.sleep(change_every)
            there.change()

    background = [asyncio.ensure_future(watch()), asyncio.ensure_future(change())]
    try:
        await load.run(rate, seconds)
        for task in background:
            assert not task.done(), task.exception()
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
    after = await _settled(there, pids, before)
    died = len(set(workers) - set(there.workers))
    print(f"\n{there.changes} changes of snapshot; {after} files at the end, {before} before")
    print(f"memory: {growth(samples) / MB:+.1f} MB after the first {WARM:g} s")
    for kind, count in sorted(load.done.items()):
        print(f"{count:10} {kind}")
    return faults(samples, before, after, load.errors, died)


async def _settled(there: Site, pids: list[int], before: int) -> int:
    """Files once connections have ended; a last change lets go of those that wait in pools."""
    there.change()
    end = time.monotonic() + SETTLED
    while files(pids) > before and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.25)
    return files(pids)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=60, help="60 by default")
    parser.add_argument("--rate", type=float, default=50, help="exchanges a second, 50 by default")
    parser.add_argument("--every", type=float, default=10, help="seconds between two samples")
    parser.add_argument("--change-every", type=float, default=5, help="seconds between reloads")
    options = parser.parse_args()
    found = asyncio.run(soak(options.minutes, options.rate, options.every, options.change_every))
    print(
        "\nverdict: " + ("\n         ".join(found) if found else "nothing is left, nothing failed")
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
