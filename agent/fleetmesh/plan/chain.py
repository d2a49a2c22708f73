"""What a compiled discovery chain can end in, and which of Consul's instances those are."""

from __future__ import annotations

import msgspec

from fleetmesh.balance import PICKERS
from fleetmesh.model.problem import Problem
from fleetmesh.model.traffic import Balancing, HashPolicy
from fleetmesh.plan import chain_answer as consul
from fleetmesh.plan.answers import seconds
from fleetmesh.plan.chain_answer import Chain, ChainNode, ChainTarget

DEFAULT_CONNECT_TIMEOUT = 5.0
GATEWAY_SERVICE = "mesh-gateway"
"""The name that mesh gateways are registered under unless told otherwise."""


class InstanceQuery(msgspec.Struct, frozen=True):
    """The arguments of `/v1/health/connect`; an empty datacenter is the agent's own. With
    `gateway` the instances are the mesh gateways of that name, with `own` the service's own in
    place of its sidecars, both by `/v1/health/service`."""

    service: str
    datacenter: str = ""
    filter: str = ""
    gateway: bool = False
    own: bool = False


class Resolution(msgspec.Struct, frozen=True):
    """One end of a chain: which instances, under which name, dialled how, and the ids of the
    targets that serve when it has none. An empty `sni` stands for the service's own.

    `wide`: the instances are reached from another datacenter.
    """

    target_id: str
    service: str
    datacenter: str
    sni: str
    query: InstanceQuery
    subset: str = ""
    only_passing: bool = False
    wide: bool = False
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT
    failover: tuple[str, ...] = ()
    balancing: Balancing = Balancing()


def resolutions(chain: Chain, datacenter: str) -> tuple[dict[str, Resolution], list[Problem]]:
    """Every target that `chain` can lead to, by id, those of failovers included.

    Left out, with a problem, is one whose identity cannot be proven: of another cluster,
    namespace or partition.
    """
    own = datacenter or chain.datacenter
    found: dict[str, Resolution] = {}
    warnings: list[Problem] = []
    spares: dict[str, ChainNode] = {}
    for key in sorted(chain.nodes):
        node = chain.nodes[key]
        target = chain.targets.get(node.resolver.target) if node.resolver else None
        if target is None or node.resolver is None:
            continue
        if reason := _foreign(target):
            warnings.append(_problem(target, "it", reason))
            continue
        ids = []
        for spare_id in (node.resolver.failover and node.resolver.failover.targets) or ():
            spare = chain.targets.get(spare_id)
            if spare is None or (reason := _foreign(spare)):
                why = "the chain does not have it" if spare is None else reason
                warnings.append(_problem(target, f"its failover to {spare_id}", why))
                continue
            ids.append(spare_id)
            spares.setdefault(spare_id, node)
        balancing, more = _balancing(node, f"service-resolver/{target.service}: LoadBalancer")
        warnings += more
        found[target.id] = _at(target, node, balancing, tuple(ids), own)
    for spare_id, node in spares.items():
        if spare_id not in found:
            balancing, _ = _balancing(node, "")
            found[spare_id] = _at(chain.targets[spare_id], node, balancing, (), own)
    return found, list(dict.fromkeys(warnings))


def queries(chain: Chain, datacenter: str) -> frozenset[InstanceQuery]:
    """What must be asked of Consul to serve `chain`."""
    found, _ = resolutions(chain, datacenter)
    return frozenset(resolution.query for resolution in found.values())


def _at(
    target: ChainTarget, node: ChainNode, balancing: Balancing, failover: tuple[str, ...], own: str
) -> Resolution:
    elsewhere = bool(target.datacenter) and target.datacenter != own
    datacenter = target.datacenter if elsewhere else ""
    mode = target.mesh_gateway.mode if elsewhere and not target.external else ""
    if mode in {"local", "remote"}:
        query = InstanceQuery(GATEWAY_SERVICE, datacenter if mode == "remote" else "", gateway=True)
    else:
        query = InstanceQuery(target.service, datacenter, target.subset.filter)
    resolver = node.resolver
    own_timeout = resolver.connect_timeout if resolver and resolver.target == target.id else ""
    connect_timeout = (
        seconds(own_timeout)
        or seconds(target.connect_timeout)
        or seconds(resolver.connect_timeout if resolver else "")
    )
    return Resolution(
        target_id=target.id,
        service=target.service,
        datacenter=target.datacenter or own,
        sni=target.sni,
        query=query,
        subset=target.service_subset,
        only_passing=target.subset.only_passing and not query.gateway,
        wide=bool(query.datacenter),
        connect_timeout=connect_timeout if connect_timeout > 0 else DEFAULT_CONNECT_TIMEOUT,
        failover=failover,
        balancing=balancing,
    )


def _foreign(target: ChainTarget) -> str:
    """Why a target's identity is beyond this mesh; empty when it is not."""
    if target.peer:
        return f"it is of the peer {target.peer}"
    if target.namespace not in {"", "default"}:
        return f"it is in namespace {target.namespace}"
    if target.partition not in {"", "default"}:
        return f"it is in partition {target.partition}"
    return ""


def _problem(target: ChainTarget, what: str, why: str) -> Problem:
    return Problem(
        f"service-resolver/{target.service}",
        f"{what} gets no traffic: {why}",
        "Lead to a service of this cluster's default namespace and partition",
    )


def _balancing(node: ChainNode, where: str) -> tuple[Balancing, list[Problem]]:
    balancer = node.load_balancer
    if balancer is None:
        return Balancing(), []
    warnings: list[Problem] = []
    policy = balancer.policy
    if policy and policy not in PICKERS:
        warnings.append(
            Problem(f"{where}.Policy", f"{policy} is not known here: the agent's default serves")
        )
        policy = ""
    policies: list[HashPolicy] = []
    for number, given in enumerate(balancer.hash_policies or ()):
        hashed = _hash_policy(given)
        if hashed is None:
            place = f"{where}.HashPolicies[{number}]"
            warnings.append(Problem(place, f'nothing is hashed of "{given.field}"'))
        else:
            policies.append(hashed)
    ring = balancer.ring_hash_config or consul.RingHash()
    least = balancer.least_request_config or consul.LeastRequest()
    standard = Balancing()
    return (
        Balancing(
            policy=policy,
            choice_count=least.choice_count or standard.choice_count,
            minimum_ring_size=ring.minimum_ring_size or standard.minimum_ring_size,
            maximum_ring_size=ring.maximum_ring_size or standard.maximum_ring_size,
            hash_policies=tuple(policies),
        ),
        warnings,
    )


def _hash_policy(given: consul.HashPolicy) -> HashPolicy | None:
    if given.source_ip:
        return HashPolicy(source_address=True, terminal=given.terminal)
    if not given.field_value:
        return None
    if given.field == "header":
        return HashPolicy(header=given.field_value.lower(), terminal=given.terminal)
    if given.field == "query_parameter":
        return HashPolicy(query=given.field_value, terminal=given.terminal)
    if given.field != "cookie":
        return None
    cookie = given.cookie_config or consul.Cookie()
    ttl = 0.0 if cookie.session else seconds(cookie.ttl) or None
    return HashPolicy(
        cookie=given.field_value,
        cookie_ttl=ttl,
        cookie_path=cookie.path,
        terminal=given.terminal,
    )
