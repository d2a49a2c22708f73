"""Proof 4: a deny means now."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.support.evidence import Evidence
from tests.support.fleet import Fleet
from tests.support.hosts import eventually

LIMIT = 2.0


@pytest.fixture
def both_allowed(fleet: Fleet) -> Iterator[None]:
    """web may call api and api-tcp, and may again afterwards."""
    with fleet.intention("web", "api", "allow"), fleet.intention("web", "api-tcp", "allow"):
        _until_answered(fleet)
        yield
    _until_answered(fleet)


def _until_answered(fleet: Fleet) -> None:
    web1, api1 = fleet["web1"], fleet["api1"]
    for family in (4, 6):
        web1.curl_until(200, api1.url(8000, family=family), user="web", within=LIMIT)


def test_new_requests_are_refused_and_allowed_again(
    fleet: Fleet, evidence: Evidence, both_allowed: None
) -> None:
    """Deny turns answers into 403 within 2 s, on every instance; allow turns them back."""
    poll = fleet["web1"].start("poll.py", fleet["api1"].url(8000), user="web")
    assert poll.until("answer")["status"] == 200
    for action, status in (("deny", 403), ("allow", 200)):
        told = fleet.decide("web", "api", action)
        until = told + LIMIT + 2
        late = told
        while (answer := poll.until("answer"))["time"] < until:
            if answer["status"] != status:
                late = max(late, answer["time"])
        evidence(f"{action}: every request obeys {late - told:.2f} s after Consul was told")
        assert late - told <= LIMIT
    counted = [
        fleet[name].metric("fleetmesh_refusals_total", reason="denied", source="web")
        for name in ("api1", "api2")
    ]
    assert sum(counted) >= 4


@pytest.mark.parametrize(
    ("kind", "destination"),
    [("websocket", "api"), ("http", "api"), ("tcp", "api-tcp")],
    ids=["websocket", "streaming answer", "tcp"],
)
@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
def test_open_stream_ends(
    fleet: Fleet, evidence: Evidence, both_allowed: None, kind: str, destination: str, family: int
) -> None:
    """A stream that an intention comes to forbid ends within 2 s, with a log line and a count."""
    web1, api1 = fleet["web1"], fleet["api1"]
    address = api1.address if family == 4 else api1.address6
    where = {
        "websocket": [api1.url(8000, "/ws", family)],
        "http": [api1.url(8000, "/?stream=200&interval=0.05", family)],
        "tcp": [address, "9000"],
    }[kind]
    stream = web1.start("stream.py", kind, *where, user="web")
    stream.until("open")
    for _ in range(5):
        stream.until("echo")
    before = fleet.decide("web", destination, "deny")
    end = stream.until("end", timeout=10)
    took = end["time"] - before
    evidence(f"{kind} over IPv{family} ended {took:.2f} s after the deny ({end['why']})")
    assert end["why"] != "complete"
    assert took <= LIMIT
    cut = eventually(
        lambda: [
            entry
            for host in (fleet["api1"], fleet["api2"])
            for entry in host.journal(
                "FLEETMESH_SOURCE=web", f"FLEETMESH_DESTINATION={destination}", since=before - 1
            )
            if entry.get("FLEETMESH_REASON") == "denied"
        ],
        5,
        "the cut is logged",
    )
    assert "web" in cut[0]["MESSAGE"]

    fleet.decide("web", destination, "allow")
    again = eventually(lambda: _opens(fleet, kind, where), LIMIT, "allowed again", every=0.2)
    assert again


def _opens(fleet: Fleet, kind: str, where: list[str]) -> bool:
    stream = fleet["web1"].start("stream.py", kind, *where, user="web")
    event = stream.next()
    if event["event"] == "open" and event.get("status", 200) == 200:
        stream.until("echo")
        stream.stop()
        return True
    return False


def test_other_callers_keep_their_streams(fleet: Fleet, both_allowed: None) -> None:
    """Denying web leaves cart's open stream alone."""
    api1 = fleet["api1"]
    theirs = fleet["shop1"].start("stream.py", "websocket", api1.url(8000, "/ws"), user="cart")
    ours = fleet["web1"].start("stream.py", "websocket", api1.url(8000, "/ws"), user="web")
    theirs.until("echo")
    ours.until("echo")
    fleet.decide("web", "api", "deny")
    ours.until("end")
    until = time.time() + 1.5
    while theirs.until("echo")["time"] < until:
        pass
    assert theirs.running


def test_denial_is_explained(fleet: Fleet, both_allowed: None) -> None:
    """The 403 names source, destination and intention, and so does the journal."""
    web1, api1 = fleet["web1"], fleet["api1"]
    began = time.time()
    fleet.decide("web", "api", "deny")
    answer = web1.curl_until(403, api1.url(8000), user="web")
    assert answer.headers["content-type"][0].startswith("application/json")
    assert answer.headers["x-fleetmesh-reason"] == ["denied"]
    body = answer.json()
    assert (body["source"], body["destination"]) == ("web", "api")
    assert body["intention"] == "deny web => api"
    entries = eventually(
        lambda: [
            entry
            for name in ("api1", "api2")
            for entry in fleet[name].journal("FLEETMESH_REASON=denied", since=began - 1)
            if entry.get("FLEETMESH_SOURCE") == "web"
        ],
        5,
        "the denial is logged",
    )
    assert entries[0]["FLEETMESH_DESTINATION"] == "api"


def test_precedence_exact_beats_wildcard(fleet: Fleet, both_allowed: None) -> None:
    """`* => api` denied and `web => api` allowed: web is served, whoever else is not."""
    web1, shop1, api1 = fleet["web1"], fleet["shop1"], fleet["api1"]
    with fleet.intention("*", "api", "deny"), fleet.intention("orders", "api", "deny"):
        time.sleep(1)
        assert web1.curl(api1.url(8000), user="web").status == 200
        assert shop1.curl(api1.url(8000), user="orders").status == 403
