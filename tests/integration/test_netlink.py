"""Rules in a real kernel, in network namespaces of the tests' own: what is captured, what is not,
and that a change of rules is one step."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from tests.support.netns import Netns, join, netns, original_destination, tables

from fleetmesh.capture.redirect import Inputs, Service, closed, ruleset
from fleetmesh.capture.ruleset import (
    Accept,
    Chain,
    Hook,
    Kind,
    Port,
    Redirect,
    Rule,
    Ruleset,
    difference,
    text,
)
from fleetmesh.edge import netlink

HOST, HOST6 = "10.99.1.1", "fd99:1::1"
PEER, PEER6 = "10.99.1.2", "fd99:1::2"
BOTH = pytest.mark.parametrize(("host", "peer"), [(HOST, PEER), (HOST6, PEER6)], ids=["v4", "v6"])

WEB, CART, AGENT, SOMEBODY = 4001, 4002, 4003, 4004
INPUTS = Inputs(
    services=(
        Service("web", port=8080, uid=WEB, outbound_port=15100),
        Service("cart", port=7001, uid=CART, outbound_port=15101, stays_closed=True),
        Service("ledger", port=9000),
    ),
    agent_uid=AGENT,
    exclude_ports=(5432,),
    exclude_cidrs=("10.99.1.128/25", "fd99:1::8000/113"),
)
RULES = ruleset(INPUTS)


class Pair(NamedTuple):
    """`host` is where the rules are; `peer` another machine."""

    host: Netns
    peer: Netns


@pytest.fixture
def pair() -> Iterator[Pair]:
    with netns("host") as host, netns("peer") as peer:
        join(host, peer, 1)
        peer.run("ip", "addr", "add", "10.99.1.130/24", "dev", "eth0")
        yield Pair(host, peer)


def accept(listening: socket.socket) -> socket.socket:
    return listening.accept()[0]


def echoes(client: socket.socket, server: socket.socket) -> bool:
    """Whether bytes still pass both ways."""
    client.sendall(b"ping")
    server.settimeout(3)
    got = server.recv(4)
    server.sendall(got)
    return client.recv(4) == b"ping"


def reaches(space: Netns, address: str, port: int, uid: int, listening: socket.socket) -> bool:
    """Whether a connection of `uid` ends on `listening` (it is accepted and closed)."""
    with space.connect(address, port, uid=uid) as client, accept(listening) as server:
        return server.getpeername()[1] == client.getsockname()[1]


def test_rules_read_back_are_the_rules_written(pair: Pair) -> None:
    for rules in (RULES, closed(INPUTS), RULES):
        pair.host.call(netlink.replace, rules)
        reading = pair.host.call(netlink.read)
        assert difference(rules, reading.ruleset) == ()
        assert reading.ruleset == rules
    assert {name: len(counts) for name, counts in reading.packets.items()} == {
        chain.name: len(chain.rules) for chain in RULES.chains
    }


def test_nft_takes_our_text_for_the_same_rules(pair: Pair) -> None:
    """An independent encoder, nft, turns our text into rules that read back as the same values."""
    pair.host.run("nft", "-f", "-", stdin=text(RULES))
    assert pair.host.call(netlink.read).ruleset == RULES


def test_nft_lists_what_we_write(pair: Pair) -> None:
    pair.host.call(netlink.replace, RULES)
    listed = pair.host.run("nft", "-s", "list", "table", "inet", "fleetmesh")
    assert 'meta l4proto tcp meta skuid 4001 counter redirect to :15100 comment "web"' in listed
    assert 'tcp dport 8080 counter redirect to :15006 comment "web"' in listed
    assert "type nat hook output priority -100; policy accept;" in listed


@BOTH
def test_each_users_connections_go_to_its_own_socket(pair: Pair, host: str, peer: str) -> None:
    """The uid of the connecting process decides, and the original destination is told."""
    pair.host.call(netlink.replace, RULES)
    loopback = "::1" if ":" in host else "127.0.0.1"
    for uid, port in ((WEB, 15100), (CART, 15101)):
        with (
            pair.host.listen(loopback, port) as outbound,
            pair.host.connect(peer, 8000, uid=uid) as client,
            accept(outbound) as server,
        ):
            assert original_destination(server) == (peer, 8000)
            assert client.getpeername()[:2] == (peer, 8000)
            assert echoes(client, server)


@BOTH
def test_a_destination_that_nobody_has_is_captured_too(pair: Pair, host: str, peer: str) -> None:
    """As virtual addresses are: it only has to be routed."""
    pair.host.call(netlink.replace, RULES)
    virtual = "fd00:240::1" if ":" in host else "240.0.0.1"
    with (
        pair.host.listen("::1" if ":" in host else "127.0.0.1", 15100) as outbound,
        pair.host.connect(virtual, 80, uid=WEB),
        accept(outbound) as server,
    ):
        assert original_destination(server) == (virtual, 80)


@BOTH
@pytest.mark.parametrize("uid", [0, AGENT, SOMEBODY])
def test_other_users_connect_directly(pair: Pair, host: str, peer: str, uid: int) -> None:
    pair.host.call(netlink.replace, RULES)
    with pair.peer.listen("::", 8000) as direct:
        assert reaches(pair.host, peer, 8000, uid, direct)


@BOTH
def test_own_address_is_captured_and_loopback_is_not(pair: Pair, host: str, peer: str) -> None:
    """cart → web on one host stands under intentions; what an application says to itself does
    not."""
    pair.host.call(netlink.replace, RULES)
    loopback = "::1" if ":" in host else "127.0.0.1"
    with (
        pair.host.listen("::", 8080) as application,
        pair.host.listen(loopback, 15101) as outbound,
    ):
        with pair.host.connect(host, 8080, uid=CART), accept(outbound) as server:
            assert original_destination(server) == (host, 8080)
        assert reaches(pair.host, loopback, 8080, CART, application)


@pytest.mark.parametrize(
    ("address", "port"),
    [(PEER, 22), (PEER6, 22), (PEER, 5432), (PEER6, 5432), ("10.99.1.130", 8000)],
    ids=["ssh", "ssh6", "port", "port6", "cidr"],
)
def test_what_is_exempt_goes_directly(pair: Pair, address: str, port: int) -> None:
    pair.host.call(netlink.replace, RULES)
    with pair.peer.listen("::", port) as direct:
        assert reaches(pair.host, address, port, WEB, direct)


@BOTH
def test_plain_connections_from_other_hosts_are_captured(pair: Pair, host: str, peer: str) -> None:
    pair.host.call(netlink.replace, RULES)
    with pair.host.listen("::", 15006) as plain, pair.host.listen("::", 9000) as application:
        with pair.peer.connect(host, 9000) as client, accept(plain) as server:
            address, port = original_destination(server)
            assert (address, port) == (host, 9000)
            assert echoes(client, server)
        assert reaches(pair.host, host, 9000, SOMEBODY, application)


@BOTH
@pytest.mark.parametrize("port", [22, 21000, 8500])
def test_ports_of_no_application_are_left_alone(
    pair: Pair, host: str, peer: str, port: int
) -> None:
    pair.host.call(netlink.replace, RULES)
    with pair.host.listen("::", port) as listening:
        assert reaches(pair.peer, host, port, 0, listening)


def test_ssh_is_never_captured_even_if_it_is_declared(pair: Pair) -> None:
    pair.host.call(netlink.replace, ruleset(Inputs((Service("shell", port=22),))))
    with pair.host.listen("::", 22) as sshd:
        assert reaches(pair.peer, HOST, 22, 0, sshd)


@BOTH
def test_agents_sockets_refuse_what_was_not_redirected(pair: Pair, host: str, peer: str) -> None:
    """Nobody borrows an identity by dialling a service's outbound port, not even from loopback."""
    pair.host.call(netlink.replace, RULES)
    loopback = "::1" if ":" in host else "127.0.0.1"
    with pair.host.listen(loopback, 15100), pair.host.listen("::", 15006):
        for uid in (SOMEBODY, WEB, CART, 0):
            with pytest.raises(ConnectionRefusedError):
                pair.host.connect(loopback, 15100, uid=uid)
        with pytest.raises(ConnectionRefusedError):
            pair.peer.connect(host, 15006)


