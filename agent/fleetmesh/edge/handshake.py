"""What a service's own sidecar port shows to those who dial it.

A real TLS handshake over loopback, ended before the client's last flight: the server has proved by
then that it holds the key of the certificate it shows, and the worker has nobody to authorise and
calls no application.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence

import msgspec

from fleetmesh.model.snapshot import Leaf

HOST = "127.0.0.1"
PATIENCE = 5.0
CHUNK = 1 << 16
_END = "-----END CERTIFICATE-----"


class HandshakeError(Exception):
    """Nobody showed a certificate that the roots vouch for; the text says why."""


class Shown(msgspec.Struct, frozen=True):
    """The certificate that a handshake showed. `current`: it is the leaf that was expected. Times
    are seconds since the epoch."""

    current: bool
    serial: str
    not_before: float
    not_after: float


async def shown(port: int, roots: Sequence[str], leaf: Leaf) -> Shown:
    """The certificate behind `port`, its chain verified up to `roots`. Raises HandshakeError."""
    try:
        expected = _first(leaf.chain)
        async with asyncio.timeout(PATIENCE):
            tls = await _greeted(port, _context(roots))
    except TimeoutError as error:
        raise HandshakeError(f"no answer within {PATIENCE:g} s") from error
    except ssl.SSLCertVerificationError as error:
        raise HandshakeError(f"its certificate is refused: {error.verify_message}") from error
    except (OSError, ValueError) as error:
        raise HandshakeError(str(error) or type(error).__name__) from error
    told = tls.getpeercert() or {}
    return Shown(
        current=tls.getpeercert(binary_form=True) == expected,
        serial=str(told["serialNumber"]),
        not_before=float(ssl.cert_time_to_seconds(str(told["notBefore"]))),
        not_after=float(ssl.cert_time_to_seconds(str(told["notAfter"]))),
    )


def _context(roots: Sequence[str]) -> ssl.SSLContext:
    """Raises ssl.SSLError for roots that are none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # In 1.3 the client speaks last, and the server's proof is complete before that.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata="\n".join(roots))
    return context


async def _greeted(port: int, context: ssl.SSLContext) -> ssl.SSLObject:
    """Raises OSError, of which ssl.SSLError is one."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                data = await reader.read(CHUNK)
                if not data:
                    raise ConnectionResetError("closed without a certificate") from None
                incoming.write(data)
            else:
                return tls
    finally:
        writer.transport.abort()


def _first(chain: str) -> bytes:
    """The leaf of a chain in PEM, in DER. Raises ValueError."""
    return ssl.PEM_cert_to_DER_cert(chain[: chain.index(_END)].strip() + "\n" + _END)
