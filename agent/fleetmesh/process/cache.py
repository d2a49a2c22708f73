"""The last snapshot on disk, for a start that finds neither systemd's memory nor Consul.

One file of the state directory, readable by the agent's user alone (docs/adr/0016-snapshot-on-
disk.md): a line that names the format and the digest of what follows, then the encoded snapshot.
It is taken whole or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import stat
from pathlib import Path

import msgspec
from msgspec.structs import replace

from fleetmesh.model import snapshot as snapshots
from fleetmesh.model.problem import Problem
from fleetmesh.model.snapshot import LocalService, Snapshot
from fleetmesh.process.tasks import TaskSet

log = logging.getLogger(__name__)

NAME = "snapshot"
ASIDE = "snapshot.refused"
MAGIC = b"fleetmesh-snapshot-1"
MAX_SIZE = 256 << 20
"""Bytes; a snapshot of ten thousand endpoints has four million."""
PAUSE = 1.0
"""Seconds between two writings: an fsync for each of a storm of changes helps nobody."""
REMEDY = "nothing need be done: it is written anew as soon as Consul has answered"


def save(state_dir: str, snapshot: Snapshot) -> None:
    """Written whole under another name and renamed. Raises OSError."""
    directory = Path(state_dir)
    directory.mkdir(parents=True, exist_ok=True)
    fresh = directory / f".{NAME}.new"
    fresh.unlink(missing_ok=True)
    body = snapshots.encode(snapshot)
    # O_EXCL: nobody else's file, nor one that others hold open, ever gets the keys.
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(_head(body))
        file.write(body)
        file.flush()
        os.fsync(fd)
    fresh.replace(directory / NAME)
    directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)


def load(state_dir: str, now: float) -> Snapshot | Problem | None:
    """What was saved, without certificates that have expired at `now` (seconds since the epoch).

    None without a file. A Problem for one that is not to be believed, which is set aside.
    """
    path = Path(state_dir) / NAME
    try:
        content = _read(path)
        if content is None:
            return None
        if isinstance(content, bytes):
            return unexpired(snapshots.decode(content), now)
        why = content
    except (OSError, msgspec.MsgspecError) as error:
        why = str(error)
    with contextlib.suppress(OSError):
        path.replace(path.with_name(ASIDE))
    return Problem(str(path), f"is not used: {why}", REMEDY)


def unexpired(snapshot: Snapshot, now: float) -> Snapshot:
    """An expired certificate proves nothing to anybody: its service has none."""

    def judged(service: LocalService) -> LocalService:
        if service.leaf is None or service.leaf.not_after > now:
            return service
        return replace(service, leaf=None)

    return replace(snapshot, services=tuple(judged(service) for service in snapshot.services))


class SnapshotCache:
    """Writes the newest of what it is given, one at a time, off the event loop.

    `problems` has what is wrong with the file, until one has been written.
    """

    def __init__(self, state_dir: str) -> None:
        self.problems: list[Problem] = []
        self._state_dir = state_dir
        self._newest: Snapshot | None = None
        self._tasks = TaskSet()
        self._thread: asyncio.Future[None] | None = None
        self._writing = False

    async def recall(self, now: float) -> Snapshot | None:
        found = await asyncio.to_thread(load, self._state_dir, now)
        if isinstance(found, Problem):
            log.error("%s", found, extra={"fields": {"event": "cache_refused"}})
            self.problems = [found]
            return None
        return found

    def keep(self, snapshot: Snapshot) -> None:
        self._newest = snapshot
        if not self._writing:
            self._writing = True
            self._tasks.spawn(self._write(), "snapshot cache")

    async def close(self) -> None:
        """Write what is still waiting."""
        self._writing = True
        await self._tasks.close()
        if self._thread is not None:
            await asyncio.wait([self._thread])
        await self._save_newest()

    async def _write(self) -> None:
        try:
            while self._newest is not None:
                await self._save_newest()
                await asyncio.sleep(PAUSE)
        finally:
            self._writing = False

    async def _save_newest(self) -> None:
        snapshot, self._newest = self._newest, None
        if snapshot is None:
            return
        try:
            # No cancellation ends the thread, and two at once would share a temporary file.
            self._thread = asyncio.ensure_future(asyncio.to_thread(save, self._state_dir, snapshot))
            await asyncio.shield(self._thread)
            self.problems = []
        except OSError as error:
            problem = Problem(
                str(Path(self._state_dir) / NAME),
                f"cannot be written: {error}",
                "until it can, a start without Consul has nothing to serve",
            )
            if self.problems != [problem]:
                log.error("%s", problem, extra={"fields": {"event": "cache_unwritable"}})
            self.problems = [problem]


def _head(body: bytes) -> bytes:
    return MAGIC + b" " + hashlib.sha256(body).hexdigest().encode() + b"\n"


def _read(path: Path) -> bytes | str | None:
    """The encoded snapshot; why it is not to be believed; None without a file. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return "it is no regular file"
        if found.st_uid != os.geteuid():
            return f"it belongs to uid {found.st_uid}"
        if found.st_mode & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            return f"others may read or write it (mode {mode:04o}, not 0600)"
        if found.st_size > MAX_SIZE:
            return f"it has {found.st_size} bytes"
        head, _, body = file.read().partition(b"\n")
    magic, _, _ = head.partition(b" ")
    if magic != MAGIC:
        return "it is of another version of fleetmesh, or no snapshot"
    if head + b"\n" != _head(body):
        return "it is damaged: its digest is not that of its content"
    return body
