"""Proofs 2, 3 and 9: unchanged clients, proven identities, nothing in the clear."""

from __future__ import annotations

import secrets
import time
from collections import Counter

import pytest
from tests.support.evidence import Evidence
from tests.support.fleet import Fleet
from tests.support.hosts import Answer, Host, eventually, parse_xfcc
from tests.support.wire import NotTlsError, Wire, tls_records

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])


def address(host: Host, family: int) -> str:
    return host.address if family == 4 else host.address6


@families
def test_plain_curl_is_answered_by_both_instances(fleet: Fleet, family: int) -> None:
    """web asks one api's address in the clear; healthy instances take turns."""
    web1, api1 = fleet["web1"], fleet["api1"]
    seen = Counter(web1.curl(api1.url(8000, family=family), user="web").instance for _ in range(12))
    assert set(seen) == {"api1/api", "api2/api"}
    assert min(seen.values()) >= 2, seen


@families
def test_application_sees_who_called(fleet: Fleet, family: int) -> None:
    """X-Forwarded-Client-Cert holds web's SPIFFE id and the called service's own."""
    answer = fleet["web1"].curl(fleet["api1"].url(8000, "/who", family), user="web")
    assert answer.caller == fleet.spiffe_id("web")
    (element,) = parse_xfcc(answer.received("x-forwarded-client-cert"))
    assert element["By"] == fleet.spiffe_id("api")
    assert len(element["Hash"]) == 64
    assert answer.json()["path"] == "/who"


def test_forged_identity_is_removed(fleet: Fleet) -> None:
    """What a client writes into X-Forwarded-Client-Cert never reaches the application."""
    forged = fleet.spiffe_id("orders")
    for spelling in ("X-Forwarded-Client-Cert", "x-FORWARDED-client-CERT"):
        answer = fleet["web1"].curl(
            fleet["api1"].url(8000),
            *("-H", f"{spelling}: By=x;URI={forged}", "-H", f"{spelling}: URI={forged}"),
            user="web",
        )
        assert answer.caller == fleet.spiffe_id("web")
        assert forged not in answer.received("x-forwarded-client-cert")


@families
def test_wire_carries_tls_only(fleet: Fleet, evidence: Evidence, family: int) -> None:
    """Path, header and body of a request pass the fabric in TLS records alone, both ways."""
    web1, apis = fleet["web1"], (fleet["api1"], fleet["api2"])
    secret, control = secrets.token_hex(12), secrets.token_hex(12)
    with Wire(fleet.netns("fabric"), "web1") as wire:
        for _ in range(4):
            answer = web1.curl(
                apis[0].url(8000, f"/path-{secret}?echo", family),
                *("-H", f"X-Secret: header-{secret}", "--data", f"body-{secret}"),
                user="web",
            )
            # The body comes back, so that it passes in both directions.
            assert answer.body == f"body-{secret}"
        # That the search would find it is shown by one that is not captured, and refused.
        web1.curl(apis[0].url(8000, f"/{control}", family))
    assert wire.said(control), "the sniffer saw nothing"
    assert wire.said(secret) == []

    records: Counter[str] = Counter()
    clear = 0
    for api in apis:
        for flow, data in wire.between(address(web1, family), address(api, family)).items():
            if 8000 in (flow.source_port, flow.destination_port):
                clear += 1
                continue
            try:
                records += tls_records(data)
            except NotTlsError as error:
                raise AssertionError(f"{flow}: {error}") from error
    evidence(f"IPv{family}: {wire.frames} frames, records {dict(records)}")
    assert records["application_data"] >= 8
    # Only the refused connection, one flow each way, went to the application's own port.
    assert clear <= 2


def test_services_of_one_host_keep_their_own_identities(fleet: Fleet) -> None:
    """cart may call api and is seen as cart; orders may not, and is named as orders."""
    shop1, api1 = fleet["shop1"], fleet["api1"]
    allowed = shop1.curl(api1.url(8000), user="cart")
    assert allowed.caller == fleet.spiffe_id("cart")

    denied = shop1.curl(api1.url(8000), user="orders")
    assert denied.status == 403
    assert denied.headers["x-fleetmesh-reason"] == ["denied"]
    body = denied.json()
    assert (body["source"], body["destination"]) == ("orders", "api")
    assert "deny" in str(body["intention"])
    assert "orders" in str(body["intention"])


@families
def test_both_services_of_one_host_prove_themselves(fleet: Fleet, family: int) -> None:
    """Whoever they may call sees cart as cart and orders as orders, at the same time."""
    shop1, web1 = fleet["shop1"], fleet["web1"]
    with fleet.intention("cart", "web", "allow"), fleet.intention("orders", "web", "allow"):
        for service in ("cart", "orders", "cart", "orders"):
            answer = shop1.curl_until(200, web1.url(8080, family=family), user=service)
            assert answer.caller == fleet.spiffe_id(service)


