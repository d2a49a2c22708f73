"""The keeper of the rules against a real kernel: armed, confirmed, undone, repaired, removed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from tests.support.netns import Netns, netns, tables
from typer.testing import CliRunner

from fleetmesh.capture import redirect
from fleetmesh.capture.ruleset import Ruleset
from fleetmesh.cli.capture import app
from fleetmesh.edge import netlink
from fleetmesh.process import capturing
from fleetmesh.process.capturing import CaptureKeeper
from fleetmesh.settings import CaptureSettings, OnStop, ServiceSettings, Settings

PORTS = {"web": 15100, "cart": 15101}
UIDS = {"web": 4001, "cart": 4002}
WEB = ServiceSettings("web", 8080, user="web")
CART = ServiceSettings("cart", 7001, user="cart", on_stop=OnStop.CLOSED)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Netns]:
    monkeypatch.setattr(capturing, "REPAIR_INTERVAL", 0.3)
    monkeypatch.setattr(capturing, "PENDING_INTERVAL", 0.05)
    with netns("keeper") as space:
        yield space


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path, WEB)


def make_settings(tmp_path: Path, *services: ServiceSettings, patience: float = 60) -> Settings:
    return Settings(
        address="192.0.2.1",
        state_dir=str(tmp_path),
        admin_socket=str(tmp_path / "admin.sock"),
        capture=CaptureSettings(confirm_timeout=patience),
        services=services,
    )


def run(space: Netns, scenario: Callable[[], Awaitable[None]]) -> None:
    space.call(lambda: uvloop.run(scenario()))  # type: ignore[arg-type]


def kernel() -> Ruleset:
    return netlink.read().ruleset


def rules_of(settings: Settings, agent_uid: int = 0) -> Ruleset:
    return redirect.ruleset(redirect.inputs(settings, PORTS, UIDS, agent_uid))


async def until(condition: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + 3
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.02)


def inodes(settings: Settings) -> set[tuple[str, int]]:
    return {(file.name, file.stat().st_ino) for file in Path(settings.state_dir).iterdir()}


async def started(settings: Settings) -> CaptureKeeper:
    keeper = CaptureKeeper(settings)
    await keeper.start()
    return keeper


def test_new_rules_are_armed_and_a_confirmation_keeps_them(host: Netns, tmp_path: Path) -> None:
    settings = make_settings(tmp_path, WEB, patience=0.4)

    async def scenario() -> None:
        keeper = await started(settings)
        assert keeper.status().state == "waiting"
        status = await keeper.apply(settings, PORTS, UIDS)
        assert (status.state, status.drift, status.error) == ("unconfirmed", False, "")
        assert status.undo_in is not None
        assert 0 < status.undo_in <= 0.4
        assert kernel() == rules_of(settings)
        assert status.rules == len(rules_of(settings))
        assert await keeper.confirm()
        assert not await keeper.confirm()
        await asyncio.sleep(0.6)
        assert keeper.status().state == "applied"
        assert kernel() == rules_of(settings)
        await keeper.stop()

    run(host, scenario)


def test_unconfirmed_rules_are_undone_and_not_tried_again(
    host: Netns, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(tmp_path, WEB, patience=0.3)

    async def scenario() -> None:
        keeper = await started(settings)
        await keeper.apply(settings, PORTS, UIDS)
        await until(lambda: keeper.status().state == "undone")
        assert kernel() == Ruleset()
        await keeper.apply(settings, PORTS, UIDS)
        await asyncio.sleep(0.5)
        assert keeper.status().state == "undone"
        assert kernel() == Ruleset()
        status = await keeper.insist(60)
        assert status.state == "unconfirmed"
        assert kernel() == rules_of(settings)
        await keeper.stop()

    run(host, scenario)
    undone = [r for r in caplog.records if r.fields.get("event") == "capture_undone"]  # type: ignore[attr-defined]
    assert [record.levelno for record in undone] == [logging.ERROR]


def test_the_confirmed_rules_come_back_when_newer_ones_expire(host: Netns, tmp_path: Path) -> None:
    before = make_settings(tmp_path, WEB, patience=0.3)
    after = make_settings(tmp_path, WEB, CART, patience=0.3)

    async def scenario() -> None:
        keeper = await started(before)
        await keeper.apply(before, PORTS, UIDS)
        await keeper.confirm()
        assert (await keeper.apply(after, PORTS, UIDS)).state == "unconfirmed"
        assert kernel() == rules_of(after)
        await until(lambda: keeper.status().state == "undone")
        assert kernel() == rules_of(before)
        assert (await keeper.apply(before, PORTS, UIDS)).state == "applied"
        await keeper.stop()

    run(host, scenario)


@pytest.mark.parametrize("back_in_time", [True, False], ids=["in time", "too late"])
def test_a_deadline_survives_the_death_of_its_keeper(
    host: Netns, tmp_path: Path, back_in_time: bool
) -> None:
    settings = make_settings(tmp_path, WEB, patience=0.6)

    async def dies() -> None:
        keeper = await started(settings)
        await keeper.apply(settings, PORTS, UIDS)
        await asyncio.sleep(0.1)
        await keeper.stop()

    async def returns() -> None:
        if not back_in_time:
            await asyncio.sleep(0.6)
        assert kernel() == rules_of(settings)
        keeper = await started(settings)
        if back_in_time:
            await keeper.apply(settings, PORTS, UIDS)
            assert keeper.status().state == "unconfirmed"
        await until(lambda: keeper.status().state == "undone")
        assert kernel() == Ruleset()
        await keeper.stop()

    run(host, dies)
    run(host, returns)


def test_confirmed_rules_need_no_confirmation_after_a_restart(
    host: Netns, settings: Settings
) -> None:
    async def first() -> None:
        keeper = await started(settings)
        await keeper.apply(settings, PORTS, UIDS)
        await keeper.confirm()
        await keeper.stop()
        netlink.remove()  # as a reboot does

    async def second() -> None:
        keeper = await started(settings)
        status = await keeper.apply(settings, PORTS, UIDS)
        assert (status.state, status.undo_in) == ("applied", None)
        assert kernel() == rules_of(settings)
        await keeper.stop()

    run(host, first)
    run(host, second)


def test_what_others_change_is_seen_and_repaired(
    host: Netns, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    def repairs() -> int:
        return sum("drifted" in record.getMessage() for record in caplog.records)

    async def scenario() -> None:
        keeper = await started(settings)
        await keeper.apply(settings, PORTS, UIDS)
        await keeper.confirm()
        assert (await keeper.view()).difference == ()
        host.run("nft", "flush", "ruleset")
        seen = await keeper.view()
        assert seen.status.drift
        assert '+\t\ttcp dport 8080 counter redirect to :15006 comment "web"' in seen.difference
        assert keeper.status().drift
        await until(lambda: repairs() == 1)
        assert not keeper.status().drift
        assert kernel() == rules_of(settings)
        host.run("nft", "add", "rule", "inet", "fleetmesh", "output", "drop")
        await until(lambda: repairs() == 2)
        assert kernel() == rules_of(settings)
        host.run("nft", "flush", "ruleset")
        await keeper.apply(settings, PORTS, UIDS)
        assert repairs() == 3
        await keeper.stop()

    run(host, scenario)


def test_applying_the_same_again_changes_nothing(host: Netns, settings: Settings) -> None:
    """Counters and handles stay: the kernel was not touched."""

    async def scenario() -> None:
        keeper = await started(settings)
        await keeper.apply(settings, PORTS, UIDS)
        before = host.run("nft", "-a", "list", "ruleset")
        files = inodes(settings)
        await keeper.apply(settings, PORTS, UIDS)
        assert host.run("nft", "-a", "list", "ruleset") == before
        assert inodes(settings) == files
        await keeper.stop()

    run(host, scenario)


def test_removed_rules_stay_away_until_somebody_asks(host: Netns, settings: Settings) -> None:
    """Also through a restart of the agent; the confirmation of before does not count any more."""

    async def scenario() -> None:
        keeper = await started(settings)
        await keeper.apply(settings, PORTS, UIDS)
        await keeper.confirm()
        assert (await keeper.remove()).state == "removed"
        assert tables(host) == set()
        await keeper.apply(settings, PORTS, UIDS)
        await asyncio.sleep(0.5)
        assert tables(host) == set()
        await keeper.stop()

    async def restarted() -> None:
        keeper = await started(settings)
        assert (await keeper.apply(settings, PORTS, UIDS)).state == "removed"
        assert tables(host) == set()
        assert (await keeper.insist(0)).state == "applied"
        assert kernel() == rules_of(settings)
        await keeper.stop()

    run(host, scenario)
    run(host, restarted)


def test_a_refusal_keeps_the_rules_in_force_and_is_tried_again(
    host: Netns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = make_settings(tmp_path, WEB), make_settings(tmp_path, WEB, CART)
    replace = netlink.replace

    def refuse(rules: Ruleset) -> None:
        raise netlink.NetfilterError(95, "")

    async def scenario() -> None:
        keeper = await started(before)
        await keeper.apply(before, PORTS, UIDS)
        await keeper.confirm()
        with monkeypatch.context() as patch:
            patch.setattr(netlink, "replace", refuse)
            status = await keeper.apply(after, PORTS, UIDS)
            assert status.state == "failed"
            assert status.error == "nftables: Operation not supported"
            assert status.undo_in is None
            assert kernel() == rules_of(before)
            assert (await keeper.view()).difference
        assert netlink.replace is replace
        await until(lambda: keeper.status().state == "unconfirmed")
        assert kernel() == rules_of(after)
        await keeper.stop()

    run(host, scenario)


def test_without_services_or_with_capture_disabled_there_is_no_table(
    host: Netns, settings: Settings, tmp_path: Path
) -> None:
    nothing = make_settings(tmp_path)

    async def scenario() -> None:
        keeper = await started(settings)
        await keeper.apply(settings, PORTS, UIDS)
        await keeper.confirm()
        status = await keeper.apply(nothing, {}, {})
        assert (status.state, status.rules) == ("disabled", 0)
        assert tables(host) == set()
        await keeper.stop()

    run(host, scenario)


def test_unreadable_and_unwritable_state_is_borne(host: Netns, tmp_path: Path) -> None:
    (tmp_path / "capture.json").write_text("{")
    (tmp_path / "capture-unconfirmed.new").mkdir()  # nothing can be written there
    settings = make_settings(tmp_path, WEB, patience=0.3)

    async def scenario() -> None:
        keeper = await started(settings)
        assert (await keeper.apply(settings, PORTS, UIDS)).state == "unconfirmed"
        await until(lambda: keeper.status().state == "undone")
        assert kernel() == Ruleset()
        await keeper.stop()

    run(host, scenario)


@pytest.mark.parametrize("confirmed", [True, False], ids=["confirmed", "unconfirmed"])
def test_a_stopped_agent_leaves_only_confirmed_closed_services_closed(
    host: Netns, tmp_path: Path, confirmed: bool
) -> None:
    settings = make_settings(tmp_path, WEB, CART)

    async def scenario() -> None:
        keeper = await started(settings)
        await keeper.apply(settings, PORTS, UIDS)
        if confirmed:
            await keeper.confirm()
        await keeper.stop()

    run(host, scenario)
    arguments = ["on-stop", "--gave-up", "--state-dir", str(tmp_path), "--run-dir", str(tmp_path)]
    result = host.call(lambda: CliRunner().invoke(app, arguments))
    assert result.exit_code == 0, result.output
    given = redirect.inputs(settings, PORTS, UIDS, 0)
    assert host.call(kernel) == (redirect.closed(given) if confirmed else Ruleset())
    listed = host.run("nft", "list", "ruleset")
    assert ("cart: agent stopped" in listed) is confirmed
    assert "web" not in listed
