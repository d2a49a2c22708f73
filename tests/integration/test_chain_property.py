"""Random config entries, written to a real Consul: what the data plane decides for random requests
is what an independent walk over the compiled chain says."""

from __future__ import annotations

import itertools
import json
import time
import urllib.error
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from tests.support.answers import TRUST
from tests.support.chain_walk import walk
from tests.support.consul import ConsulServer

from fleetmesh.core.table import link
from fleetmesh.model.traffic import Upstream
from fleetmesh.plan.answers import ChainAnswer, Instance, Root, Roots
from fleetmesh.plan.chain import InstanceQuery, queries
from fleetmesh.plan.compile import Compiled, compile_snapshot
from fleetmesh.plan.observed import Observed
from fleetmesh.settings import Settings

pytestmark = pytest.mark.consul

SERVICES = ("api", "cart", "shop")
SUBSETS = ("v1", "v2")
PATHS = ("/", "/a", "/a/b", "/ab", "/b", "/b/1", "/b/12")
REGEXES = ("/b/[0-9]", "/a.*", "/(a|b)", "/[ab]/.+")
VALUES = ("1", "12", "on")

_value = st.one_of(
    st.just({"Present": True}),
    st.sampled_from(VALUES).map(lambda value: {"Exact": value}),
    st.sampled_from(("1", "[0-9]+", "o.")).map(lambda regex: {"Regex": regex}),
)
_text = st.one_of(
    _value,
    st.sampled_from(("1", "o")).map(lambda value: {"Prefix": value}),
    st.sampled_from(("2", "n")).map(lambda value: {"Suffix": value}),
)
_header = st.builds(
    lambda name, how, invert: {"Name": name, **how, "Invert": invert},
    st.sampled_from(("x-a", "X-B")),
    _text,
    st.booleans(),
)
_parameter = st.builds(lambda name, how: {"Name": name, **how}, st.sampled_from("pq"), _value)
_path = st.one_of(
    st.just({}),
    st.sampled_from(PATHS).map(lambda path: {"PathExact": path}),
    st.sampled_from(PATHS).map(lambda path: {"PathPrefix": path}),
    st.sampled_from(REGEXES).map(lambda regex: {"PathRegex": regex}),
)
_match = st.builds(
    lambda path, headers, parameters, methods: {
        "HTTP": {**path, "Header": headers, "QueryParam": parameters, "Methods": methods}
    },
    _path,
    st.lists(_header, max_size=1),
    st.lists(_parameter, max_size=1),
    st.sampled_from(([], [], ["GET"], ["PUT", "GET"])),
)
_place = st.builds(
    lambda service, subset: {"Service": service, "ServiceSubset": subset},
    st.sampled_from(SERVICES),
    st.sampled_from(("", *SUBSETS)),
)
_routes = st.lists(
    st.builds(lambda match, place: {"Match": match, "Destination": place}, _match, _place),
    min_size=1,
    max_size=5,
)
_same = lambda one: (one["Service"], one["ServiceSubset"])  # noqa: E731


