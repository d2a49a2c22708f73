"""TLS contexts for a service's identity.

Consul's leaves carry one URI SAN and no DNS SAN: OpenSSL verifies the chain, the caller compares
the URI. Python's ssl reads keys from files only; a memfd keeps them off every disk.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence

from fleetmesh.model.snapshot import Leaf

# AEAD suites with forward secrecy; TLS 1.3's own are all of that kind.
_TLS12_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"


class IdentityError(Exception):
    """A leaf or the roots are of no use; the text says why, without any key."""


def client_context(roots: Sequence[str], leaf: Leaf, *alpn: str) -> ssl.SSLContext:
    """For calls under `leaf`'s identity, offering `alpn`, and nothing where there is none, as
    Consul's Envoy does: a peer of HTTP/2 would take `http/1.1` at its word, whatever a TCP stream
    then carries. Raises IdentityError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    _complete(context, roots, leaf, alpn)
    return context


def server_context(roots: Sequence[str], leaf: Leaf, *alpn: str) -> ssl.SSLContext:
    """For accepting peers that prove themselves. Raises IdentityError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # One ticket is enough for clients that keep their connections, and half the cost.
    context.num_tickets = 1  # type: ignore[attr-defined,unused-ignore]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    _complete(context, roots, leaf, (*alpn, "http/1.1"))
    return context


def _complete(
    context: ssl.SSLContext, roots: Sequence[str], leaf: Leaf, alpn: Sequence[str]
) -> None:
    if leaf.key is None:
        raise IdentityError(f"leaf {leaf.serial} came without its key")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_COMPRESSION
    try:
        context.set_ciphers(_TLS12_SUITES)
        if alpn:
            context.set_alpn_protocols(alpn)
        context.load_verify_locations(cadata="\n".join(roots))
        _load_chain(context, leaf.chain, leaf.key)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise IdentityError(f"leaf {leaf.serial}: {error}") from error


def _load_chain(context: ssl.SSLContext, chain: str, key: str) -> None:
    pem = (chain.rstrip("\n") + "\n" + key).encode()
    fd = os.memfd_create("leaf", os.MFD_CLOEXEC)
    try:
        os.write(fd, pem)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.pwrite(fd, bytes(len(pem)), 0)
        os.close(fd)
