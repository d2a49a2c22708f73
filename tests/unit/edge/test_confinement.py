"""What a worker's process gives up and takes, each tried in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

MODULE = "fleetmesh.edge.confinement"


def outcome(code: str) -> Any:
    """What `code` prints, as JSON."""
    script = f"import json, resource, {MODULE} as confinement\n{code}"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    return json.loads(done.stdout)


def test_capabilities_go_and_cannot_come_back() -> None:
    status = outcome(
        "confinement.drop_privileges()\n"
        "lines = [line.split(':\\t') for line in open('/proc/self/status')]\n"
        "print(json.dumps({line[0]: line[1].strip() for line in lines if len(line) == 2}))"
    )
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"


def test_a_worker_that_was_handed_over_forgets_its_death_signal() -> None:
    """prctl(2): PR_GET_PDEATHSIG is 2."""
    signals = outcome(
        "import ctypes\n"
        "libc, number = ctypes.CDLL(None), ctypes.c_int()\n"
        "def signal():\n"
        "    libc.prctl(2, ctypes.byref(number)); return number.value\n"
        "confinement.drop_privileges()\n"
        "before = signal()\n"
        "confinement.outlive_controller()\n"
        "print(json.dumps([before, signal()]))"
    )
    assert signals == [15, 0]


def test_as_many_files_as_the_hard_limit_allows() -> None:
    soft, hard = outcome(
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512))\n"
        "confinement.raise_open_files()\n"
        "print(json.dumps(resource.getrlimit(resource.RLIMIT_NOFILE)))"
    )
    assert soft == hard == 512


def test_large_buffers_are_not_faulted_in_again_and_again() -> None:
    """300 KB are 74 pages: without the setting each of the 200 buffers costs as many faults."""
    faults = (
        "for _ in range(5): bytes(300_000)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(200): bytes(300_000), bytes(200_000)\n"
        "print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))"
    )
    assert outcome("confinement.keep_freed_memory()\n" + faults) < 1000
