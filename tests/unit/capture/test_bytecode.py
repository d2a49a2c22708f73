"""Rules and the kernel's expressions. That the kernel agrees is proven in tests/integration."""

from __future__ import annotations

import pytest

from fleetmesh.capture.attributes import netlink_attributes
from fleetmesh.capture.bytecode import decode, encode
from fleetmesh.capture.ruleset import (
    Accept,
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


def names(data: bytes) -> list[str]:
    return [
        dict(netlink_attributes(element))[1].rstrip(b"\0").decode()
        for _, element in netlink_attributes(data)
    ]


@pytest.mark.parametrize("action", [Accept(), Redirect(15100), Reject()], ids=str)
@pytest.mark.parametrize(
    "matches",
    [
        (),
        (Tcp(),),
        (Tcp(), User(4001)),
        (User(0xFFFFFFFE),),
        (Opening(),),
        (Opening(negated=True), Port(1)),
        (Port(65535), Captured()),
        (Port(22), Captured(negated=True)),
        (Udp(53), User(4001)),
        (Destination("10.0.0.0/8"), Udp(53)),
        (Loopback(),),
        (LocalAddress(),),
        (LocalAddress(negated=True),),
        *(
            (Destination(network), Port(80))
            for network in (
                "0.0.0.0/0", "10.0.0.0/8", "10.16.0.0/12", "10.1.2.3/32", "128.0.0.0/1",
                "::/0", "::1/128", "fd00::/8", "fd00::/61", "2001:db8::/127",
            )
        ),
        (Destination("10.0.0.0/8"), Destination("10.1.0.0/17"), User(1)),
    ],
    ids=lambda matches: " ".join(map(str, matches)) or "any",
)  # fmt: skip
def test_what_is_written_is_read(matches: tuple[Match, ...], action: Accept) -> None:
    rule = Rule(matches, action, "why")
    assert decode(encode(rule), "why") == (rule, 0)


def test_whole_bytes_of_an_address_need_no_mask() -> None:
    """As nft does it, so that its listing and ours are the same bytes."""
    whole = encode(Rule((Destination("fd00::/8"),), Accept()))
    part = encode(Rule((Destination("fd00::/9"),), Accept()))
    assert names(whole) == ["meta", "cmp", "payload", "cmp", "counter", "immediate"]
    assert names(part) == ["meta", "cmp", "payload", "bitwise", "cmp", "counter", "immediate"]


def test_tcp_is_looked_up_once_a_rule() -> None:
    rule = Rule((Opening(), Port(80)), Accept())
    assert names(encode(rule)).count("meta") == 1


def test_counted_packets_are_told() -> None:
    data = encode(Rule((), Accept()))
    zero = b"\x0c\x00\x02\x00" + bytes(8)
    assert data.count(zero) == 1
    counted = data.replace(zero, zero[:4] + (259).to_bytes(8, "big"))
    assert decode(counted, "") == (Rule((), Accept()), 259)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"counter\0", b"limited\0"),
        (b"\x08\x00\x02\x00\0\0\0\0", b"\x08\x00\x02\x00\0\0\0\x05"),
        (b"\x08\x00\x03\x00\0\0\0\x02", b"\x08\x00\x03\x00\0\0\0\x00"),
        (b"\x05\x00\x01\x00\x06", b"\x05\x00\x01\x00\x84"),
    ],
    ids=["another expression", "dport >= 80", "sport 80", "sctp"],
)
def test_what_we_cannot_say_is_foreign(before: bytes, after: bytes) -> None:
    data = encode(Rule((Port(80),), Accept()))
    assert before in data
    changed = data.replace(before, after)
    assert decode(changed, "theirs")[0] == ForeignRule(tuple(names(changed)), "theirs")


def test_what_only_tcp_has_is_not_read_of_udp() -> None:
    opening = encode(Rule((Opening(), Port(80)), Accept()))
    udp = opening.replace(b"\x05\x00\x01\x00\x06", b"\x05\x00\x01\x00\x11")
    assert udp != opening
    assert isinstance(decode(udp, "")[0], ForeignRule)


@pytest.mark.parametrize("cut", range(0, 120, 7))
def test_cut_bytes_are_no_rule_of_ours(cut: int) -> None:
    data = encode(Rule((Port(80),), Redirect(15006)))
    assert isinstance(decode(data[:cut], "")[0], ForeignRule)
