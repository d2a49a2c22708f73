"""The root file system that every host boots, built once per recipe and cached."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CACHE = Path("/var/cache/fleetmesh")
SUITE = "bookworm"
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
        for abandoned in CACHE.glob("building-*"):
            shutil.rmtree(abandoned)
        partial = CACHE / f"building-{recipe_key()}"
        try:
            _build(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        partial.rename(target)
    return True


def _build(root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="fleetlab-apt-") as scratch:
        sources = Path(scratch) / "debian.list"
        sources.write_text("\n".join(_sources()) + "\n")
        settings = Path(scratch) / "apt.conf"
        settings.write_text(_output("apt-config", "dump", *_APT_SETTINGS))
        # A namespace of its own for mounts and processes: a builder that is killed takes its
        # children and its mounts along.
        command = [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"),
            f"--include={','.join(PACKAGES)}",
            f"--aptopt={settings}",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-include=/usr/share/doc/*/copyright",
            f"--customize-hook={_CUSTOMIZE}",
            *(SUITE, str(root), str(sources)),
        ]
        built = subprocess.run(command, stdout=sys.stderr, env=os.environ | {"TMPDIR": scratch})
        if built.returncode != 0:
            raise ImageError(
                f"mmdebstrap ended with status {built.returncode}; its messages are above. "
                "Check that `apt-get update` succeeds on this machine, then try again"
            )


def _sources() -> list[str]:
    """The machine's own Debian sources of our suite, as sources.list lines. Raises ImageError."""
    rows = _output(
        *("apt-get", "indextargets", "Created-By: Packages", "--format"),
        "$(ORIGIN)|$(CODENAME)|$(REPO_URI)|$(COMPONENT)",
    )
    lines = []
    for row in rows.splitlines():
        origin, codename, uri, component = row.split("|")
        if origin == "Debian" and codename.startswith(SUITE):
            lines.append(f"deb {uri} {codename} {component}")
    if not lines:
        raise ImageError(
            f"this machine's apt has no index of Debian {SUITE}; run `apt-get update`, and check "
            "that its sources name the suite"
        )
    return lines


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
