"""nftables over netlink: the whole of table `inet fleetmesh` in one transaction, and back.

Blocking calls of a few milliseconds; in an event loop they belong in a thread. Messages are
pyroute2's; the exchange is ours, because the kernel answers a caller without CAP_NET_ADMIN on
the message that begins the batch, for which `nlm_request_batch` never waits: it would hang.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES, nfgen_msg
from pyroute2.netlink.nfnetlink.nftsocket import (
    NFPROTO_INET,
    NFT_MSG_DELTABLE,
    NFT_MSG_GETCHAIN,
    NFT_MSG_GETGEN,
    NFT_MSG_GETRULE,
    NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWRULE,
    NFT_MSG_NEWTABLE,
    nft_chain_msg,
    nft_gen_msg,
    nft_rule_msg,
    nft_table_msg,
)

from fleetmesh.capture import bytecode
from fleetmesh.capture.attributes import netlink_attributes
from fleetmesh.capture.ruleset import TABLE, Chain, ForeignRule, Hook, Kind, Packets, Rule, Ruleset
from fleetmesh.edge import routes

_NETLINK_NETFILTER = 12
_NLM_F_APPEND = 0x800
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SOL_NETLINK, _NETLINK_EXT_ACK = 270, 11
_NLMSGERR_ATTR_MSG = 1
_FLAG_CAPPED, _FLAG_TLVS = 0x100, 0x200
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_PATIENCE = 5.0  # the kernel answers before sendto returns; this bounds a broken kernel
_ATTEMPTS = 5  # at reading a rule set that somebody is changing
_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
_NF_ACCEPT = 1


class NetfilterError(Exception):
    """The kernel refused. `code` is the errno, `str()` a sentence for an operator."""

    def __init__(self, code: int, detail: str) -> None:
        if code == errno.EPERM:
            detail = "CAP_NET_ADMIN is missing"
        super().__init__(f"nftables: {os.strerror(code)}{f' ({detail})' if detail else ''}")
        self.code = code


class Reading(NamedTuple):
    """What the kernel has in our table. `packets` counts connections, or refused openings: nat
    chains and our rules see no more of a connection than its first packet."""

    ruleset: Ruleset
    packets: Packets


class _RawRule(nft_rule_msg):  # type: ignore[misc]
    """A rule message whose expressions stay bytes; `capture.bytecode` reads and writes them."""

    nla_map = tuple(
        (name, "cdata" if name == "NFTA_RULE_EXPRESSIONS" else kind)
        for name, kind in nft_rule_msg.nla_map
    )


def replace(ruleset: Ruleset) -> None:
    """Make `ruleset` the whole content of our table, in one transaction: other processes and
    packets see all of it or the one before. Raises NetfilterError; then the one before stays."""
    messages = [_table(NFT_MSG_NEWTABLE), _table(NFT_MSG_DELTABLE)]
    if ruleset.chains:
        messages.append(_table(NFT_MSG_NEWTABLE))
    for chain in ruleset.chains:
        messages.append(_chain(chain))
        messages += [_rule(chain.name, rule) for rule in chain.rules]
    if _redirects(ruleset):  # what a rule sends on must have had a route, so that comes first
        route_virtual(ruleset)
    _transact(messages)
    if not _redirects(ruleset):
        route_virtual(ruleset)


def remove() -> None:
    """Delete our table if there is one. Raises NetfilterError."""
    replace(Ruleset())


def read() -> Reading:
    """Our table as the kernel has it, counters included. Raises NetfilterError."""
    before = _generation()
    for _ in range(_ATTEMPTS):
        chains = [m for m in _ask(NFT_MSG_GETCHAIN, nft_chain_msg) if _ours(m)]
        rules = [m for m in _ask(NFT_MSG_GETRULE, _RawRule) if _ours(m)]
        after = _generation()
        if after == before:
            return _reading(chains, rules)
        before = after
    raise NetfilterError(errno.EAGAIN, "the rules change faster than they can be read")


def route_virtual(ruleset: Ruleset) -> None:
    """Have the routes of virtual addresses while `ruleset` redirects, and else not. Raises
    NetfilterError."""
    try:
        if _redirects(ruleset):
            routes.add()
        else:
            routes.remove()
    except OSError as error:
        raise NetfilterError(error.errno or errno.EIO, "routes of virtual addresses") from error


def _redirects(ruleset: Ruleset) -> bool:
    return any(chain.kind is Kind.NAT for chain in ruleset.chains)


def foreign_nat_chains() -> tuple[str, ...]:
    """nat chains of other tables at the hooks where capture redirects, as `ip docker/OUTPUT hook
    output priority -100`. One of a lower priority decides before us. Raises NetfilterError."""
    found = []
    for message in _ask(NFT_MSG_GETCHAIN, nft_chain_msg):
        hook = message.get_attr("NFTA_CHAIN_HOOK")
        family = _FAMILIES.get(message["nfgen_family"])
        if _ours(message) or hook is None or family is None:
            continue
        number = hook.get_attr("NFTA_HOOK_HOOKNUM")
        if message.get_attr("NFTA_CHAIN_TYPE") == Kind.NAT and number in (
            Hook.PREROUTING,
            Hook.OUTPUT,
        ):
            table, name = message.get_attr("NFTA_CHAIN_TABLE"), message.get_attr("NFTA_CHAIN_NAME")
            found.append(
                f"{family} {table}/{name} hook {Hook(number).name.lower()}"
                f" priority {hook.get_attr('NFTA_HOOK_PRIORITY')}"
            )
    return tuple(found)


def _table(command: int) -> Any:
    flags = NLM_F_CREATE if command == NFT_MSG_NEWTABLE else 0
    attributes: list[tuple[str, object]] = [("NFTA_TABLE_NAME", TABLE)]
    if command == NFT_MSG_NEWTABLE:
        attributes.append(("NFTA_TABLE_FLAGS", 0))
    return _message(nft_table_msg, command, flags, attributes)


def _chain(chain: Chain) -> Any:
    attributes: list[tuple[str, object]] = [
        ("NFTA_CHAIN_TABLE", TABLE),
        ("NFTA_CHAIN_NAME", chain.name),
    ]
    if chain.hook is not None:
        place = [
            ("NFTA_HOOK_HOOKNUM", int(chain.hook)),
            ("NFTA_HOOK_PRIORITY", chain.priority),
        ]
        attributes += [
            ("NFTA_CHAIN_HOOK", {"attrs": place}),
            ("NFTA_CHAIN_POLICY", int(chain.accepts)),
            ("NFTA_CHAIN_TYPE", str(chain.kind)),
        ]
    return _message(nft_chain_msg, NFT_MSG_NEWCHAIN, NLM_F_CREATE, attributes)


def _rule(chain: str, rule: Rule | ForeignRule) -> Any:
    assert isinstance(rule, Rule), "a rule that was read but not understood cannot be written"
    attributes: list[tuple[str, object]] = [
        ("NFTA_RULE_TABLE", TABLE),
        ("NFTA_RULE_CHAIN", chain),
        ("NFTA_RULE_EXPRESSIONS", bytecode.encode(rule)),
    ]
    if rule.comment:
        attributes.append(("NFTA_RULE_USERDATA", {"value": rule.comment}))
    return _message(_RawRule, NFT_MSG_NEWRULE, NLM_F_CREATE | _NLM_F_APPEND, attributes)


def _message(kind: Any, command: int, flags: int, attributes: Sequence[tuple[str, object]]) -> Any:
    message = kind()
    message["nfgen_family"] = NFPROTO_INET
    message["attrs"] = attributes
    message["header"]["type"] = (NFNL_SUBSYS_NFTABLES << 8) | command
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | flags
    return message


def _edge(kind: int) -> Any:
    message = nfgen_msg()
    message["res_id"] = NFNL_SUBSYS_NFTABLES
    message["header"]["type"] = kind
    message["header"]["flags"] = NLM_F_REQUEST
    return message


def _transact(messages: Sequence[Any]) -> None:
    """All of `messages` or none. The kernel acknowledges each, so the last answer is known."""
    data = b""
    for number, message in enumerate((_edge(_BATCH_BEGIN), *messages, _edge(_BATCH_END))):
        message["header"]["sequence_number"] = number
        message.encode()
        data += message.data
    waiting = set(range(1, len(messages) + 1))
    with _socket() as sock:
        _send(sock, data)
        while waiting:
            for kind, flags, number, body in _answers(sock):
                if kind == _NLMSG_ERROR:
                    _check(flags, body)
                    waiting.discard(number)


def _generation() -> int:
    """Of all rules in the network namespace; every transaction makes a new one."""
    return sum(m.get_attr("NFTA_GEN_ID") for m in _ask(NFT_MSG_GETGEN, nft_gen_msg, 0))


def _ask(command: int, kind: Any, flags: int = NLM_F_DUMP) -> Iterator[Any]:
    """The answers: to a dump, every chain or rule of the network namespace."""
    message = _message(kind, command, flags, [])
    message["nfgen_family"] = 0
    message.encode()
    with _socket() as sock:
        _send(sock, message.data)
        while True:
            for answer, answer_flags, _, body in _answers(sock):
                if answer == _NLMSG_ERROR:
                    _check(answer_flags, body)
                if answer in (_NLMSG_DONE, _NLMSG_ERROR):
                    return
                parsed = kind(_HEADER.pack(_HEADER.size + len(body), answer, 0, 0, 0) + body)
                parsed.decode()
                yield parsed


def _socket() -> socket.socket:
    sock = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
    )
    sock.settimeout(_PATIENCE)
    sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
    sock.bind((0, 0))
    return sock


def _send(sock: socket.socket, data: bytes) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, max(2 * len(data), 65536))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.sendto(data, (0, 0))
    except OSError as error:
        raise NetfilterError(error.errno or errno.EIO, "sending") from error


def _answers(sock: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence number, body) of each message in the next datagram."""
    try:
        data = sock.recv(1 << 17)
    except TimeoutError as error:
        raise NetfilterError(errno.ETIMEDOUT, "no answer") from error
    except OSError as error:
        raise NetfilterError(error.errno or errno.EIO, "receiving") from error
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, number, _ = _HEADER.unpack_from(data, at)
        yield kind, flags, number, data[at + _HEADER.size : at + length]
        at += (max(length, _HEADER.size) + 3) & ~3


