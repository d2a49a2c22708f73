#!/usr/bin/env python3
"""Fetch the consul binary of Debian 11's package and print the path of the cached copy.

The mirror is the one of the machine's own apt sources. A private apt configuration holds the
bullseye source and a pin that lets nothing but this one package through, so the machine's own
package state stays as it is; apt checks the signatures and hashes from the archive's key down.
Needs apt, dpkg-deb and the debian-archive-keyring; runs on Debian 12 and later, as root or as
whoever owns the cache directory.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "1.8.7"
PACKAGE_VERSION = "1.8.7+dfsg1-2*"  # architectures differ in the binary rebuild
SUITE = "bullseye"
CACHE = Path("/var/cache/fleetmesh/consul")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
TARGET_FORMAT = "$(CREATED_BY)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)"
TIMEOUT = 300


class FetchError(Exception):
    """The package could not be had; the message says at which step."""


def run(command: list[str], step: str) -> str:
    try:
        done = subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )
    except FileNotFoundError as missing:
        raise FetchError(f"{step}: {command[0]} is not installed") from missing
    except subprocess.TimeoutExpired as late:
        raise FetchError(f"{step}: no end after {TIMEOUT} s") from late
    except subprocess.CalledProcessError as failed:
        raise FetchError(f"{step}: {failed.stderr.strip() or failed.stdout.strip()}") from failed
    return done.stdout


def archives() -> list[str]:
    """Repository URIs that this machine takes its own release's main component from."""
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    listing = run(
        ["apt-get", "indextargets", "--format", TARGET_FORMAT], "reading the machine's apt sources"
    )
    found: list[str] = []
    for line in listing.splitlines():
        kind, release, component, uri = line.split("|", 3)
        if (kind, release, component) == ("Packages", codename, "main") and uri not in found:
            found.append(uri)
    if not found:
        raise FetchError(f"no apt source of this machine offers {codename or 'its release'} main")
    return found


def private_apt(root: Path, uri: str) -> Path:
    """The file to name in APT_CONFIG: everything that apt reads or writes is below `root`. Of the
    machine's configuration only how to reach an archive (Acquire) is taken over, no hooks."""
    for folder in ("lists/partial", "cache/archives/partial", "state", "empty"):
        (root / folder).mkdir(parents=True)
    (root / "state" / "status").touch()
    (root / "sources.list").write_text(f"deb [signed-by={KEYRING}] {uri} {SUITE} main\n")
    (root / "preferences").write_text(
        "Package: *\nPin: release *\nPin-Priority: -1\n\n"
        f"Package: consul\nPin: version {PACKAGE_VERSION}\nPin-Priority: 1000\n"
    )
    acquire = run(["apt-config", "dump"], "reading the machine's apt configuration")
    kept = [
        line
        for line in acquire.splitlines()
        if line.startswith("Acquire::") and not line.startswith("Acquire::IndexTargets")
    ]
    config = root / "apt.conf"
    config.write_text(
        "".join(f"{line}\n" for line in kept) + f'Dir::Etc::main "{root}/none";\n'
        f'Dir::Etc::parts "{root}/empty";\n'
        f'Dir::Etc::sourcelist "{root}/sources.list";\n'
        f'Dir::Etc::sourceparts "{root}/empty";\n'
        f'Dir::Etc::preferences "{root}/preferences";\n'
        f'Dir::Etc::preferencesparts "{root}/empty";\n'
        f'Dir::State "{root}/state";\n'
        f'Dir::State::lists "{root}/lists";\n'
        f'Dir::State::status "{root}/state/status";\n'
        f'Dir::Cache "{root}/cache";\n'
        'APT::Sandbox::User "";\n'
        'Acquire::Languages "none";\n'
        "Acquire::AllowInsecureRepositories false;\n"
        "Acquire::AllowWeakRepositories false;\n"
    )
    return config


def download(root: Path, uri: str) -> Path:
    """The .deb, signatures and hashes checked by apt."""
    target = root / "download"
    target.mkdir()
    apt = ["env", "-C", str(target), f"APT_CONFIG={private_apt(root, uri)}", "apt-get", "-q"]
    run([*apt, "-o", "APT::Update::Error-Mode=any", "update"], f"reading the index of {SUITE}")
    run([*apt, "download", "consul"], f"downloading consul {VERSION}")
    packages = list(target.glob("consul_*.deb"))
    if len(packages) != 1:
        raise FetchError(f"downloading consul {VERSION}: apt left no package")
    return packages[0]


def unpack(package: Path, binary: Path) -> None:
    """`usr/bin/consul` of `package` as the file `binary`."""
    tar = package.with_suffix(".tar")
    with tar.open("wb") as sink:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], check=True, stdout=sink)
    with tarfile.open(tar) as members:
        source = members.extractfile("./usr/bin/consul")
        if source is None:
            raise FetchError(f"{package.name} holds no usr/bin/consul")
        binary.write_bytes(source.read())
    binary.chmod(0o755)


def sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def cached(home: Path) -> Path | None:
    """The binary in `home` if it is the one that was put there."""
    binary, record = home / "consul", home / "consul.sha256"
    if binary.is_file() and record.is_file() and sha256(binary) == record.read_text().strip():
        return binary
    return None


def fetch(cache: Path) -> tuple[Path, bool]:
    """The cached binary, and whether it had to be fetched. Concurrent calls wait for the first.

    Raises FetchError.
    """
    home = cache / VERSION
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (binary := cached(home)) is not None:
            return binary, False
        failures: list[str] = []
        for uri in archives():
            with tempfile.TemporaryDirectory(prefix="fleetmesh-consul-") as scratch:
                fresh = home / "consul.new"
                try:
                    unpack(download(Path(scratch), uri), fresh)
                except FetchError as failure:
                    failures.append(str(failure))
                    continue
                record = home / "consul.sha256"
                record.write_text(sha256(fresh) + "\n")
                return fresh.replace(home / "consul"), True
        raise FetchError("; ".join(failures))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, default=CACHE, help="default: %(default)s")
    parser.add_argument(
        "--check", action="store_true", help="fetch nothing; exit 3 if the cache lacks the binary"
    )
    options = parser.parse_args()
    if options.check:
        binary = cached(options.cache / VERSION)
        if binary is None:
            return 3
        print(binary)
        return 0
    try:
        binary, fetched = fetch(options.cache)
    except (FetchError, OSError) as failure:
        print(f"fetch_debian_consul: {failure}", file=sys.stderr)
        return 1
    if fetched:
        print(f"fetched consul {VERSION} of Debian 11", file=sys.stderr)
    print(binary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