def test_established_connections_stay_through_all_changes(pair: Pair) -> None:
    """Those from before the rules stay direct, redirected ones stay redirected."""
    with (
        pair.peer.listen("::", 8000) as direct,
        pair.host.listen("127.0.0.1", 15100) as outbound,
        pair.host.connect(PEER, 8000, uid=WEB) as before,
        accept(direct) as before_server,
    ):
        assert echoes(before, before_server)
        pair.host.call(netlink.replace, RULES)
        assert echoes(before, before_server)
        with pair.host.connect(PEER, 8000, uid=WEB) as captured, accept(outbound) as server:
            for rules in (RULES, ruleset(Inputs((Service("web", 8080, WEB, 15100),))), RULES):
                pair.host.call(netlink.replace, rules)
                assert echoes(captured, server)
                assert echoes(before, before_server)
        pair.host.call(netlink.remove)
        assert echoes(before, before_server)


def test_replacing_leaves_no_gap(pair: Pair) -> None:
    """While rules are replaced over and over, not one connection gets past them."""
    pair.host.call(netlink.replace, RULES)
    stop = threading.Event()

    def replace() -> int:
        count = 0
        while not stop.is_set():
            pair.host.call(netlink.replace, RULES)
            count += 1
        return count

    replaced: list[int] = []
    replacing = threading.Thread(target=lambda: replaced.append(replace()))
    with pair.peer.listen("::", 8000) as direct, pair.host.listen("127.0.0.1", 15100) as outbound:
        replacing.start()
        try:
            for _ in range(300):
                with pair.host.connect(PEER, 8000, uid=WEB), accept(outbound):
                    pass
        finally:
            stop.set()
            replacing.join()
        direct.settimeout(0.1)
        with pytest.raises(TimeoutError):
            direct.accept()
    assert replaced[0] >= 5


