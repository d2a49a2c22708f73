"""What a port shows, seen by a handshake that the server never finishes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator

import pytest
from tests.support.ca import Authority

from fleetmesh.edge import handshake
from fleetmesh.edge.handshake import HandshakeError, Shown, shown
from fleetmesh.edge.tls import server_context
from fleetmesh.model.snapshot import Leaf

AUTHORITY = Authority()
LEAF, OTHER = AUTHORITY.leaf("api"), AUTHORITY.leaf("api")


@contextlib.asynccontextmanager
async def serving(leaf: Leaf, accepted: list[object]) -> AsyncIterator[int]:
    """The port of a sidecar; `accepted` gets what came through a whole handshake."""

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        writer.close()

    context = server_context([AUTHORITY.root], leaf)
    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


def seen(served: Leaf, expected: Leaf, *roots: str) -> Shown:
    async def run() -> Shown:
        accepted: list[object] = []
        async with serving(served, accepted) as port:
            found = await shown(port, roots or [AUTHORITY.root], expected)
            await asyncio.sleep(0.05)
        assert accepted == []
        return found

    return asyncio.run(run())


def test_the_certificate_is_the_expected_one_or_told() -> None:
    """And no application hears of the question."""
    found = seen(LEAF, LEAF)
    assert found.current
    assert int(found.serial, 16) == int(LEAF.serial, 16)
    assert (found.not_before, found.not_after) == pytest.approx(
        (LEAF.not_before, LEAF.not_after), abs=1.0
    )
    assert not seen(LEAF, OTHER).current


def test_roots_must_vouch_for_it() -> None:
    with pytest.raises(HandshakeError, match="refused"):
        seen(LEAF, LEAF, Authority().root)
    over = AUTHORITY.leaf("api", life=-datetime.timedelta(hours=1))
    with pytest.raises(HandshakeError, match="expired"):
        seen(over, over)


def test_a_secondary_datacenters_intermediate_is_shown() -> None:
    """Peers know the root alone: a leaf without what stands between is worth nothing to them."""
    secondary = Authority(parent=AUTHORITY)
    leaf = secondary.leaf("api")
    assert leaf.chain.count("BEGIN CERTIFICATE") == 2
    assert secondary.root == AUTHORITY.root
    assert seen(leaf, leaf).current
    alone = leaf.chain[: leaf.chain.index("-----END CERTIFICATE-----")]
    bare = Leaf(
        leaf.serial,
        leaf.not_before,
        leaf.not_after,
        alone + "-----END CERTIFICATE-----\n",
        leaf.key,
    )
    with pytest.raises(HandshakeError, match="unable to get local issuer"):
        seen(bare, leaf)


def test_who_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "PATIENCE", 0.2)

    async def asked(close: bool) -> None:
        async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if close:
                writer.close()
            else:
                await asyncio.sleep(1)
                writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            await shown(port, [AUTHORITY.root], LEAF)
        finally:
            server.close()

    with pytest.raises(HandshakeError, match=r"no answer within 0\.2 s"):
        asyncio.run(asked(close=False))
    with pytest.raises(HandshakeError, match=r"closed without a certificate|reset"):
        asyncio.run(asked(close=True))


def test_no_root_no_trust() -> None:
    async def run() -> None:
        await shown(1, ["nonsense"], LEAF)

    with pytest.raises(HandshakeError):
        asyncio.run(run())
