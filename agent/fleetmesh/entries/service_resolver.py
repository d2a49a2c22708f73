"""service-resolver: subsets, redirect, failover and load balancing of a service."""

from __future__ import annotations

from typing import Any, Literal

from fleetmesh.entries.shape import Duration, Entry, EntryKind, Shape
from fleetmesh.settings.decode import Reader, joined


class Subset(Shape, frozen=True):
    filter: str = ""
    only_passing: bool = False


class Redirect(Shape, frozen=True):
    service: str = ""
    service_subset: str = ""
    namespace: str = ""
    partition: str = ""
    datacenter: str = ""
    peer: str = ""
    sameness_group: str = ""


class FailoverTarget(Shape, frozen=True):
    service: str = ""
    service_subset: str = ""
    namespace: str = ""
    partition: str = ""
    datacenter: str = ""
    peer: str = ""


class Failover(Shape, frozen=True):
    service: str = ""
    service_subset: str = ""
    namespace: str = ""
    datacenters: tuple[str, ...] = ()
    targets: tuple[FailoverTarget, ...] = ()
    policy: dict[str, Any] = {}
    sameness_group: str = ""


class RingHash(Shape, frozen=True):
    minimum_ring_size: int = 1024
    maximum_ring_size: int = 8388608


class LeastRequest(Shape, frozen=True):
    choice_count: int = 2


class LoadBalancer(Shape, frozen=True):
    policy: Literal["", "round_robin", "random", "least_request", "ring_hash", "maglev"] = ""
    ring_hash_config: RingHash = RingHash()
    least_request_config: LeastRequest = LeastRequest()
    hash_policies: tuple[dict[str, Any], ...] = ()


class ServiceResolver(Entry, frozen=True):
    default_subset: str = ""
    subsets: dict[str, Subset] = {}
    redirect: Redirect | None = None
    failover: dict[str, Failover] = {}
    connect_timeout: Duration = ""
    request_timeout: Duration = ""
    load_balancer: LoadBalancer = LoadBalancer()
    prioritize_by_locality: dict[str, Any] = {}


def check(entry: ServiceResolver, reader: Reader, key: str) -> None:
    if entry.default_subset and entry.default_subset not in entry.subsets:
        reader.problem(
            joined(key, "DefaultSubset"),
            f'"{entry.default_subset}" is not one of Subsets',
            f"Known subsets: {', '.join(entry.subsets) or 'none'}",
        )
    if entry.redirect is not None:
        _check_redirect(entry, entry.redirect, reader, joined(key, "Redirect"))
    for name, failover in entry.failover.items():
        place = joined(joined(key, "Failover"), name)
        if name != "*" and name not in entry.subsets:
            reader.problem(place, f'"{name}" is not one of Subsets', 'Write a subset or "*"')
        if not (
            failover.service
            or failover.service_subset
            or failover.datacenters
            or failover.targets
            or failover.sameness_group
        ):
            reader.problem(place, "leads nowhere", "Add Service, ServiceSubset or Datacenters")


def _check_redirect(entry: ServiceResolver, to: Redirect, reader: Reader, key: str) -> None:
    if entry.failover:
        reader.problem(key, "is set beside Failover", "Keep one of the two")
    if not (to.service or to.service_subset or to.datacenter or to.peer or to.sameness_group):
        reader.problem(key, "leads nowhere", "Add Service, ServiceSubset or Datacenter")
    if to.service_subset and not to.service:
        reader.problem(joined(key, "ServiceSubset"), "is set without Service", "Add Service")


KIND = EntryKind("service-resolver", ServiceResolver, check)
