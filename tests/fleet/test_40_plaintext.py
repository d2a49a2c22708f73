"""Proof 5: a host outside the mesh, calling in the clear."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.evidence import Evidence
from tests.support.fleet import Fleet
from tests.support.hosts import Host, eventually

API = "/etc/fleetmesh/services.d/api.yaml"


def rises(host: Host, name: str, by: Callable[[], object], **labels: str) -> tuple[float, float]:
    """The counter before `by` and after it. Raises NeverError if it did not rise within 5 s."""
    before = host.metric(name, **labels)
    by()
    after = eventually(
        lambda: (now := host.metric(name, **labels)) > before and now, 5, f"{name}{labels} rises"
    )
    return before, after


def set_mode(mode: str) -> Callable[[dict[str, Any]], None]:
    def edit(document: dict[str, Any]) -> None:
        document["mode"] = mode

    return edit


@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
def test_strict_refuses_permissive_serves(fleet: Fleet, evidence: Evidence, family: int) -> None:
    """legacy1 → api1:8000 in the clear: 403 and counted in strict, served and counted in
    permissive, refused again after."""
    legacy1, api1 = fleet["legacy1"], fleet["api1"]
    url = api1.url(8000, family=family)

    def ask() -> int:
        return legacy1.curl(url, user="legacy").status

    def refused() -> None:
        answer = legacy1.curl(url, user="legacy")
        assert answer.status == 403
        assert answer.headers["x-fleetmesh-reason"] == ["plaintext"]
        assert answer.json()["destination"] == "api"

    labels = {"direction": "plain", "destination": "api"}
    began = time.time()
    before, after = rises(api1, "fleetmesh_refusals_total", refused, reason="plaintext", **labels)
    evidence(f"strict over IPv{family}: 403, refusals {before:.0f} -> {after:.0f}")
    assert eventually(
        lambda: api1.journal("FLEETMESH_REASON=plaintext", since=began - 1), 5, "it is logged"
    )

    with api1.edited(API, set_mode("permissive")):
        eventually(lambda: ask() == 200, 5, "permissive serves")

        def served() -> None:
            answer = legacy1.curl(url, user="legacy")
            assert answer.instance == "api1/api"
            # Nobody proved anything, so nobody is named.
            assert answer.received("x-forwarded-client-cert") == ""

        before, after = rises(
            api1, "fleetmesh_connections_total", served, kind="permissive", **labels
        )
        evidence(f"permissive over IPv{family}: 200, connections {before:.0f} -> {after:.0f}")
        # The mesh's own callers are served as before.
        assert fleet["web1"].curl(url, user="web").caller == fleet.spiffe_id("web")
    eventually(lambda: ask() == 403, 5, "strict again")


def test_forged_identity_in_the_clear_is_removed(fleet: Fleet) -> None:
    """A plain client of a permissive service cannot claim an identity."""
    legacy1, api1 = fleet["legacy1"], fleet["api1"]
    with api1.edited(API, set_mode("permissive")):
        answer = legacy1.curl_until(
            200,
            api1.url(8000),
            *("-H", f"X-Forwarded-Client-Cert: URI={fleet.spiffe_id('web')}"),
            user="legacy",
            within=5,
        )
        assert answer.received("x-forwarded-client-cert") == ""


def test_plain_tcp_to_a_strict_service_is_closed(fleet: Fleet) -> None:
    """What does not look like HTTP gets no answer at all, and no echo."""
    api1 = fleet["api1"]
    stream = fleet["legacy1"].start("stream.py", "tcp", api1.address, "9000", user="legacy")
    end = stream.until("end")
    assert not any('"echo"' in line for line in stream.lines), end


def test_sidecar_wants_a_certificate(fleet: Fleet) -> None:
    """A TLS client without a certificate of this mesh is not served on the sidecar's port."""
    legacy1, api1 = fleet["legacy1"], fleet["api1"]
    port = api1.service("api")["sidecar_port"]
    answer = legacy1.curl(f"https://{api1.address}:{port}/", "-k", timeout=5)
    assert answer.status == 0, answer
    assert legacy1.curl(f"http://{api1.address}:{port}/", timeout=5).status != 200
