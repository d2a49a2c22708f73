"""Capture suspended by an operator, against a real kernel: what goes on, what comes back, when."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.test_capturing import (
    CART,
    PORTS,
    UIDS,
    WEB,
    kernel,
    make_settings,
    rules_of,
    run,
    started,
    until,
)
from tests.integration.test_netlink import HOST, PEER, Pair, accept, echoes, reaches
from tests.support.netns import join, netns

from fleetmesh.capture.ruleset import Kind
from fleetmesh.edge import netlink
from fleetmesh.model.problem import Problem
from fleetmesh.model.status import CaptureStatus
from fleetmesh.process import capturing
from fleetmesh.process.capturing import CaptureKeeper
from fleetmesh.settings import CaptureSettings, Settings

ME = "root (uid 0)"
USER = UIDS["web"]


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setattr(capturing, "REPAIR_INTERVAL", 0.3)
    monkeypatch.setattr(capturing, "PENDING_INTERVAL", 0.05)
    with netns("host") as host, netns("peer") as peer:
        join(host, peer, 1)
        yield Pair(host, peer)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path, WEB)


async def applied(settings: Settings) -> CaptureKeeper:
    """A keeper whose rules are in force and confirmed."""
    keeper = await started(settings)
    await keeper.apply(settings, PORTS, UIDS)
    await keeper.confirm()
    return keeper


async def bypassed(keeper: CaptureKeeper, seconds: float) -> CaptureStatus:
    status = await keeper.suspend(seconds, ME, "tests")
    assert isinstance(status, CaptureStatus)
    assert status.state == "bypassed"
    assert redirects() == 0
    return status


def redirects() -> int:
    return sum(len(chain.rules) for chain in kernel().chains if chain.kind is Kind.NAT)


def test_what_is_redirected_goes_on_and_what_is_new_is_let_go(
    pair: Pair, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """And what was let go stays so when the rules are back."""
    host = pair.host
    with (
        pair.peer.listen("::", 8000) as direct,
        host.listen("127.0.0.1", PORTS["web"]) as outbound,
        host.listen("::", 15006) as plain,
        host.listen("::", 8080) as application,
    ):

        async def scenario() -> None:
            keeper = await applied(settings)
            with (
                host.connect(PEER, 8000, uid=USER) as captured,
                accept(outbound) as captured_end,
                pair.peer.connect(HOST, 8080) as called,
                accept(plain) as called_end,
            ):
                status = await bypassed(keeper, 600)
                assert status.bypass is not None
                assert 590 < status.bypass.seconds_left <= 600
                assert (status.bypass.by, status.bypass.why) == (ME, "tests")
                assert (await keeper.view()).difference == ()
                await asyncio.sleep(0.5)  # nothing is repaired
                assert redirects() == 0
                assert echoes(captured, captured_end)
                assert echoes(called, called_end)
                assert reaches(pair.peer, HOST, 8080, 0, application)
                with pytest.raises(ConnectionRefusedError):  # the agent's own socket stays shut
                    pair.peer.connect(HOST, 15006)
                with (
                    host.connect(PEER, 8000, uid=USER) as free,
                    accept(direct) as free_end,
                ):
                    assert await keeper.resume(ME)
                    assert not await keeper.resume(ME)
                    assert keeper.status() == CaptureStatus("applied", len(rules_of(settings)))
                    assert kernel() == rules_of(settings)
                    assert echoes(captured, captured_end)
                    assert echoes(called, called_end)
                    assert echoes(free, free_end)
                assert reaches(host, PEER, 8000, USER, outbound)
                assert reaches(pair.peer, HOST, 8080, 0, plain)
            await keeper.stop()

        run(host, scenario)
    events = {r.fields["event"]: r for r in caplog.records if "event" in getattr(r, "fields", {})}  # type: ignore[attr-defined]
    began, ended = events["bypass_began"], events["bypass_ended"]
    assert began.levelno == ended.levelno == logging.WARNING
    assert began.fields["by"] == ME  # type: ignore[attr-defined]
    assert began.fields["why"] == "tests"  # type: ignore[attr-defined]
    assert time.strftime("%Y-%m-%d") in began.getMessage()
    assert ended.getMessage() == f"the bypass of capture has ended: by {ME}"


def test_it_ends_by_itself(pair: Pair, settings: Settings) -> None:
    async def scenario() -> None:
        keeper = await applied(settings)
        await bypassed(keeper, 0.4)
        await bypassed(keeper, 0.8)  # asked again, it begins again
        await asyncio.sleep(0.5)
        assert keeper.status().state == "bypassed"
        await until(lambda: kernel() == rules_of(settings))
        assert keeper.status().state == "applied"
        await keeper.stop()

    run(pair.host, scenario)


@pytest.mark.parametrize("after", ["in time", "too late", "reboot"])
def test_an_agent_that_comes_back(
    pair: Pair, settings: Settings, tmp_path: Path, after: str
) -> None:
    """It keeps the time that is left; after a reboot there is none."""

    async def dies() -> None:
        await bypassed(await applied(settings), 1.0)

    async def returns() -> None:
        if after == "reboot":
            netlink.remove()
            (tmp_path / "capture-bypass.json").unlink()
        elif after == "too late":
            await asyncio.sleep(1.0)
        keeper = await started(settings)
        status = await keeper.apply(settings, PORTS, UIDS)
        assert status.state == ("bypassed" if after == "in time" else "applied")
        assert redirects() == (0 if after == "in time" else len(rules_of(settings)) - 3)
        await until(lambda: kernel() == rules_of(settings))
        assert keeper.status().state == "applied"
        assert not (tmp_path / "capture-bypass.json").exists()
        await keeper.stop()

    run(pair.host, dies)
    run(pair.host, returns)


def test_whatever_is_to_stay_closed_forbids_it(pair: Pair, tmp_path: Path) -> None:
    both, one = make_settings(tmp_path, WEB, CART), make_settings(tmp_path, WEB)

    async def scenario() -> None:
        keeper = await applied(both)
        problem = await keeper.suspend(600, ME, "tests")
        assert isinstance(problem, Problem)
        assert problem.rule == "cart is to stay closed (on_stop: closed)"
        assert kernel() == rules_of(both)
        await keeper.apply(one, PORTS, UIDS)
        await bypassed(keeper, 600)
        status = await keeper.apply(both, PORTS, UIDS)  # it is declared meanwhile
        assert (status.state, status.bypass) == ("applied", None)
        assert kernel() == rules_of(both)
        await keeper.stop()

    run(pair.host, scenario)


def test_rules_that_nobody_confirmed_are_armed_after_it(pair: Pair, tmp_path: Path) -> None:
    before = make_settings(tmp_path, WEB)
    capture = CaptureSettings(exclude_ports=(5432,))
    after = Settings(
        address=before.address,
        state_dir=before.state_dir,
        admin_socket=before.admin_socket,
        capture=capture,
        services=(WEB,),
    )

    async def scenario() -> None:
        keeper = await applied(before)
        await bypassed(keeper, 600)
        status = await keeper.apply(after, PORTS, UIDS)
        assert (status.state, status.undo_in) == ("bypassed", None)
        assert await keeper.resume(ME)
        status = keeper.status()
        assert status.state == "unconfirmed"
        assert kernel() == rules_of(after)
        problem = await keeper.suspend(600, ME, "tests")
        assert isinstance(problem, Problem)
        assert problem.rule == "the rules are not confirmed yet"
        await keeper.stop()

    run(pair.host, scenario)


def test_other_verbs_end_it_and_without_rules_there_is_none(pair: Pair, settings: Settings) -> None:
    async def scenario() -> None:
        keeper = await started(settings)
        problem = await keeper.suspend(600, ME, "tests")
        assert isinstance(problem, Problem)
        assert problem.rule == "nothing is captured"
        await keeper.apply(settings, PORTS, UIDS)
        await keeper.confirm()
        await bypassed(keeper, 600)
        assert not await keeper.confirm()
        status = await keeper.insist(None)
        assert (status.state, status.bypass) == ("applied", None)
        await bypassed(keeper, 600)
        status = await keeper.remove()
        assert (status.state, status.bypass) == ("removed", None)
        problem = await keeper.suspend(600, ME, "tests")
        assert isinstance(problem, Problem)
        assert problem.rule == "capture is removed already"
        await keeper.stop()

    run(pair.host, scenario)


def test_a_kernel_that_refuses(
    pair: Pair, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_rules: object) -> None:
        raise netlink.NetfilterError(95, "")

    async def scenario() -> None:
        keeper = await applied(settings)
        with monkeypatch.context() as patch:
            patch.setattr(netlink, "replace", refuse)
            problem = await keeper.suspend(600, ME, "tests")
            assert isinstance(problem, Problem)
            assert problem.rule.startswith("the kernel refused: nftables")
            assert kernel() == rules_of(settings)
        await until(lambda: keeper.status().state == "applied")
        assert keeper.status().bypass is None
        await keeper.stop()

    run(pair.host, scenario)
