#!/usr/bin/env python3
"""Build one archive that installs fleetmesh on hosts without a package index or a compiler.

The archive holds the wheel of fleetmesh, the wheels of all it depends on, and pip's own, for the
interpreter that runs this script: hosts must have the same Python and a C library no older.
Everything is cached by content: an unchanged tree is built once, and dependencies are built again
only when their list, the constraints or the interpreter change.

Prints a JSON object: `version`, `archive` (path), `present` (whether the archive is there), and
`python` (`implementation`, `version`, `machine`, `libc`).
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
from collections.abc import Iterable
from pathlib import Path

CACHE = Path("/var/cache/fleetmesh/wheels")
CONSTRAINTS = Path(__file__).with_name("constraints.txt")
KEPT_ARCHIVES = 5
PACKAGED = ("pyproject.toml", "README.md", "LICENSE")
HOOK = "agent/hatch_build.py"
BUILD_TOOLS = ("pip", "hatchling", "msgspec", "mypy", "setuptools")
"""What pyproject.toml's build-system requires, and pip."""


class BuildError(Exception):
    """A step failed; the message names it and ends with what the tool said."""


def interpreter() -> dict[str, str]:
    """What a host's interpreter must match. `libc` is glibc's version."""
    return {
        "implementation": platform.python_implementation().lower(),
        "version": ".".join(platform.python_version_tuple()[:2]),
        "machine": platform.machine(),
        "libc": platform.libc_ver()[1],
    }


def run(command: list[str], step: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd)
    except subprocess.CalledProcessError as failed:
        tail = "\n".join((failed.stderr.strip() or failed.stdout.strip()).splitlines()[-15:])
        raise BuildError(f"{step} failed:\n{tail}") from failed
    return done.stdout


