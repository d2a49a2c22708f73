"""Access records to the journal, by its native protocol and without waiting.

One datagram is one entry: `FIELD=value` lines, as systemd's JOURNAL_NATIVE_PROTOCOL describes them.
Through libsystemd a full queue would hold up the worker, and with it everybody's traffic.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence

import msgspec

from fleetmesh.model.record import Record

SOCKET = "/run/systemd/journal/socket"
_log = logging.getLogger(__name__)


def sink(path: str = SOCKET) -> Callable[[Sequence[Record]], int]:
    """Writes records where this process' log goes; how many were dropped is its answer."""
    if "JOURNAL_STREAM" not in os.environ:
        return _to_log
    return Journal(path).write


class Journal:
    """The socket is opened again after an error, at the next write."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def write(self, records: Sequence[Record]) -> int:
        """Returns how many could not be written: the journal is busy, or not there."""
        for number, record in enumerate(records):
            try:
                if self._socket is None:
                    self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    self._socket.setblocking(False)
                    self._socket.connect(self._path)
                self._socket.send(entry(record))
            except BlockingIOError:
                return len(records) - number
            except OSError:
                if self._socket is not None:
                    self._socket.close()
                    self._socket = None
                return len(records) - number
        return 0


def entry(record: Record) -> bytes:
    """The datagram. No value has a line end: paths and ids are printable ASCII as they come."""
    fields = {
        "MESSAGE": message(record),
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "fleetmesh",
        "FLEETMESH_EVENT": "request",
    }
    for name, value in msgspec.structs.asdict(record).items():
        if value not in ("", None):
            fields[f"FLEETMESH_{name.upper()}"] = _text(value)
    return "".join(f"{name}={value}\n" for name, value in fields.items()).encode()


def message(record: Record) -> str:
    """`web => api GET /items 200 in 1.2 ms`."""
    return (
        f"{record.source or '?'} => {record.destination or '?'} {record.method or '?'} "
        f"{record.path or '?'} {record.status}{f' ({record.reason})' if record.reason else ''} "
        f"in {record.duration * 1000:.1f} ms"
    )


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = f"{value:.6f}" if isinstance(value, float) else str(value)
    return text.replace("\n", "\\n")


def _to_log(records: Sequence[Record]) -> int:
    """Where there is no journal: lines like all others."""
    for record in records:
        fields = {
            name: _text(value)
            for name, value in msgspec.structs.asdict(record).items()
            if value not in ("", None)
        }
        _log.info("%s", message(record), extra={"fields": {"event": "request", **fields}})
    return 0