def _check(flags: int, body: bytes) -> None:
    """`body` is a struct nlmsgerr; raises NetfilterError unless it acknowledges."""
    (code,) = struct.unpack_from("=i", body)
    if not code:
        return
    detail = ""
    if flags & _FLAG_TLVS:
        (length,) = struct.unpack_from("=I", body, 4)
        start = 4 + (_HEADER.size if flags & _FLAG_CAPPED else (length + 3) & ~3)
        said = dict(netlink_attributes(body[start:])).get(_NLMSGERR_ATTR_MSG, b"")
        detail = said.rstrip(b"\0").decode(errors="replace")
    raise NetfilterError(-code, detail)


def _ours(message: Any) -> bool:
    table = message.get_attr("NFTA_CHAIN_TABLE") or message.get_attr("NFTA_RULE_TABLE")
    return bool(message["nfgen_family"] == NFPROTO_INET and table == TABLE)


def _reading(chains: Sequence[Any], rules: Sequence[Any]) -> Reading:
    decoded: dict[str, list[tuple[Rule | ForeignRule, int]]] = {}
    for message in rules:
        rule = bytecode.decode(
            message.get_attr("NFTA_RULE_EXPRESSIONS"), message.get_attr("NFTA_RULE_USERDATA") or ""
        )
        decoded.setdefault(message.get_attr("NFTA_RULE_CHAIN"), []).append(rule)
    found, packets = [], {}
    for message in sorted(chains, key=lambda chain: str(chain.get_attr("NFTA_CHAIN_NAME"))):
        name = message.get_attr("NFTA_CHAIN_NAME")
        hook = message.get_attr("NFTA_CHAIN_HOOK")
        found.append(
            Chain(
                name=name,
                kind=Kind(message.get_attr("NFTA_CHAIN_TYPE") or Kind.FILTER),
                hook=Hook(hook.get_attr("NFTA_HOOK_HOOKNUM")) if hook else None,
                priority=hook.get_attr("NFTA_HOOK_PRIORITY") if hook else 0,
                rules=tuple(rule for rule, _ in decoded.get(name, ())),
                accepts=hook is None or message.get_attr("NFTA_CHAIN_POLICY") == _NF_ACCEPT,
            )
        )
        packets[name] = tuple(count for _, count in decoded.get(name, ()))
    return Reading(Ruleset(tuple(found)), packets)
