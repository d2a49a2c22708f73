"""systemd: readiness and watchdog, sockets that outlive us (socket units and the file descriptor
store), the journal.

Everything works without systemd too: notifications go nowhere, nothing is inherited, log lines
go to standard error.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from typing import Any

from systemd import daemon, journal

PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.NOTSET, 7),
)
"""Python's levels as syslog's, syslog(3)."""


def supervised() -> bool:
    """Whether a service manager listens to what we notify."""
    return "NOTIFY_SOCKET" in os.environ


def notify(*assignments: str) -> None:
    """Tell the service manager, sd_notify(3): `READY=1`, `STATUS=…`."""
    daemon.notify("\n".join(assignments))


def watchdog_interval() -> float | None:
    """Seconds between two heartbeats: half of WatchdogSec=; None when there is no watchdog."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(
        os.getpid()
    ):
        return None
    return int(microseconds) / 2_000_000


def extend_start(seconds: float) -> None:
    """The start makes progress: it may take `seconds` from now, sd_notify(3)."""
    notify(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")


def take_inherited() -> dict[str, int]:
    """The file descriptors that systemd passed, by name: of socket units and of the store.

    Of two with one name the later stands and the earlier is closed. The environment is cleared, so
    that no child takes them for its own, and they are closed on exec.
    """
    taken: dict[str, int] = {}
    passed = daemon.listen_fds_with_names(True)
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(variable, None)  # the C library's unsetenv does not reach os.environ
    for fd, name in passed.items():
        os.set_inheritable(fd, False)
        if name in taken:
            os.close(taken[name])
        taken[name] = fd
    return taken


def store(name: str, fd: int) -> None:
    """Keep a duplicate of `fd` in the service manager; it comes back by `take_inherited`."""
    if supervised():
        daemon.notify(f"FDSTOREREMOVE=1\nFDNAME={name}")
        daemon.notify(f"FDSTORE=1\nFDNAME={name}", fds=[fd])


def forget(name: str) -> None:
    """Drop what is stored under `name`."""
    if supervised():
        daemon.notify(f"FDSTOREREMOVE=1\nFDNAME={name}")


def as_socket(fd: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket | None:
    """The socket behind `fd`, not blocking; None when it is not of this kind, or a stream socket
    that does not listen."""
    try:
        sock = socket.socket(fileno=fd)
        listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        return None
    if sock.type != kind or (kind == socket.SOCK_STREAM and not listening):
        sock.detach()
        return None
    sock.setblocking(False)
    return sock


class JournalHandler(logging.Handler):
    """One journal entry per record. `extra={"fields": {"source": "web"}}` becomes the field
    FLEETMESH_SOURCE, to be filtered by with `journalctl FLEETMESH_SOURCE=web`."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            journal.send(
                self.format(record),
                PRIORITY=_priority(record.levelno),
                LOGGER=record.name,
                SYSLOG_IDENTIFIER="fleetmesh",
                CODE_FILE=record.pathname,
                CODE_LINE=record.lineno,
                CODE_FUNC=record.funcName,
                **{f"FLEETMESH_{key.upper()}": str(value) for key, value in _fields(record)},
            )
        except OSError:
            self.handleError(record)


class LineFormatter(logging.Formatter):
    """`message key=value …`, for people and for tests."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return " ".join([line, *(f"{key}={value}" for key, value in _fields(record))])


def setup_logging(level: str) -> None:
    """Send every log record to the journal when systemd started us, else to standard error.

    `level` is one of debug, info, warning, error.
    """
    handler: logging.Handler
    if "JOURNAL_STREAM" in os.environ:
        handler = JournalHandler()
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def _fields(record: logging.LogRecord) -> list[tuple[str, Any]]:
    return list(getattr(record, "fields", {}).items())


def _priority(level: int) -> int:
    return next(priority for floor, priority in PRIORITIES if level >= floor)
