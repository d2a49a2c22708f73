"""Requests judged one by one, where an intention has permissions."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from tests.support.app import Scripted
from tests.support.mesh import Mesh, Streams, mesh

from fleetmesh.model.identity import Action
from fleetmesh.model.intention import Intention, Permission
from fleetmesh.model.traffic import FieldMatch, Protocol

pytestmark = pytest.mark.asyncio

ALLOW = Permission(Action.ALLOW)
DENY = Permission(Action.DENY)


def deny_path(path: str) -> Intention:
    """All but what lies below `path`."""
    return by_request(Permission(Action.DENY, path_prefix=path), ALLOW)


def by_request(*permissions: Permission) -> Intention:
    return Intention("web", "api", Action.DENY, 9, "", permissions)


async def ask(streams: Streams, target: str, *lines: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the answer."""
    reader, writer = streams
    head = "".join(f"{line}\r\n" for line in (f"GET {target} HTTP/1.1", "Host: api", *lines))
    writer.write(f"{head}\r\n".encode())
    async with asyncio.timeout(5):
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", answer, re.IGNORECASE)
        assert length is not None, answer
        return int(answer[9:12]), json.loads(await reader.readexactly(int(length[1])))


async def begin(running: Mesh, target: str, *lines: str) -> Streams:
    """A request whose answer is not waited for."""
    reader, writer = await running.call_inbound()
    head = "".join(f"{line}\r\n" for line in (f"GET {target} HTTP/1.1", "Host: api", *lines))
    writer.write(f"{head}\r\n".encode())
    return reader, writer


async def test_each_request_of_a_connection_has_its_own_verdict() -> None:
    async with mesh(Scripted()) as running:
        await running.publish(deny_path("/secret"))
        streams = await running.call()
        status, said = await ask(streams, "/any/%61/../b//c?x=%2f")
        assert (status, said["target"]) == (200, "/any/b/c?x=%2f")
        for target in ("/secret", "/any/%2e./secret/x", "/%73ecret", "//secret", "/x/..\\secret"):
            status, said = await ask(streams, target)
            assert (status, said["reason"]) == (403, "denied"), target
            assert said["intention"] == "2 permissions web => api (permission 1: deny)"
        for target in ("/any%2f..%2fsecret", "/any/..%5csecret", "/a%00", "/a%zz"):
            status, said = await ask(streams, target)
            assert (status, said["reason"]) == (400, "ambiguous"), target
        assert (await ask(streams, "/any"))[0] == 200


async def test_without_permissions_a_path_goes_on_as_it_came() -> None:
    async with mesh(Scripted()) as running:
        await running.publish(Intention("web", "api", Action.ALLOW, 9))
        _, said = await ask(await running.call(), "/any/%61/../b//c%2f")
        assert said["target"] == "/any/%61/../b//c%2f"


async def test_the_default_policy_has_what_no_permission_is_for() -> None:
    """It allows, in this mesh."""
    async with mesh(Scripted()) as running:
        for action, expected in ((Action.ALLOW, [200, 200]), (Action.DENY, [403, 200])):
            await running.publish(by_request(Permission(action, path_exact="/any")))
            streams = await running.call()
            assert [(await ask(streams, path))[0] for path in ("/any", "/any/more")] == expected


async def test_a_repeated_field_does_not_get_through() -> None:
    not_guest = FieldMatch("x-role", exact="guest")
    async with mesh(Scripted()) as running:
        await running.publish(by_request(Permission(Action.DENY, headers=(not_guest,)), ALLOW))
        streams = await running.call()
        assert (await ask(streams, "/any", "X-Role: admin"))[0] == 200
        assert (await ask(streams, "/any", "X-Role: admin", "x-role: guest"))[0] == 403
        assert (await ask(streams, "/any", "X_Role: guest"))[0] == 400


async def test_a_new_table_ends_what_it_denies_and_nothing_else() -> None:
    app = Scripted()
    async with mesh(app) as running:
        await running.publish(deny_path("/secret"))
        dripping = await begin(running, "/drip?n=1000&gap=0.02")
        waiting = await begin(running, "/never")
        tunnel = await begin(running, "/upgrade", "Connection: Upgrade", "Upgrade: echo")
        kept = await running.call_inbound()
        assert (await ask(kept, "/any"))[0] == 200
        async with asyncio.timeout(5):
            for reader, _ in (dripping, tunnel):
                await reader.readuntil(b"\r\n\r\n")
            tunnel[1].write(b"x")
            assert await tunnel[0].readexactly(1) == b"x"

        await running.publish(deny_path("/never"))
        async with asyncio.timeout(5):
            assert b" 403 " in await waiting[0].readuntil(b"\r\n\r\n")
            await dripping[0].readuntil(b"\r\n")
            tunnel[1].write(b"y")
            assert await tunnel[0].readexactly(1) == b"y"

        await running.publish(by_request(Permission(Action.ALLOW, path_exact="/any"), DENY))
        async with asyncio.timeout(5):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await tunnel[0].readexactly(1)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await dripping[0].readexactly(1 << 20)
        assert (await ask(kept, "/any"))[0] == 200
        assert (await ask(kept, "/drip"))[0] == 403


async def test_a_tcp_service_denies_who_has_permissions() -> None:
    async with mesh(Scripted(), protocol=Protocol.TCP) as running:
        await running.publish(by_request(ALLOW))
        reader, _ = await begin(running, "/any")
        async with asyncio.timeout(5):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)


async def test_where_the_protocol_is_found_out_http_is_judged_and_all_else_denied() -> None:
    async with mesh(Scripted(), protocol=Protocol.AUTO) as running:
        await running.publish(deny_path("/secret"))
        assert (await ask(await running.call_inbound(), "/any"))[0] == 200
        assert (await ask(await running.call_inbound(), "/secret"))[0] == 403
        reader, writer = await running.call_inbound()
        writer.write(b"\x00\x01 something else")
        async with asyncio.timeout(5):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
