from __future__ import annotations

from msgspec.structs import replace

from fleetmesh.plan.ports import Allocation, allocate
from fleetmesh.settings import CaptureSettings, Ports, ServiceSettings, Settings

RANGES = Ports(outbound=(100, 103), sidecar=(200, 203), plain=106)


def service(name: str, port: int = 8000, user: str | None = "u", **more: int) -> ServiceSettings:
    return ServiceSettings(name=name, port=port, user=user, **more)  # type: ignore[arg-type]


def settings(*services: ServiceSettings, ports: Ports = RANGES) -> Settings:
    return Settings(address="10.0.0.1", services=services, ports=ports)


def allocated(wanted: Settings, previous: Allocation | None = None) -> Allocation:
    result = allocate(wanted, previous or Allocation())
    assert isinstance(result, Allocation), result
    return result


def test_lowest_free_in_order_of_declaration() -> None:
    ports = allocated(settings(service("b"), service("a")))
    assert ports == Allocation({"b": 100, "a": 101}, {"b": 200, "a": 201})


def test_service_without_user_has_no_outbound_port() -> None:
    assert allocated(settings(service("a", user=None))).outbound == {}


def test_previous_ports_stay_when_others_come_and_go() -> None:
    before = allocated(settings(service("a"), service("b")))
    after = allocated(settings(service("new"), service("b")), before)
    assert (after.outbound["b"], after.sidecar["b"]) == (101, 201)


def test_port_of_a_dropped_service_is_given_away_last() -> None:
    """Its socket is still open while the new one's is bound."""
    before = allocated(settings(service("a"), service("b")))
    assert allocated(settings(service("c"), service("b")), before).outbound["c"] == 102
    narrow = replace(RANGES, outbound=(100, 101))
    after = allocated(settings(service("c"), service("b"), ports=narrow), before)
    assert after.outbound["c"] == 100


def test_explicit_port_wins_over_a_previous_one() -> None:
    before = allocated(settings(service("a")))
    wanted = settings(service("a"), service("b", outbound_port=100, sidecar_port=200))
    after = allocated(wanted, before)
    assert (after.outbound, after.sidecar) == ({"b": 100, "a": 101}, {"b": 200, "a": 201})


def test_previous_port_out_of_range_is_given_up() -> None:
    assert allocated(settings(service("a")), Allocation({"a": 99}, {"a": 299})) == Allocation(
        {"a": 100}, {"a": 200}
    )


def test_ports_that_others_have_are_skipped() -> None:
    """Applications, SSH, metrics and the plain port."""
    wanted = replace(
        settings(service("a", port=101), ports=replace(RANGES, plain=102)),
        capture=CaptureSettings(ssh_ports=(100,)),
        metrics_address="127.0.0.1:200",
    )
    assert allocated(wanted) == Allocation({"a": 103}, {"a": 201})


def test_exhausted_range_names_the_service_and_the_remedy() -> None:
    services = tuple(service(f"s{n}", port=8000 + n) for n in range(5))
    problems = allocate(settings(*services), Allocation())
    assert isinstance(problems, list)
    assert [p.path for p in problems] == ["s4", "s4"]
    assert "ports.outbound" in problems[0].remedy
