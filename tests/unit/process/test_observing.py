"""What becomes of instances that are gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.answers import instance
from tests.unit.plan.test_upstreams import before

from fleetmesh.edge.consul_http import Answer, ConsulError
from fleetmesh.plan import vanished
from fleetmesh.plan.answers import Instance
from fleetmesh.plan.chain import InstanceQuery
from fleetmesh.plan.observed import Observed
from fleetmesh.process import observing
from fleetmesh.process.observing import Observer
from fleetmesh.settings import Settings

API, V1, FAR = InstanceQuery("api"), InstanceQuery("api", filter="v1"), InstanceQuery("api", "dc2")
ONE = 0.1
KNOWN = Observed(instances={query: (instance(),) for query in (API, V1, FAR)})
REMEMBERED = Observed(remembered=frozenset({API, FAR}))


class Consul:
    """Has for each question the answers in their order, the last for ever."""

    def __init__(self, answers: dict[InstanceQuery, list[Answer[tuple[Instance, ...]]]]) -> None:
        self.answers = answers
        self.asked: list[InstanceQuery] = []
        self.checks_left = 1_000

    async def instances(self, query: InstanceQuery) -> Answer[tuple[Instance, ...]]:
        self.asked.append(query)
        left = self.answers[query]
        return left.pop(0) if len(left) > 1 else left[0]

    async def check_token(self) -> None:
        """It is well for a while."""
        self.checks_left -= 1
        if self.checks_left < 0:
            raise ConsulError("ACL not found", 403)


@pytest.fixture
def consul(monkeypatch: pytest.MonkeyPatch) -> Consul:
    monkeypatch.setattr(observing, "ONE", ONE)
    monkeypatch.setattr(vanished, "ONE", ONE)
    return Consul({})


def folded(
    consul: Consul, *news: tuple[InstanceQuery, Answer[Any]], before: Observed = KNOWN
) -> Observed:
    """What is known of api when all of `news` came at once."""

    async def run() -> Observed:
        client: Any = consul
        observer = Observer(client, Settings(address="10.0.0.1"), lambda: None, lambda: None)
        observer.observed = before
        observer._adjust = lambda: None  # type: ignore[method-assign]
        async with asyncio.timeout(5):
            await asyncio.gather(*(observer._instances(*one) for one in news))
        return observer.observed

    return asyncio.run(run())


NOTHING: Answer[tuple[Instance, ...]] = Answer((), 2)
THERE: Answer[tuple[Instance, ...]] = Answer((instance(),), 3)
REFUSED: Answer[tuple[Instance, ...]] = Answer((), 1, refusal="No path to datacenter")


def test_the_last_instance_is_believed_to_be_gone_at_the_second_look(consul: Consul) -> None:
    consul.answers = {API: [NOTHING]}
    assert folded(consul, (API, NOTHING)).instances[API] == ()
    assert consul.asked[0] == API


def test_what_is_there_again_was_never_gone(consul: Consul) -> None:
    consul.answers = {API: [THERE]}
    assert folded(consul, (API, NOTHING)).instances[API] == THERE.value


def test_a_subset_whose_service_is_there_is_believed_at_once(consul: Consul) -> None:
    """Its instances have changed their meta; nothing has been lost."""
    consul.answers = {API: [THERE]}
    assert folded(consul, (V1, NOTHING)).instances[V1] == ()
    assert consul.asked == [API]


def test_each_question_is_doubted_for_itself(consul: Consul) -> None:
    """A datacenter that still answers does not keep alive what is gone from another one."""
    consul.answers = {API: [NOTHING]}
    found = folded(consul, (API, NOTHING), (FAR, THERE))
    assert (found.instances[API], found.instances[FAR]) == ((), THERE.value)


def test_what_consul_refuses_stays_as_it_was_known(consul: Consul) -> None:
    found = folded(consul, (FAR, REFUSED))
    assert found.instances[FAR] == (instance(),)
    assert found.refusals == {FAR: REFUSED.refusal}
    consul.answers = {FAR: [REFUSED]}
    assert folded(consul, (FAR, NOTHING)).instances[FAR] == (instance(),)


def test_a_token_that_loses_its_rights_at_the_second_look_is_told(consul: Consul) -> None:
    """Consul 1.8 answers it with nothing, which is no second opinion."""
    consul.answers = {API: [NOTHING]}
    consul.checks_left = 1
    with pytest.raises(ConsulError, match="ACL not found"):
        folded(consul, (API, NOTHING))


def test_what_was_served_before_the_agent_started_is_doubted_too(consul: Consul) -> None:
    consul.answers = {API: [NOTHING]}
    found = folded(consul, (API, NOTHING), before=REMEMBERED)
    assert (found.instances, found.remembered) == ({API: ()}, {FAR})
    assert consul.asked[0] == API
    consul.answers = {API: [THERE]}
    assert folded(consul, (API, NOTHING), before=REMEMBERED).instances[API] == THERE.value
    assert folded(consul, (API, THERE), before=REMEMBERED).remembered == {FAR}


def test_what_consul_refuses_of_it_is_not_told(consul: Consul) -> None:
    found = folded(consul, (FAR, REFUSED), before=REMEMBERED)
    assert (found.instances, found.remembered) == ({}, {API, FAR})
    assert found.refusals == {FAR: REFUSED.refusal}


def test_an_agent_that_starts_remembers_what_was_served(consul: Consul) -> None:
    async def remembered() -> frozenset[InstanceQuery]:
        client: Any = consul
        observer = Observer(client, Settings(address="10.0.0.1"), lambda: None, lambda: None)
        observer._adjust = lambda: None  # type: ignore[method-assign]
        observer.start(before())
        return observer.observed.remembered

    assert asyncio.run(remembered()) == {API, FAR}
