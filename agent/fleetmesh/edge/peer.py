"""Who is at the other end of a Unix socket: for the log of what was done by hand."""

from __future__ import annotations

import pwd
import socket
import struct
from typing import Any

_UCRED = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


def who(transport: Any) -> str:
    """The peer's user with its uid, as the kernel has it, whatever the peer says.

    >>> who(None)
    'somebody unknown'
    """
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or sock.family != socket.AF_UNIX:
        return "somebody unknown"
    try:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    except OSError:
        return "somebody unknown"
    _, uid, _ = _UCRED.unpack(credentials)
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
