"""What a release runs, the relay path compiled, does what the sources do."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tests.support.compiled import ROOT, compiled

SUITES = (
    "tests/unit/proxy/test_http.py",
    "tests/unit/proxy/test_carrier.py",
    "tests/unit/proxy/test_faults.py",
    "tests/unit/proxy/test_tracing.py",
    "tests/unit/process/test_worker.py",
    "tests/peers",
)
"""Those whose workers are processes of their own."""


@pytest.mark.timeout(900)  # most of it is the compiler's
def test_the_suites_of_the_workers_pass_against_the_compiled_relay_path() -> None:
    env = {**os.environ, "PYTHONPATH": str(compiled())}
    where = "import fleetmesh.proxy.exchange as module; print(module.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where], env=env, check=True, capture_output=True, text=True
    )
    assert found.stdout.strip().endswith(".so")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *SUITES]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
