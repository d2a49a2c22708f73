"""Node's packages from npm, under build/peers: nothing on the machine changes."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

import pytest
from tests.peers.clients import present

BUILD = Path(__file__).parents[2] / "build" / "peers"
WS = "8.18.3"
OUT_OF_REACH = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH")


def ws() -> dict[str, str]:
    """The environment in which a CommonJS program of Node finds `ws`. The test is skipped when
    there is no way to npm's registry, and fails when `ws` cannot be installed for another
    reason."""
    BUILD.mkdir(parents=True, exist_ok=True)
    modules = BUILD / f"ws-{WS}" / "node_modules"
    with (BUILD / "installing").open("w") as lock:  # tests run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        # npm writes this file last.
        if not (modules / ".package-lock.json").exists():
            _install(f"ws@{WS}", modules.parent)
    return {"NODE_PATH": str(modules)}


def _install(package: str, prefix: Path) -> None:
    npm = present("npm")
    prefix.mkdir(exist_ok=True)
    done = subprocess.run(
        [
            *(npm, "install", "--prefix", str(prefix), "--ignore-scripts", "--no-audit"),
            *(
                "--no-fund",
                "--fetch-retries=1",
                "--fetch-retry-mintimeout=1000",
                "--fetch-timeout=20000",
                package,
            ),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode and any(code in done.stderr for code in OUT_OF_REACH):
        pytest.skip(f"npm's registry cannot be reached:\n{done.stderr}")
    assert done.returncode == 0, done.stderr