def test_what_is_read_is_never_half_of_two_rule_sets(pair: Pair) -> None:
    """Chains and rules come in separate dumps, while somebody puts rules in and out."""
    stop = threading.Event()

    def flicker() -> None:
        while not stop.is_set():
            pair.host.call(netlink.replace, RULES)
            pair.host.call(netlink.remove)

    flickering = threading.Thread(target=flicker)
    flickering.start()
    try:
        seen = [pair.host.call(netlink.read).ruleset for _ in range(150)]
    finally:
        stop.set()
        flickering.join()
    assert {len(rules) for rules in seen} == {0, len(RULES)}


def test_a_refused_rule_set_leaves_the_old_one(pair: Pair) -> None:
    """One rule that the kernel refuses (a redirect outside nat) undoes the whole batch."""
    pair.host.call(netlink.replace, RULES)
    bad = Ruleset(
        (
            Chain("input", Kind.FILTER, Hook.INPUT, 0, (Rule((Port(80),), Accept()),)),
            Chain("output", Kind.FILTER, Hook.OUTPUT, 0, (Rule((Port(80),), Redirect(81)),)),
        )
    )
    with pytest.raises(netlink.NetfilterError, match="nftables: Operation not supported"):
        pair.host.call(netlink.replace, bad)
    assert pair.host.call(netlink.read).ruleset == RULES


def test_removal_is_complete_and_touches_no_other_table(pair: Pair) -> None:
    pair.host.run("nft", "add table inet other; add table ip fleetmesh")
    pair.host.call(netlink.replace, RULES)
    for _ in range(2):
        pair.host.call(netlink.remove)
        assert tables(pair.host) == {"inet other", "ip fleetmesh"}
        assert pair.host.call(netlink.read) == (Ruleset(), {})