@st.composite
def _splits(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Weights in hundredths of a percent that sum to all; one may be without any."""
    places = draw(st.lists(_place, min_size=1, max_size=3, unique_by=_same))
    cuts = [0, *sorted(draw(st.integers(0, 10000)) for _ in places[1:]), 10000]
    weights = [after - before for before, after in itertools.pairwise(cuts)]
    return [
        {**place, "Weight": weight / 100} for place, weight in zip(places, weights, strict=True)
    ]


_entries = st.fixed_dictionaries(
    {
        "routes": _routes | _routes | st.none(),
        "splits": st.dictionaries(st.sampled_from(SERVICES), _splits(), min_size=1, max_size=2),
        "default_subset": st.dictionaries(
            st.sampled_from(SERVICES), st.sampled_from(SUBSETS), max_size=2
        ),
    }
)
_optional = st.none() | st.sampled_from(VALUES)
_request = st.builds(
    lambda method, path, p, q, a, b: (
        method,
        path + ("?" + "&".join(x for x in (p and f"p={p}", q and f"q={q}") if x)).rstrip("?"),
        {name: value for name, value in (("x-a", a), ("x-b", b)) if value},
    ),
    st.sampled_from(("GET", "POST", "PUT", "DELETE")),
    st.sampled_from(PATHS),
    _optional,
    _optional,
    _optional,
    _optional,
)


class Fields:
    def __init__(self, fields: dict[str, str]) -> None:
        self._fields = fields

    def field(self, name: bytes) -> bytes | None:
        value = self._fields.get(name.decode())
        return None if value is None else value.encode()


def write(consul: ConsulServer, entries: dict[str, Any]) -> None:
    """All of them anew. Consul refuses loops of splitters: what it refuses is left out."""
    for service in SERVICES:
        for kind in ("service-router", "service-splitter"):
            consul.call("DELETE", f"/v1/config/{kind}/{service}")
    for service in SERVICES:
        consul.put(
            "/v1/config",
            {
                "Kind": "service-resolver",
                "Name": service,
                "DefaultSubset": entries["default_subset"].get(service, ""),
                "Subsets": {name: {"Filter": f'Service.Meta.v == "{name}"'} for name in SUBSETS},
            },
        )
    more = [
        {"Kind": "service-splitter", "Name": service, "Splits": splits}
        for service, splits in entries["splits"].items()
    ]
    if entries["routes"] is not None:
        more.append({"Kind": "service-router", "Name": "api", "Routes": entries["routes"]})
    for entry in more:
        try:
            assert consul.put("/v1/config", entry) is True
            event(f"{entry['Kind']} written")
        except urllib.error.HTTPError as error:
            reason = error.read().decode()
            assert "circular" in reason, reason
            event(f"{entry['Kind']} refused")


def upstream_of(chain: dict[str, Any]) -> Compiled:
    """Every query is answered: the whole service has an instance, to be known by."""
    typed = msgspec.json.decode(json.dumps({"Chain": chain}), type=ChainAnswer).chain
    one = msgspec.convert(
        {"Node": {"Node": "n", "Address": "10.0.0.1"}, "Service": {"ID": "s", "Service": "s"}},
        Instance,
    )
    compiled = compile_snapshot(
        Settings(address="10.0.0.1"),
        Observed(
            datacenter="dc1",
            node="n",
            roots=Roots(TRUST, [Root("ROOT")]),
            intentions=(),
            default_allow=True,
            catalog=frozenset({"api"}),
            chains={"api": typed},
            instances=dict.fromkeys((*queries(typed, "dc1"), InstanceQuery("api")), (one,)),
        ),
    )
    assert isinstance(compiled, Compiled)
    return compiled


def decided(
    upstream: Upstream, number: int, target_id: str
) -> tuple[int | None, frozenset[tuple[str, str]]]:
    """The rule and the targets that a route's number stands for; -1 is none."""
    place = upstream.routes[number] if number >= 0 else upstream
    named = {target.id: target for target in upstream.targets()}
    targets = [split.target for split in place.splits if split.weight]
    targets = targets or [named[target_id]]
    taken = None if number < 0 else int(upstream.routes[number].name.removeprefix("api/"))
    return taken, frozenset((target.service, target.subset) for target in targets)


def test_the_data_plane_decides_as_the_chain_says(consul_server: ConsulServer) -> None:
    for service in SERVICES:
        body = {"Kind": "service-defaults", "Name": service, "Protocol": "http"}
        consul_server.put("/v1/config", body)
    deadline = time.monotonic() + 20
    seen: dict[str, int] = {}

    @settings(
        max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(_entries, st.lists(_request, min_size=10, max_size=40))
    def agrees(entries: dict[str, Any], requests: list[tuple[str, str, dict[str, str]]]) -> None:
        if time.monotonic() > deadline:
            return
        write(consul_server, entries)
        chain = consul_server.get("/v1/discovery-chain/api")["Chain"]
        compiled = upstream_of(chain)
        assert compiled.warnings == ()
        (upstream,) = compiled.snapshot.upstreams
        entry = link(compiled.snapshot, 1, None, 0).upstreams["api"]
        for method, url, headers in requests:
            number = -1
            if entry.matcher is not None:
                number = entry.matcher.find(method.encode(), url.encode(), Fields(headers))
            way = entry.ways[number]
            assert way.name == (upstream.routes[number].name if number >= 0 else "")
            expected = walk(chain, method, url, headers)
            assert decided(upstream, number, way.target.id) == expected
            kind = "default" if expected[0] is None else "route"
            kind += " split" if len(expected[1]) > 1 else ""
            seen[kind] = seen.get(kind, 0) + 1

    agrees()
    assert {"default", "route", "default split", "route split"} <= seen.keys(), seen
    assert sum(seen.values()) >= 500, seen
