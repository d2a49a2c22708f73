"""/proc as the kernel writes it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from fleetmesh.edge import host

LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max processes             7713                 7713                 processes
Max open files            65536                524288               files
"""
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:3AFC 00000000:0000 0A 00000000:00000000 00:00000000 00000000   990        0 4242 1
   1: 0100007F:3AFC 0100007F:D431 01 00000000:00000000 00:00000000 00000000   990        0 4243 1
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue
   0: 00000000000000000000000001000000:3AFC 00000000000000000000000000000000:0000 0A 0:0 00:0 0 \
990 0 4244 1
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "7").mkdir()
    (tmp_path / "net").mkdir()
    return tmp_path


def test_the_limit_of_open_files(proc: Path) -> None:
    (proc / "7/limits").write_text(LIMITS)
    assert host.file_limit(7, proc) == 65536
    assert host.file_limit(8, proc) is None


def test_connection_tracking(proc: Path) -> None:
    assert host.conntrack(proc) is None
    table = proc / "sys/net/netfilter"
    table.mkdir(parents=True)
    (table / "nf_conntrack_count").write_text("12\n")
    (table / "nf_conntrack_max").write_text("262144\n")
    assert host.conntrack(proc) == host.Conntrack(12, 262144)


def test_listeners_of_both_families(proc: Path) -> None:
    """Established connections are none."""
    assert host.listeners(proc) == {}
    (proc / "net/tcp").write_text(TCP)
    (proc / "net/tcp6").write_text(TCP6)
    assert host.listeners(proc) == {15100: {4242, 4244}}


def test_a_socket_of_our_own() -> None:
    """The inode that /proc/net/tcp shows is among the process's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        inodes = host.listeners()[server.getsockname()[1]]
        ours = host.socket_inodes(os.getpid())
        assert ours is not None
        assert inodes <= ours


def test_a_process_that_is_gone(proc: Path) -> None:
    assert host.socket_inodes(8, proc) is None


NETSTAT = """\
TcpExt: SyncookiesSent ListenOverflows ListenDrops
TcpExt: 0 17 18
IpExt: InNoRoutes InTruncatedPkts
IpExt: 1 2
"""


def test_connections_that_found_a_full_queue(proc: Path) -> None:
    assert host.listen_overflows(proc) is None
    (proc / "net/netstat").write_text(NETSTAT)
    assert host.listen_overflows(proc) == 17
    assert host.listen_overflows() is not None


def test_open_files_of_a_process(proc: Path) -> None:
    (proc / "7/limits").write_text(LIMITS)
    assert host.open_files(7, proc) is None
    (proc / "7/fd").mkdir()
    for name in "0123":
        (proc / "7/fd" / name).touch()
    assert host.open_files(7, proc) == host.Files(7, 4, 65536)


def test_what_the_kernel_is_tuned_to(proc: Path) -> None:
    assert host.tuning(proc) == host.Tuning()
    ipv4, core = proc / "sys/net/ipv4", proc / "sys/net/core"
    ipv4.mkdir(parents=True)
    core.mkdir()
    (ipv4 / "ip_local_port_range").write_text("32768\t60999\n")
    (ipv4 / "ip_local_reserved_ports").write_text("15006,33000-33002\n")
    (core / "somaxconn").write_text("128\n")
    reserved = frozenset({15006, 33000, 33001, 33002})
    assert host.tuning(proc) == host.Tuning(128, range(32768, 61000), reserved)


def test_the_destination_that_takes_most_ports(proc: Path) -> None:
    """Listeners take none, nor do connections from outside the range."""
    known = host.Tuning(4096, range(0xD000, 0xE000), frozenset({0xD0FF}))
    head, rest = TCP.splitlines()[0], "00000000:00000000 00:00000000 00000000   990        0 9 1"
    lines = [
        head,
        f"   0: 0100007F:D001 0200004D:5208 01 {rest}",
        f"   1: 0100007F:D002 0200004D:5208 06 {rest}",
        f"   2: 0100007F:D003 0300004D:5208 01 {rest}",
        f"   3: 0100007F:C001 0300004D:5208 01 {rest}",
        f"   4: 0100007F:D0FF 0300004D:5208 01 {rest}",
        f"   5: 0100007F:D004 0300004D:5208 0A {rest}",
    ]
    (proc / "net/tcp").write_text("\n".join(lines) + "\n")
    assert host.dialled(known, proc) == host.Dialled(0x1000 - 1, 2, "77.0.0.2 port 21000")
    assert host.dialled(host.Tuning(), proc) is None
    v6 = f"   0: {'0' * 32}:D001 {'0' * 24}01000000:0050 01 {rest}"
    (proc / "net/tcp").unlink()
    (proc / "net/tcp6").write_text(f"{head}\n{v6}\n")
    assert host.dialled(known, proc) == host.Dialled(0x1000 - 1, 1, "::1 port 80")
