"""Rules in the kernel's form: a list of nftables expressions as netlink attributes.

Attribute and key numbers are those of linux/netfilter/nf_tables.h; expressions are chosen as the
nft program chooses them, so that `nft list` shows our rules in its own words.
"""

from __future__ import annotations

import enum
import ipaddress
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from fleetmesh.capture.attributes import (
    attribute,
    be32,
    nested,
    netlink_attributes,
    number,
    value_of,
)
from fleetmesh.capture.ruleset import (
    Accept,
    Action,
    Captured,
    Destination,
    ForeignRule,
    LocalAddress,
    Loopback,
    Match,
    Opening,
    Port,
    Redirect,
    Reject,
    Rule,
    Tcp,
    Udp,
    User,
)


class Meta(enum.IntEnum):
    """Keys of expression `meta` (enum nft_meta_keys)."""

    IIF = 4
    SKUID = 10
    NFPROTO = 15
    L4PROTO = 16


class Header(enum.IntEnum):
    """Bases of expression `payload` (enum nft_payload_bases)."""

    NETWORK = 1
    TRANSPORT = 2


CT_STATUS = 2
IPS_DST_NAT = 1 << 5
FIB_ADDRTYPE, FIB_DADDR, RTN_LOCAL = 3, 2, 2
CMP_EQ, CMP_NEQ = 0, 1
NF_ACCEPT = 1
REJECT_TCP_RST = 1
PROTO_SPECIFIED = 2
IPPROTO_TCP, IPPROTO_UDP = 6, 17
LOOPBACK_INDEX = 1
FLAGS_MASK, SYN = 0x17, 0x02  # of fin, syn, rst and ack

_VERDICT, _REGISTER = 0, 1


class _Network(NamedTuple):
    """How destinations of one address family are found in a packet."""

    protocol: int
    offset: int
    size: int


_IPV4 = _Network(protocol=2, offset=16, size=4)
_IPV6 = _Network(protocol=10, offset=24, size=16)


def encode(rule: Rule) -> bytes:
    """The value of attribute NFTA_RULE_EXPRESSIONS."""
    out = bytearray()
    tcp = False
    for match in rule.matches:
        if isinstance(match, Tcp | Opening | Port) and not tcp:
            out += _meta(Meta.L4PROTO) + _cmp(CMP_EQ, bytes([IPPROTO_TCP]))
            tcp = True
        out += _encode_match(match)
    out += _expression("counter", attribute(1, bytes(8)) + attribute(2, bytes(8)))
    return bytes(out + _encode_action(rule.action))


def _encode_match(match: Match) -> bytes:
    match match:
        case Tcp():
            return b""
        case Udp(port):
            return (
                _meta(Meta.L4PROTO)
                + _cmp(CMP_EQ, bytes([IPPROTO_UDP]))
                + _payload(Header.TRANSPORT, 2, 2)
                + _cmp(CMP_EQ, struct.pack(">H", port))
            )
        case Opening(negated):
            return (
                _payload(Header.TRANSPORT, 13, 1)
                + _bitwise(bytes([FLAGS_MASK]))
                + _cmp(CMP_NEQ if negated else CMP_EQ, bytes([SYN]))
            )
        case Destination(network):
            return _encode_destination(network)
        case Port(port):
            return _payload(Header.TRANSPORT, 2, 2) + _cmp(CMP_EQ, struct.pack(">H", port))
        case User(uid):
            return _meta(Meta.SKUID) + _cmp(CMP_EQ, struct.pack("=I", uid))
        case Loopback():
            return _meta(Meta.IIF) + _cmp(CMP_EQ, struct.pack("=I", LOOPBACK_INDEX))
        case LocalAddress(negated):
            load = be32(1, _REGISTER) + be32(2, FIB_ADDRTYPE) + be32(3, FIB_DADDR)
            return _expression("fib", load) + _cmp(
                CMP_NEQ if negated else CMP_EQ, struct.pack("=I", RTN_LOCAL)
            )
        case Captured(negated):
            return (
                _expression("ct", be32(1, _REGISTER) + be32(2, CT_STATUS))
                + _bitwise(struct.pack("=I", IPS_DST_NAT))
                + _cmp(CMP_EQ if negated else CMP_NEQ, bytes(4))
            )


