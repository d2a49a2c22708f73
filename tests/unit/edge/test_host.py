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
