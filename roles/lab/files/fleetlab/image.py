"""The root file system that every host boots, built once per recipe and cached."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path("/var/cache/fleetmesh")
SUITE = "bookworm"
_PARTIAL = "building-"
PACKAGES = (
    "ca-certificates",
    "conntrack",
    "curl",
    "dbus",
    "iproute2",
    "iputils-ping",
    "nftables",
    "openssh-server",
    "procps",
    "python3",
    "python3-aiohttp",
    "python3-uvloop",
    "python3-venv",
    "sudo",
    "systemd",
    "systemd-sysv",
    "wrk",
)
_CUSTOMIZE = Path(__file__).with_name("customize.sh")
_APT_SETTINGS = (
    "Acquire::http",
    "Acquire::https",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
)


class ImageError(Exception):
    """The image cannot be built; the message says what to do."""


def recipe_key() -> str:
    """Twelve hex digits that change whenever the image would."""
    digest = hashlib.sha256("\n".join((SUITE, *PACKAGES)).encode())
    digest.update(_CUSTOMIZE.read_bytes())
    return digest.hexdigest()[:12]


def image_path() -> Path:
    """Where the image of this recipe lies, built or not."""
    return CACHE / f"image-{recipe_key()}"


def ensure_image() -> bool:
    """Build the image unless it is there; True if it was built.

    mmdebstrap's own progress goes to standard error. Builders of the same recipe wait for each
    other, and what a killed builder left is removed first.
    Raises ImageError.
    """
    target = image_path()
    if target.exists():
        return False
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return False
        _remove_partial()
        partial = CACHE / f"{_PARTIAL}{recipe_key()}"
        try:
            _build(partial, lock.fileno())
            (partial / "root").rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return True


def remove_abandoned() -> None:
    """Remove what a builder that was killed left behind, unless another builder is at work."""
    if not CACHE.exists():
        return
    with (CACHE / "image.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        _remove_partial()


def _remove_partial() -> None:
    for abandoned in CACHE.glob(f"{_PARTIAL}*"):
        shutil.rmtree(abandoned)


def _build(partial: Path, lock: int) -> None:
    """Make `partial`/root. Raises ImageError.

    The processes that build hold the lock too, and end with this one.
    """
    partial.mkdir()
    sources = partial / "debian.list"
    sources.write_text("\n".join(_sources()) + "\n")
    settings = partial / "apt.conf"
    settings.write_text(_output("apt-config", "dump", *_APT_SETTINGS))
    # A namespace of its own for mounts and processes: a builder that is killed takes its
    # children and its mounts along.
    command = [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *("mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"),
        f"--include={','.join(PACKAGES)}",
        f"--aptopt={settings}",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        f"--customize-hook={_CUSTOMIZE}",
        *(SUITE, str(partial / "root"), str(sources)),
    ]
    environment = os.environ | {"TMPDIR": str(partial)}
    with subprocess.Popen(command, stdout=sys.stderr, env=environment, pass_fds=[lock]) as builder:
        try:
            status = builder.wait()
        except BaseException:
            # Removing its files has to wait for its end.
            builder.kill()
            raise
    if status != 0:
        raise ImageError(
            f"mmdebstrap ended with status {status}; its messages are above. "
            "Check that `apt-get update` succeeds on this machine, then try again"
        )


def _sources() -> list[str]:
    """The machine's own Debian sources of our suite, as sources.list lines. Raises ImageError."""
    lines = _indexed_sources()
    if not lines:
        # Some machines come with apt's indexes removed.
        subprocess.run(["apt-get", "update"], stdout=sys.stderr, check=False)
        lines = _indexed_sources()
    if not lines:
        raise ImageError(
            f"this machine's apt has no index of Debian {SUITE}; check that its sources name the "
            "suite and that `apt-get update` succeeds"
        )
    return lines


def _indexed_sources() -> list[str]:
    rows = _output(
        *("apt-get", "indextargets", "Created-By: Packages", "--format"),
        "$(ORIGIN)|$(CODENAME)|$(REPO_URI)|$(COMPONENT)",
    )
    lines = []
    for row in rows.splitlines():
        origin, codename, uri, component = row.split("|")
        if origin == "Debian" and codename.startswith(SUITE):
            lines.append(f"deb {uri} {codename} {component}")
    return lines


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