def _encode_destination(text: str) -> bytes:
    network = ipaddress.ip_network(text)
    family = _IPV4 if network.version == 4 else _IPV6
    packed, mask = network.network_address.packed, network.netmask.packed
    whole, rest = divmod(network.prefixlen, 8)
    out = _meta(Meta.NFPROTO) + _cmp(CMP_EQ, bytes([family.protocol]))
    if whole and not rest:  # whole bytes need no mask
        return out + _payload(Header.NETWORK, family.offset, whole) + _cmp(CMP_EQ, packed[:whole])
    load = _payload(Header.NETWORK, family.offset, family.size)
    return out + load + _bitwise(mask) + _cmp(CMP_EQ, packed)


def _encode_action(action: Action) -> bytes:
    match action:
        case Accept():
            verdict = nested(2, be32(1, NF_ACCEPT))
            return _expression("immediate", be32(1, _VERDICT) + nested(2, verdict))
        case Redirect(port):
            value = nested(2, attribute(1, struct.pack(">H", port)))
            return _expression("immediate", be32(1, _REGISTER) + value) + _expression(
                "redir", be32(1, _REGISTER) + be32(3, PROTO_SPECIFIED)
            )
        case Reject():
            return _expression("reject", be32(1, REJECT_TCP_RST) + attribute(2, b"\0"))


def decode(data: bytes, comment: str) -> tuple[Rule | ForeignRule, int]:
    """The rule whose NFTA_RULE_EXPRESSIONS is `data`, and how many packets matched it."""
    expressions = [(name, attributes) for name, attributes in _expressions(data)]
    packets = next((number(a.get(2)) for name, a in expressions if name == "counter"), 0)
    rule = _decode(expressions, comment)
    if rule is None:
        return ForeignRule(tuple(name for name, _ in expressions), comment), packets
    return rule, packets


class _Load(NamedTuple):
    """What is in the register: the loading expression's name and its numeric attributes."""

    name: str
    keys: tuple[int, ...]
    mask: bytes | None = None


_L4PROTO = _Load("meta", (Meta.L4PROTO,))


def _decode(expressions: Sequence[tuple[str, dict[int, bytes]]], comment: str) -> Rule | None:
    """None when the rule says anything that our vocabulary does not."""
    matches: list[Match] = []
    load: _Load | None = None
    family: int | None = None
    port: int | None = None
    udp = False
    action: Action | None = None
    for name, attributes in expressions:
        if action is not None:
            return None
        match name:
            case "meta" | "ct":
                load = _Load(name, (number(attributes.get(2)),))
            case "fib":
                load = _Load(name, (number(attributes.get(2)), number(attributes.get(3))))
            case "payload":
                load = _Load(name, tuple(number(attributes.get(key)) for key in (2, 3, 4)))
            case "bitwise":
                if load is None or any(value_of(attributes.get(5))):
                    return None
                load = load._replace(mask=value_of(attributes.get(4)))
            case "cmp":
                operator, value = number(attributes.get(2)), value_of(attributes.get(3))
                if load is None or operator not in (CMP_EQ, CMP_NEQ):
                    return None
                if load == ("meta", (Meta.NFPROTO,), None) and operator == CMP_EQ:
                    family = value[0]
                elif (load, operator, value) == (_L4PROTO, CMP_EQ, bytes([IPPROTO_UDP])):
                    udp = True
                else:
                    match = _decode_match(load, operator == CMP_NEQ, value, family)
                    if udp and isinstance(match, Port):
                        match, udp = Udp(match.port), False
                    if match is None or udp:
                        return None
                    family = None if isinstance(match, Destination) else family
                    matches.append(match)
                load = None
            case "immediate":
                port, action = _decode_immediate(attributes)
                if port is None and action is None:
                    return None
            case "redir":
                if port is None or number(attributes.get(3)) != PROTO_SPECIFIED:
                    return None
                action = Redirect(port)
            case "reject":
                if number(attributes.get(1)) != REJECT_TCP_RST:
                    return None
                action = Reject()
            case "counter":
                pass
            case _:
                return None
    if action is None or family is not None or load is not None or udp:
        return None
    return Rule(tuple(_canonical(matches)), action, comment)


