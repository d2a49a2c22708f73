"""What a peer said before its connection broke, and nobody has read yet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from fleetmesh.proxy.conduit import Conduit

_READ: Final = 64 * 1024


def unread(transport: Conduit) -> Iterator[bytes]:
    """For a plain transport's `connection_lost`, where the socket is still open.

    An event loop that fails to write gives the connection up without another read. The kernel
    keeps what had arrived before the reset, at most a receive buffer.
    """
    sock = transport.get_extra_info("socket")
    if sock is None:
        return
    try:
        while data := os.read(sock.fileno(), _READ):
            yield data
    except OSError:  # the reset itself, or nothing there
        return