def test_neighbours_on_one_host_are_under_intentions(fleet: Fleet) -> None:
    """orders calling cart by the host's own address goes through the mesh like any other call."""
    shop1 = fleet["shop1"]
    with fleet.intention("orders", "cart", "allow"):
        answer = shop1.curl_until(200, shop1.url(7001), user="orders")
        assert answer.instance == "shop1/cart"
        assert answer.caller == fleet.spiffe_id("orders")
    with fleet.intention("orders", "cart", "deny"):
        denied = shop1.curl_until(403, shop1.url(7001), user="orders")
        assert denied.json()["source"] == "orders"


def test_nobody_borrows_an_identity(fleet: Fleet, evidence: Evidence) -> None:
    """Dialling a service's outbound socket directly gives nothing to anyone, on either family:
    not to root, not to a stranger, not to the neighbour, not even to the service's own user."""
    shop1, api1 = fleet["shop1"], fleet["api1"]
    ports = {name: shop1.service(name)["outbound_port"] for name in ("cart", "orders")}
    tried = 0
    for name, port in ports.items():
        for user in (None, "nobody", "orders", "cart"):
            for loopback in ("127.0.0.1", "[::1]"):
                answer = shop1.curl(
                    f"http://{loopback}:{port}/", "-H", "Host: api1:8000", user=user, timeout=3
                )
                assert answer.status in (0, 403), (name, user, loopback, answer)
                assert "instance" not in answer.body
                tried += 1
    for port in ports.values():
        for target in (shop1.url(port), shop1.url(port, family=6)):
            assert fleet["legacy1"].curl(target, timeout=3).status == 0
            tried += 1
    evidence(f"{tried} attempts, none answered")
    # The very same request is answered when it comes through the redirect.
    assert shop1.curl(api1.url(8000), user="cart").status == 200


def test_users_without_a_service_are_not_captured(fleet: Fleet) -> None:
    """Root on a mesh host speaks for itself: in the clear, and a strict service refuses that."""
    web1, api1 = fleet["web1"], fleet["api1"]
    refused = web1.curl(api1.url(8000))
    assert refused.status == 403
    assert refused.headers["x-fleetmesh-reason"] == ["plaintext"]
    # Consul's server has no sidecar: root reaches it as before.
    assert web1.curl(fleet["consul1"].url(8500, "/v1/status/leader")).status == 200


def test_unknown_destinations_pass_through(fleet: Fleet, evidence: Evidence) -> None:
    """web calling what is not in the mesh gets there untouched, and is counted."""
    web1, consul1 = fleet["web1"], fleet["consul1"]
    labels = {"direction": "outbound", "source": "web", "kind": "passthrough"}
    before = web1.metric("fleetmesh_connections_total", **labels)
    for family in (4, 6):
        assert web1.curl(consul1.url(8500, "/v1/status/leader", family), user="web").status == 200
    now = eventually(
        lambda: (
            web1.metric("fleetmesh_connections_total", **labels) - before >= 2
            and web1.metric("fleetmesh_connections_total", **labels)
        ),
        5,
        "passthrough is counted",
    )
    evidence(f"passthrough connections: {before:.0f} -> {now:.0f}")


@families
def test_http_semantics_survive_the_mesh(fleet: Fleet, family: int) -> None:
    """Methods, bodies both ways, HEAD, statuses, streaming, 100-continue, WebSocket, keep-alive."""
    web1, api1 = fleet["web1"], fleet["api1"]

    def ask(path: str, *options: str) -> Answer:
        return web1.curl(api1.url(8000, path, family), *options, user="web")

    assert ask("/a/b%20c?x=1&y=%2F").json()["path"].startswith("/a/b")
    big = "x" * 300_000
    received = web1.run(
        ["curl", "-sS", "-g", "--data-binary", "@-", api1.url(8000, "/up", family)],
        user="web",
        stdin=big,
    )
    assert f'"body_bytes": {len(big)}' in received.stdout
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS"):
        assert ask("/m", "-X", method).json()["method"] == method
    assert ask("/h", "--head").body.count("{") == 0
    for status in (204, 302, 404, 418, 500, 503):
        assert ask(f"/?status={status}").status == status
    assert "x" * 100_000 in ask("/?size=100000").body
    began = time.monotonic()
    assert ask("/?stream=5&interval=0.2").body.count("\n") == 5
    assert time.monotonic() - began >= 0.8
    expected = ask("/", "-H", "Expect: 100-continue", "--data", "y" * 2000)
    assert expected.json()["body_bytes"] == 2000
    assert ask("/", "--http1.0").status == 200
    stream = web1.start("stream.py", "websocket", api1.url(8000, "/ws", family), user="web")
    stream.until("open")
    assert [stream.until("echo")["number"] for _ in range(3)] == [1, 2, 3]


@families
def test_tcp_service_is_relayed(fleet: Fleet, family: int) -> None:
    """A service of protocol tcp: bytes through mutual TLS, in both directions."""
    web1, api1 = fleet["web1"], fleet["api1"]
    with Wire(fleet.netns("fabric"), "web1") as wire:
        stream = web1.start("stream.py", "tcp", address(api1, family), "9000", user="web")
        assert stream.until("echo")["number"] == 1
        assert stream.until("echo")["number"] == 2
    ports = {flow.destination_port for flow in wire.flows} | {f.source_port for f in wire.flows}
    assert 9000 not in ports
