"""Runs the benchmark: see -h."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.bench.contenders import ONLY, START, Contender
from tests.bench.install import BUILD, install, path
from tests.bench.report import Report
from tests.bench.running import FailedError, family, pss
from tests.bench.site import site
from tests.bench.work import WORKS, Work, wrk

PAGE = BUILD.parents[1] / "docs" / "performance.md"
QUICK = ("fleetmesh", "envoy", "direct")
ROUNDS = 5
QUICK_WORKS = ("http_small", "http_4k", "http_paced", "tcp_bulk", "new_connections")
QUICK_ROUNDS = 3
QUICK_SECONDS = 2.0
PROFILE_SECONDS = 8


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    install()
    report = Report(options.rounds, options.seconds)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleetmesh-bench")))
        directory.chmod(0o755)
        ground = stack.enter_context(site(directory))
        contenders = []
        for name in options.contenders:
            _say(f"starting {name}")
            entry, roots = stack.enter_context(START[name](ground))
            contenders.append(Contender(name, entry, roots))
        for contender in contenders:
            wrk("small", 4)(contender, 1)
            if contender.pids:
                report.idle(contender.name, pss(contender.pids))
        for work in [work for work in WORKS if work.name in options.works]:
            _rounds(work, contenders, options, report)
            if options.profile:
                _profile(work, contenders[0])
    report.finish()
    for file in report.write(BUILD):
        _say(f"wrote {file}")
    if options.document:
        report.document(PAGE)
        _say(f"wrote {PAGE}")
    print(report.table())
    return 1 if report.failures else 0


def _rounds(
    work: Work, contenders: list[Contender], options: argparse.Namespace, report: Report
) -> None:
    """Every contender once a round: A B A B."""
    seconds = min(work.seconds, options.seconds or work.seconds)
    taking_part = [
        contender
        for contender in contenders
        if (contender.roots or not work.needs_proxy)
        and ONLY.get(contender.name, work.name) == work.name
    ]
    for number in range(options.rounds):
        shown = []
        for contender in taking_part:
            try:
                figures = work.do(contender, seconds)
            except FailedError as error:
                report.failed(work.name, contender.name, str(error))
                shown.append(f"{contender.name} FAILED")
                continue
            report.add(work.name, contender.name, figures)
            shown.append(f"{contender.name} {figures['cpu'] * 1e6:.0f}")
        _say(f"{work.name} {number + 1}/{options.rounds}: µs CPU per {work.unit}: ", *shown)


def _profile(work: Work, contender: Contender) -> None:
    """A flame graph of each side's worker."""
    for side, root in zip(("outbound", "inbound"), contender.roots, strict=True):
        worker = family([root])[-1]
        graph = BUILD / f"profile-{work.name}-{side}.svg"
        command = [path("py-spy"), "record", "--native", "--pid", str(worker)]
        command += ["--duration", str(PROFILE_SECONDS - 3), "--rate", "500"]
        command += ["--output", str(graph)]
        recording = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            work.do(contender, PROFILE_SECONDS)
            _, error = recording.communicate(timeout=60)
        finally:
            recording.kill()
        _say(f"wrote {graph}" if graph.exists() else f"py-spy: {error.decode()[-300:]}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    names = [work.name for work in WORKS]
    parser.add_argument("--quick", action="store_true", help="less of everything: two minutes")
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, quick {QUICK_ROUNDS}")
    parser.add_argument("--seconds", type=float, help="at most, for each measurement")
    parser.add_argument("--contenders", help=f"some of {','.join(START)}")
    parser.add_argument("--works", help=f"some of {','.join(names)}")
    parser.add_argument(
        "--profile", action="store_true", help="flame graphs of both workers for each work"
    )
    parser.add_argument("--document", action="store_true", help=f"put the figures in {PAGE.name}")
    options = parser.parse_args()
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    options.seconds = options.seconds or (QUICK_SECONDS if options.quick else None)
    for key, known, default in (
        ("contenders", list(START), QUICK if options.quick else list(START)),
        ("works", names, QUICK_WORKS if options.quick else names),
    ):
        chosen = getattr(options, key)
        chosen = chosen.split(",") if chosen else list(default)
        if unknown := set(chosen) - set(known):
            parser.error(f"--{key}: unknown: {', '.join(sorted(unknown))}")
        setattr(options, key, chosen)
    if options.profile and options.contenders[0] != "fleetmesh":
        parser.error("--profile wants fleetmesh as the first contender")
    return options


_START = time.monotonic()


def _say(*words: str) -> None:
    print(f"[{time.monotonic() - _START:5.0f} s]", *words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
