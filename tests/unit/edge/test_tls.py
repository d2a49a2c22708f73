"""Contexts from leaves: what they demand, and where keys are never written."""

from __future__ import annotations

import ssl
from pathlib import Path

import msgspec
import pytest
from tests.support.ca import Authority

from fleetmesh.edge.tls import IdentityError, client_context, server_context

AUTHORITY = Authority()


@pytest.mark.parametrize("make", [client_context, server_context])
def test_the_peer_must_prove_itself(make: type) -> None:
    context = make([AUTHORITY.root], AUTHORITY.leaf("api"))
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert not context.check_hostname
    names = {suite["name"] for suite in context.get_ciphers()}
    assert names
    assert all("GCM" in name or "CHACHA20" in name for name in names)


def test_every_root_of_a_rotation_is_trusted() -> None:
    other = Authority()
    context = client_context([AUTHORITY.root, other.root], AUTHORITY.leaf("api"))
    assert len(context.get_ca_certs()) == 2


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [((), None), (("a", "b"), "b"), (("http/1.1",), "http/1.1"), (("c",), None)],
)
def test_nothing_is_offered_unasked_and_no_overlap_is_no_failure(
    offered: tuple[str, ...], agreed: str | None
) -> None:
    leaf, roots = AUTHORITY.leaf("api"), [AUTHORITY.root]
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(roots, leaf, *offered).wrap_bio(one, other)
    server = server_context(roots, leaf, "b").wrap_bio(other, one, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pass
    assert client.version() == "TLSv1.3"
    assert client.selected_alpn_protocol() == server.selected_alpn_protocol() == agreed


def test_what_is_of_no_use_is_told_without_the_key() -> None:
    leaf, other = AUTHORITY.leaf("api"), AUTHORITY.leaf("web")
    for roots, wrong in (
        ([AUTHORITY.root], msgspec.structs.replace(leaf, key=None)),
        ([AUTHORITY.root], msgspec.structs.replace(leaf, key=other.key)),
        ([AUTHORITY.root], msgspec.structs.replace(leaf, chain="nonsense")),
        ([], leaf),
    ):
        with pytest.raises(IdentityError) as caught:
            server_context(roots, wrong)
        assert leaf.serial in str(caught.value)
        assert "PRIVATE" not in str(caught.value)


def test_no_descriptor_is_left() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        client_context([AUTHORITY.root], AUTHORITY.leaf("api"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
