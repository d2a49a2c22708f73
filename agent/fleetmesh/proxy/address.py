"""Addresses of connections, in the text form that snapshots use."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Final

from fleetmesh.proxy.conduit import Conduit

SO_ORIGINAL_DST: Final = 80  # linux/netfilter_ipv4.h; IP6T_SO_ORIGINAL_DST is the same number

Address = tuple[str, int]


def canonical(address: str) -> str:
    """The text form that snapshots use: IPv4-mapped addresses are IPv4."""
    return address[7:] if address.startswith("::ffff:") and "." in address else address


def original_destination(transport: Conduit) -> Address | None:
    """Where the caller meant to go before nftables redirected it; None when nothing did."""
    sock = transport.get_extra_info("socket")
    own = transport.get_extra_info("sockname")
    if sock is None or own is None:
        return None
    local = canonical(own[0])
    try:
        if ":" in local:
            raw = sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
            port, address = struct.unpack_from("!2xH4x16s", raw)
        else:
            raw = sock.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
            port, address = struct.unpack_from("!2xH4s", raw)
    except OSError:
        return None
    destination = (str(ipaddress.ip_address(address)), port)
    return None if destination == (local, own[1]) else destination


def peer_name(transport: Conduit) -> str:
    """Who is at the other end, for logs; empty once nobody is."""
    peer = transport.get_extra_info("peername")
    return f"{canonical(peer[0])}:{peer[1]}" if peer else ""


def reset_at_end(transport: Conduit) -> None:
    """Let the connection's end be a reset, in place of an end of stream: socket(7), SO_LINGER."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # it has ended already