def digest(paths: Iterable[Path], base: Path) -> str:
    """Sixteen hex digits over names (relative to `base`) and contents."""
    total = hashlib.sha256()
    for path in sorted(paths):
        content = path.read_bytes()
        total.update(f"{path.relative_to(base)}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()[:16]


def copy_sources(root: Path, target: Path) -> None:
    """What the wheel is made of. A copy, so that an edit meanwhile cannot mix two versions."""
    for name in PACKAGED:
        shutil.copyfile(root / name, target / name)
    shutil.copytree(
        root / "agent/fleetmesh",
        target / "agent/fleetmesh",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copyfile(root / HOOK, target / HOOK)
    shutil.copyfile(CONSTRAINTS, target / "constraints.txt")


def released(root: Path, version: str) -> bool:
    """Whether the tree is exactly that release: its tag, checked out and clean."""
    if not (root / ".git").exists():
        return False
    git = ["git", "-c", f"safe.directory={root}", "-C", str(root)]
    tags = subprocess.run([*git, "tag", "--points-at", "HEAD"], capture_output=True, text=True)
    clean = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True)
    return clean.returncode == 0 and f"v{version}" in tags.stdout.split()


def stamp(root: Path, sources: Path) -> str:
    """The version of this very content, written into the copied project file."""
    project = sources / "pyproject.toml"
    version = str(tomllib.loads(project.read_text())["project"]["version"])
    if released(root, version):
        return version
    content = digest((path for path in sources.rglob("*") if path.is_file()), sources)
    exact = f"{version}+g{content[:8]}"
    text, count = re.subn(
        r'(?m)^version = ".*"$', f'version = "{exact}"', project.read_text(), count=1
    )
    if not count:
        raise BuildError("pyproject.toml has no line 'version = \"…\"' to stamp")
    project.write_text(text)
    return exact


def tools(cache: Path, key: str) -> Path:
    """The interpreter of an environment that builds wheels: pip, and the project's backend."""
    home = cache / f"tools-{key}"
    python = home / "bin/python"
    done = home / ".complete"
    if not done.exists():
        venv.create(home, clear=True, with_pip=True)
        command = [str(python), "-m", "pip", "install", "-q", "-U", "-c", str(CONSTRAINTS)]
        run([*command, *BUILD_TOOLS], "installing the build tools")
        done.touch()
    return python


def dependencies(cache: Path, key: str, python: Path, wanted: list[str]) -> Path:
    """A directory with the wheels of `wanted` and of all they need, and of pip."""
    home = cache / f"deps-{key}"
    if home.exists():
        return home
    with tempfile.TemporaryDirectory(prefix="building-", dir=cache) as scratch:
        made = Path(scratch) / "wheels"
        pip = [str(python), "-m", "pip", "wheel", "-q", "--wheel-dir", str(made)]
        run([*pip, "-c", str(CONSTRAINTS), "pip", *wanted], "building the dependencies' wheels")
        made.replace(home)
    return home


def pack(archive: Path, wheels: Iterable[Path]) -> None:
    """One tar with the wheels, the same bytes for the same wheels."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = "root"
        member.mode = 0o644
        return member

    fresh = archive.with_suffix(".new")
    with tarfile.open(fresh, "w") as tar:
        for wheel in sorted(wheels, key=lambda path: path.name):
            tar.add(wheel, arcname=wheel.name, filter=plain)
    fresh.replace(archive)


def prune(cache: Path) -> None:
    archives = sorted(cache.glob("fleetmesh-*.tar"), key=lambda path: path.stat().st_mtime)
    for old in archives[:-KEPT_ARCHIVES]:
        old.unlink(missing_ok=True)


def build(root: Path, cache: Path, build_missing: bool) -> tuple[str, Path]:
    """The version of the tree at `root`, and its archive, built if it is missing and may be."""
    here = interpreter()
    label = "-".join(here.values())
    with tempfile.TemporaryDirectory(prefix="fleetmesh-release-") as scratch:
        sources = Path(scratch) / "src"
        sources.mkdir()
        copy_sources(root, sources)
        version = stamp(root, sources)
        archive = cache / f"fleetmesh-{version}-{label}.tar"
        if archive.exists() or not build_missing:
            return version, archive
        wanted = list(
            tomllib.loads((sources / "pyproject.toml").read_text())["project"]["dependencies"]
        )
        key = hashlib.sha256(
            "\n".join([label, *wanted, CONSTRAINTS.read_text()]).encode()
        ).hexdigest()[:16]
        python = tools(cache, key)
        wheels = dependencies(cache, key, python, wanted)
        own = Path(scratch) / "own"
        pip = [str(python), "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
        run([*pip, "--wheel-dir", str(own), str(sources)], "building the wheel of fleetmesh")
        pack(archive, [*wheels.glob("*.whl"), *own.glob("*.whl")])
        prune(cache)
        return version, archive


def lock(root: Path) -> None:
    """Write the constraints anew: the newest versions that the project allows."""
    wanted = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    with tempfile.TemporaryDirectory(prefix="fleetmesh-lock-") as scratch:
        venv.create(scratch, with_pip=True)
        pip = [f"{scratch}/bin/python", "-m", "pip"]
        run([*pip, "install", "-q", "-U", *BUILD_TOOLS, *wanted], "resolving")
        frozen = run([*pip, "freeze", "--all"], "listing")
    CONSTRAINTS.write_text(
        "# What a release is built with: `build_release.py --lock` writes it anew.\n" + frozen
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", type=Path, required=True, help="the repository's root")
    parser.add_argument("--cache", type=Path, default=CACHE, help="default: %(default)s")
    parser.add_argument("--no-build", action="store_true", help="only say what would be built")
    parser.add_argument("--lock", action="store_true", help="write constraints.txt anew, and end")
    options = parser.parse_args()
    try:
        if options.lock:
            lock(options.source)
            return 0
        options.cache.mkdir(parents=True, exist_ok=True)
        with (options.cache / ".lock").open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            version, archive = build(options.source, options.cache, not options.no_build)
    except (BuildError, OSError, KeyError, tomllib.TOMLDecodeError) as failure:
        print(f"build_release: {failure}", file=sys.stderr)
        return 1
    answer = {
        "version": version,
        "archive": str(archive),
        "present": archive.exists(),
        "python": interpreter(),
    }
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    sys.exit(main())
