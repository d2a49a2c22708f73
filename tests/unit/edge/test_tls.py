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