def test_a_table_left_by_somebody_is_replaced_whole(pair: Pair) -> None:
    pair.host.run(
        "nft",
        "add table inet fleetmesh; add chain inet fleetmesh mine; add set inet fleetmesh s"
        " { type ipv4_addr; }; add rule inet fleetmesh mine ip saddr @s drop",
    )
    found = pair.host.call(netlink.read).ruleset
    assert "# foreign rule: meta cmp payload lookup immediate" in text(found)
    assert difference(RULES, found)
    pair.host.call(netlink.replace, RULES)
    assert pair.host.call(netlink.read).ruleset == RULES
    assert "set s" not in pair.host.run("nft", "list", "ruleset")


def test_closed_services_reach_nothing_and_open_ones_everything(pair: Pair) -> None:
    """The rules of a stopped agent: cart is closed, web and ledger are open."""
    pair.host.call(netlink.replace, closed(INPUTS))
    with (
        pair.peer.listen("::", 8000) as callee,
        pair.host.listen("::", 7001) as cart,
        pair.host.listen("::", 9000) as ledger,
    ):
        for address in (PEER, PEER6):
            with pytest.raises(ConnectionRefusedError):
                pair.host.connect(address, 8000, uid=CART)
            assert reaches(pair.host, address, 8000, WEB, callee)
        for address in (HOST, HOST6):
            with pytest.raises(ConnectionRefusedError):
                pair.peer.connect(address, 7001)
            assert reaches(pair.peer, address, 9000, 0, ledger)
        assert reaches(pair.host, "127.0.0.1", 7001, 0, cart)


def test_counters_count_connections(pair: Pair) -> None:
    pair.host.call(netlink.replace, RULES)
    with pair.host.listen("127.0.0.1", 15100) as outbound:
        for _ in range(3):
            with pair.host.connect(PEER, 8000, uid=WEB) as client, accept(outbound) as server:
                assert echoes(client, server)
    ruleset_, packets = pair.host.call(netlink.read)
    shown = text(ruleset_, packets)
    assert "meta skuid 4001 counter packets 3 redirect to :15100" in shown


def test_foreign_nat_chains_are_named(pair: Pair) -> None:
    pair.host.call(netlink.replace, RULES)
    assert pair.host.call(netlink.foreign_nat_chains) == ()
    pair.host.run(
        "nft",
        "add table ip docker; add chain ip docker OUT"
        " { type nat hook output priority -150; policy accept; }",
    )
    assert pair.host.call(netlink.foreign_nat_chains) == (
        "ip docker/OUT hook output priority -150",
    )


PROGRAM = """
import asyncio, uvloop
from fleetmesh.capture.redirect import Inputs, Service, ruleset
from fleetmesh.edge import netlink
rules = ruleset(Inputs((Service("web", 8080, 4001, 15100),)))
async def main():
    await asyncio.to_thread(netlink.replace, rules)
    assert (await asyncio.to_thread(netlink.read)).ruleset == rules
    await asyncio.to_thread(netlink.remove)
try:
    uvloop.run(main())
except netlink.NetfilterError as error:
    print(error)
else:
    print("done")
"""


@pytest.mark.parametrize(
    ("privileges", "says"),
    [
        ([], "nftables: Operation not permitted (CAP_NET_ADMIN is missing)"),
        (["--inh-caps=+net_admin", "--ambient-caps=+net_admin"], "done"),
    ],
)
def test_cap_net_admin_is_all_it_takes(pair: Pair, privileges: list[str], says: str) -> None:
    """As another user, without new privileges, in a running uvloop; and refused at once without
    the capability."""
    said = pair.host.run(
        "env", f"PYTHONPATH={':'.join(sys.path)}",
        "setpriv", "--reuid=4003", "--clear-groups", "--no-new-privs", *privileges,
        sys.executable, "-c", PROGRAM,
    )  # fmt: skip
    assert said.strip() == says