def _canonical(matches: Sequence[Match]) -> Iterable[Match]:
    implied = any(isinstance(match, Opening | Port) for match in matches)
    return (match for match in matches if not (implied and isinstance(match, Tcp)))


def _decode_match(load: _Load, negated: bool, value: bytes, family: int | None) -> Match | None:
    if load.name == "payload" and load.keys[0] == Header.NETWORK:
        return None if negated else _decode_destination(load, value, family)
    match load, value, negated:
        case ("meta", (Meta.L4PROTO,), None), b"\x06", False:
            return Tcp()
        case ("payload", (Header.TRANSPORT, 13, 1), b"\x17"), b"\x02", _:
            return Opening(negated)
        case ("payload", (Header.TRANSPORT, 2, 2), None), _, False:
            return Port(int.from_bytes(value, "big"))
        case ("meta", (Meta.SKUID,), None), _, False:
            return User(int.from_bytes(value, sys.byteorder))
        case ("meta", (Meta.IIF,), None), _, False:
            return Loopback() if int.from_bytes(value, sys.byteorder) == LOOPBACK_INDEX else None
        case ("fib", (3, 2), None), _, _:
            local = int.from_bytes(value, sys.byteorder) == RTN_LOCAL
            return LocalAddress(negated) if local else None
        case ("ct", (2,), mask), b"\0\0\0\0", _ if mask == struct.pack("=I", IPS_DST_NAT):
            return Captured(not negated)
    return None


def _decode_destination(load: _Load, value: bytes, family: int | None) -> Destination | None:
    _, offset, _ = load.keys
    for known in (_IPV4, _IPV6):
        if (family, offset) == (known.protocol, known.offset):
            break
    else:
        return None
    length = 8 * len(value) if load.mask is None else int.from_bytes(load.mask, "big").bit_count()
    network = ipaddress.ip_network((value.ljust(known.size, b"\0"), length), strict=False)
    if load.mask not in (None, network.netmask.packed):
        return None
    return Destination(str(network))


def _decode_immediate(attributes: dict[int, bytes]) -> tuple[int | None, Action | None]:
    """The port that is loaded for a redirect, or the verdict."""
    data = dict(netlink_attributes(attributes.get(2, b"")))
    if number(attributes.get(1)) != _VERDICT:
        return int.from_bytes(data.get(1, b""), "big"), None
    verdict = dict(netlink_attributes(data.get(2, b"")))
    return None, Accept() if number(verdict.get(1)) == NF_ACCEPT else None


def _expressions(data: bytes) -> Iterator[tuple[str, dict[int, bytes]]]:
    for _, element in netlink_attributes(data):
        parts = dict(netlink_attributes(element))
        name = parts.get(1, b"").rstrip(b"\0").decode("ascii", "replace")
        yield name, dict(netlink_attributes(parts.get(2, b"")))


def _expression(name: str, attributes: bytes) -> bytes:
    return nested(1, attribute(1, name.encode() + b"\0") + nested(2, attributes))


def _meta(key: int) -> bytes:
    return _expression("meta", be32(2, key) + be32(1, _REGISTER))


def _payload(base: int, offset: int, size: int) -> bytes:
    attributes = be32(1, _REGISTER) + be32(2, base) + be32(3, offset) + be32(4, size)
    return _expression("payload", attributes)


def _bitwise(mask: bytes) -> bytes:
    return _expression(
        "bitwise",
        be32(1, _REGISTER)
        + be32(2, _REGISTER)
        + be32(3, len(mask))
        + nested(4, attribute(1, mask))
        + nested(5, attribute(1, bytes(len(mask)))),
    )


def _cmp(operator: int, value: bytes) -> bytes:
    data = nested(3, attribute(1, value))
    return _expression("cmp", be32(1, _REGISTER) + be32(2, operator) + data)
