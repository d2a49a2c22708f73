"""Routes to `lo` for the networks of virtual addresses, over rtnetlink.

A connection must have a route before nftables sees its first packet. Ours are marked by their
protocol number; a route that somebody else has for the same network is left alone. Their scope is
the host, so that a host whose only IPv4 address is on loopback has a source address to dial from.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct

from fleetmesh.model.traffic import VIRTUAL4, VIRTUAL6

PROTOCOL = 245
"""Of no routing daemon (linux/rtnetlink.h); `ip route show proto 245`."""

_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_REQUEST, _ACK, _EXCL, _CREATE = 0x1, 0x4, 0x200, 0x400
_NLMSG_ERROR = 2
_RTA_DST, _RTA_OIF, _RTA_PRIORITY = 1, 4, 6
_TABLE_MAIN = 254
_SCOPE_UNIVERSE, _SCOPE_HOST = 0, 254
_UNICAST = 1
_PRIORITY = 1024
_LOOPBACK_INDEX = 1
_PATIENCE = 5.0
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES, errno.ENODEV)


def add() -> None:
    """Well when they are there, or the host has no IPv6. Raises OSError."""
    for network in (VIRTUAL4, VIRTUAL6):
        _change(_RTM_NEWROUTE, _CREATE | _EXCL, network, (errno.EEXIST,))


def remove() -> None:
    """Well when they are not there. Raises OSError."""
    for network in (VIRTUAL4, VIRTUAL6):
        _change(_RTM_DELROUTE, 0, network, (errno.ESRCH, errno.ENOENT, errno.ENODEV))


def _change(command: int, flags: int, text: str, fine: tuple[int, ...]) -> None:
    network = ipaddress.ip_network(text)
    six = network.version == 6
    route = struct.pack(
        "=BBBBBBBBI",
        socket.AF_INET6 if six else socket.AF_INET, network.prefixlen, 0, 0,
        _TABLE_MAIN, PROTOCOL, _SCOPE_UNIVERSE if six else _SCOPE_HOST, _UNICAST, 0,
    )  # fmt: skip
    body = route + _attribute(_RTA_DST, network.network_address.packed)
    body += _attribute(_RTA_OIF, struct.pack("=I", _LOOPBACK_INDEX))
    body += _attribute(_RTA_PRIORITY, struct.pack("=I", _PRIORITY))
    header = struct.pack("=IHHII", 16 + len(body), command, _REQUEST | _ACK | flags, 1, 0)
    code = _exchange(header + body)
    if code and code not in fine and not (six and code in _NO_IPV6):
        raise OSError(code, f"route {text}")


def _exchange(message: bytes) -> int:
    """The errno that the kernel answers, 0 when it is done."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
        sock.settimeout(_PATIENCE)
        sock.bind((0, 0))
        sock.send(message)
        while True:
            answer = sock.recv(1 << 16)
            _, kind = struct.unpack_from("=IH", answer)
            if kind == _NLMSG_ERROR:
                return int(-struct.unpack_from("=i", answer, 16)[0])


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value
