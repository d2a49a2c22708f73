"""TCP keepalive: a peer that is gone without a word is noticed."""

from __future__ import annotations

import socket
from typing import Any, Final

# Go's runtime and most proxies probe at a shorter interval than they wait before the first; a
# peer that answers none of three in half a minute is gone.
PROBES: Final = 3
INTERVAL: Final = 10  # seconds


RETRANSMITS: Final = 2
"""Times that a kernel has sent the same again without a word from the other side: 0.6 s after the
first at the least, and more where the way is long."""


def keep_alive(sock: socket.socket, idle: float) -> None:
    """Probe after `idle` silent seconds, never for 0. What a listening socket is told, its
    connections inherit, at no cost for each."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, idle > 0)
    if idle > 0:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(idle)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)


def keep_alive_dialled(transport: Any, idle: float) -> None:
    sock = transport.get_extra_info("socket")
    if idle > 0 and sock is not None:
        keep_alive(sock, idle)


def unacknowledged(transport: Any) -> bool:
    """Whether the other host's kernel is silent about what it was sent."""
    sock = transport.get_extra_info("socket")
    # struct tcp_info: the third byte is tcpi_retransmits.
    return sock is not None and (
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[2] >= RETRANSMITS
    )
