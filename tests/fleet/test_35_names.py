"""A name of the mesh, with nothing declared: for the service's user, and for nobody else."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import pytest
from tests.support.fleet import Fleet
from tests.support.hosts import Host, eventually

ELSEWHERE = "192.0.2.80"
VIRTUAL = ipaddress.ip_network("240.0.0.0/4")
NXDOMAIN = 3


def look_up(host: Host, name: str, user: str | None) -> tuple[int, str]:
    """(rcode, address) that `user` gets from the nameserver 127.0.0.9."""
    answer = host.start("lookup.py", name, user=user).until("answer")
    return int(answer["rcode"]), str(answer["address"])


@pytest.fixture
def web1(fleet: Fleet) -> Iterator[Host]:
    """With a nameserver that answers everything alike."""
    host = fleet["web1"]
    resolver = host.start("resolver.py")
    resolver.until("ready")
    yield host
    resolver.stop()


def test_an_application_calls_a_service_by_its_name(fleet: Fleet) -> None:
    """As its service user, and the callee is told who calls."""
    web1 = fleet["web1"]
    for name in ("api.mesh", "api.virtual.consul"):
        answer = web1.curl_until(200, f"http://{name}/", user="web", within=10)
        assert answer.instance.endswith("/api")
        assert answer.caller == fleet.spiffe_id("web")


def test_every_host_knows_the_same_address(fleet: Fleet) -> None:
    """Whoever asks first."""
    found = set()
    for name, user in (("shop1", "cart"), ("api1", "api"), ("api2", "api"), ("web1", "web")):
        host = fleet[name]
        assert look_up(host, "api.mesh", user)[0] == 0
        known = {u["service"]: tuple(u["virtual_addresses"]) for u in host.status()["upstreams"]}
        found.add(known["api"])
    assert len(found) == 1
    assert len(found.pop()) == 2


def test_a_subset_is_called_by_its_name(fleet: Fleet) -> None:
    """With nothing but an entry in Consul, and gone with it."""
    subsets = {name: {"Filter": f'Node.Node == "{name}"'} for name in ("api1", "api2")}
    entry = {"Kind": "service-resolver", "Name": "api", "Subsets": subsets}
    web1 = fleet["web1"]
    fleet.consul("PUT", "/v1/config", entry)
    try:
        for name in subsets:
            for _ in range(5):
                answer = web1.curl_until(200, f"http://{name}.api.mesh/", user="web", within=10)
                assert answer.instance == f"{name}/api"
    finally:
        fleet.consul("DELETE", "/v1/config/service-resolver/api")
    eventually(
        lambda: look_up(web1, "api1.api.mesh", "web")[0] == NXDOMAIN, 15, "the subset is gone"
    )


def test_roots_dns_is_untouched(web1: Host) -> None:
    code, address = look_up(web1, "api.mesh", "web")
    assert code == 0
    assert ipaddress.ip_address(address) in VIRTUAL
    assert look_up(web1, "nobody.mesh", "web")[0] == NXDOMAIN
    for name in ("api.mesh", "nobody.mesh", "www.example.com"):
        assert look_up(web1, name, None) == (0, ELSEWHERE)
    assert web1.metric("fleetmesh_dns_queries_total", kind="mesh", result="NXDOMAIN") >= 1


def test_dns_works_with_the_agent_stopped(web1: Host) -> None:
    """on_stop: open: services ask as everybody does, and no route is left."""
    assert look_up(web1, "api.mesh", "web")[1] != ELSEWHERE
    assert "240.0.0.0/4" in web1.output("ip route show proto 245")
    web1.run("systemctl stop fleetmesh-agent")
    try:
        assert look_up(web1, "www.example.com", "web") == (0, ELSEWHERE)
        assert web1.output("ip route show proto 245; ip -6 route show proto 245") == ""
    finally:
        web1.run("systemctl start fleetmesh-agent")
    web1.wait_ready()

    def again() -> bool:
        return look_up(web1, "api.mesh", "web")[1] != ELSEWHERE

    eventually(again, 15, "names of the mesh are answered again")
