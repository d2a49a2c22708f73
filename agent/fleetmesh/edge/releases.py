"""Releases on the disk: directories side by side, the links `current` and `previous` beside them,
and notes: of those known to be ready (the agent's, in its state directory) and of a fall-back
(root's)."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TypeVar

import msgspec

from fleetmesh.model.release import Fallback, Releases
from fleetmesh.plan import releases as plan

COMPLETE = ".complete"
FALLBACK_FILE = "fallback.json"
READY_FILE = "ready-releases.json"

T = TypeVar("T")


def own_home(prefix: str = sys.prefix) -> Path | None:
    """Where the releases are of which this interpreter's is one; None in a source tree."""
    release = Path(prefix).resolve()
    return release.parent.parent if release.parent.name == "releases" else None


class Home:
    """`path` holds `releases/<version>/` and the links; `state_dir` is the agent's."""

    def __init__(self, path: Path, state_dir: Path, prefix: str = sys.prefix) -> None:
        self.path = path
        self._ready = state_dir / READY_FILE
        self._prefix = Path(prefix).resolve()

    def read(self) -> Releases:
        directories = self.path / "releases"
        found: list[tuple[float, str]] = []
        with contextlib.suppress(OSError):
            for entry in os.scandir(directories):
                with contextlib.suppress(OSError):
                    found.append(((Path(entry.path) / COMPLETE).stat().st_mtime, entry.name))
        return Releases(
            running=self._prefix.name if self._prefix.parent == directories.resolve() else "",
            current=self._linked("current"),
            previous=self._linked("previous"),
            installed=tuple(name for _, name in sorted(found)),
            ready=_read(self._ready, tuple[str, ...]) or (),
            fallback=_read(self.path / FALLBACK_FILE, Fallback),
        )

    def choose(self, version: str) -> bool:
        """Make `version` current, and what was current the previous one if it is known to be ready;
        whether anything changed. A fall-back is forgotten. Raises OSError."""
        before = self.read()
        changed = before.current != version
        if changed:
            if (keep := plan.kept_for(before)) != before.previous:
                self._link("previous", keep)
            self._link("current", version)
        (self.path / FALLBACK_FILE).unlink(missing_ok=True)
        return changed

    def fall_back(self, fallback: Fallback) -> None:
        """Raises OSError."""
        self._link("current", fallback.to)
        _write(self.path / FALLBACK_FILE, fallback)

    def prove(self, version: str) -> None:
        """Remember that `version` is known to be ready. Raises OSError."""
        ready = _read(self._ready, tuple[str, ...]) or ()
        if (after := plan.proven(ready, version)) != ready:
            _write(self._ready, after)

    def _linked(self, name: str) -> str:
        try:
            return (self.path / name).readlink().name
        except OSError:
            return ""

    def _link(self, name: str, version: str) -> None:
        """By rename: there is always one."""
        fresh = self.path / f".{name}.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(f"releases/{version}")
        fresh.replace(self.path / name)


def _read(file: Path, kind: type[T]) -> T | None:
    """None for one that is not there, or not readable as what it should be."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None


def _write(file: Path, value: object) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(value))
    fresh.chmod(0o644)
    fresh.replace(file)
