"""Who is ejected, for how long, and how it comes back."""

from __future__ import annotations

from msgspec.structs import replace

from fleetmesh.core.outlier import (
    EJECTED,
    FRESH,
    JITTER,
    LEAST,
    STEADY,
    VOLUME,
    Outliers,
    Standing,
)
from fleetmesh.core.outlier_rules import (
    FAILED,
    FAILURE_RATE,
    GATEWAY,
    LATENCY,
    PROBE,
    UNANSWERED,
    Rules,
)
from fleetmesh.model.traffic import PassiveHealth
from fleetmesh.settings import OutlierSettings

SETTINGS = OutlierSettings()
ANY = 0x1234567890ABCDEF


def outliers(
    count: int = 4,
    settings: OutlierSettings = SETTINGS,
    said: PassiveHealth | None = None,
    slow_start: float = 10.0,
) -> Outliers:
    rules = Rules(settings, slow_start, said or PassiveHealth())
    found = Outliers("api", rules, 7, {})
    found.hold([Standing(f"node{at}/api", found) for at in range(count)], rules, 0.0)
    return found


def fail(one: Standing, status: int, times: int, now: float = 100.0) -> None:
    for _ in range(times):
        if status:
            one.answered(status, 0.001, now)
        else:
            one.unanswered(now)


def out(found: Outliers) -> list[str]:
    return [one.reason for one in found.standings if one.out]


def test_each_kind_of_failure_has_its_own_limit() -> None:
    for status, limit, reason in ((500, 5, FAILED), (503, 3, GATEWAY), (0, 3, UNANSWERED)):
        found = outliers()
        one = found.standings[0]
        fail(one, status, limit - 1)
        assert out(found) == []
        fail(one, status, 1)
        assert out(found) == [reason]
        assert found.counts == {("api", reason): 1}
        assert found.unsteady


def test_only_failures_in_a_row_count_and_those_of_one_kind() -> None:
    found = outliers()
    one = found.standings[0]
    for _ in range(20):
        fail(one, 500, 4)
        fail(one, 200, 1)
        fail(one, 503, 2)
        fail(one, 500, 1)
        fail(one, 404, 1)
        fail(one, 0, 2)
        fail(one, 500, 2)
        one.reached(100.0)
    assert out(found) == []
    fail(one, 503, 2)
    fail(one, 500, 3)
    assert out(found) == [FAILED]


def test_a_limit_of_zero_is_never_reached() -> None:
    found = outliers(settings=OutlierSettings(0, 0, 0))
    for status in (500, 503, 0):
        fail(found.standings[0], status, 100)
    assert out(found) == []


def test_an_ejection_ends_with_one_probe_and_then_a_growing_share() -> None:
    found = outliers()
    one = found.standings[0]
    fail(one, 500, 5)
    assert 105.0 <= one.until <= 105.0 + 5.0 * JITTER
    assert not one.admits(ANY, one.until - 0.01)
    now = one.until
    assert one.admits(ANY, now)
    assert not one.admits(ANY, now)
    assert one.out
    one.answered(200, 0.001, now + 0.1)
    assert one.state == FRESH
    numbers = range(2000)
    for at, share in ((0.1, LEAST), (5.1, 0.5), (9.1, 0.9)):
        admitted = sum(one.admits(number, now + at) for number in numbers) / 2000
        assert abs(admitted - share) < 0.04
    found.tick(now + 9.0)
    assert found.unsteady
    found.tick(now + 10.2)
    assert one.state == STEADY
    assert not found.unsteady
    assert [(reason, end > 0) for _, reason, end in found.news] == [(FAILED, True), ("", False)]


def test_a_probe_that_fails_in_any_way_makes_the_next_ejection_longer() -> None:
    found = outliers()
    one = found.standings[0]
    fail(one, 0, 3)
    now, lasted = one.until, []
    for round_ in range(70):
        assert one.admits(ANY, now)
        fail(one, (500, 503, 0)[round_ % 3], 1, now)
        assert one.state == EJECTED
        lasted.append(one.until - now)
        now = one.until
    for at, seconds in enumerate(lasted):
        longest = min(5.0 * (at + 2), 300.0)
        assert longest <= seconds <= longest * (1 + JITTER)
    assert found.counts["api", PROBE] == 70
    assert one.reason == UNANSWERED


def test_a_probe_that_nobody_ends_is_followed_by_another() -> None:
    found = outliers()
    one = found.standings[0]
    fail(one, 500, 5)
    now = one.until
    assert one.admits(ANY, now)
    assert not one.admits(ANY, now + 4.9)
    assert one.admits(ANY, now + 5.0)


def test_what_was_asked_before_an_ejection_changes_nothing_of_it() -> None:
    found = outliers()
    one = found.standings[0]
    fail(one, 500, 5)
    until = one.until
    fail(one, 500, 50, 101.0)
    fail(one, 200, 1, 101.0)
    assert (one.state, one.until, one.times) == (EJECTED, until, 1)


def test_ejections_are_forgotten_one_for_each_healthy_interval() -> None:
    found = outliers(slow_start=0.0)
    one = found.standings[0]
    fail(one, 500, 5)
    for _ in range(3):
        assert one.admits(ANY, one.until)
        fail(one, 500, 1, one.until)
    assert one.times == 4
    assert one.admits(ANY, one.until)
    now = one.until
    fail(one, 200, 1, now)
    assert one.state == STEADY
    for at in range(1, 5):
        found.tick(now + 10.5 * at)
        assert one.times == 4 - at


def test_never_more_are_out_than_may_be_and_one_always_may() -> None:
    for count, percent, most in (
        (2, 50, 1),
        (3, 50, 1),
        (4, 50, 2),
        (4, 10, 1),
        (10, 34, 3),
        (4, 0, 0),
        (4, 100, 4),
    ):
        found = outliers(count, replace(SETTINGS, max_ejection_percent=percent))
        for one in found.standings:
            fail(one, 500, 20)
        assert len(out(found)) == most


def test_who_could_not_be_ejected_is_as_soon_as_there_is_room() -> None:
    found = outliers(2, slow_start=0.0)
    first, second = found.standings
    fail(first, 500, 5)
    fail(second, 500, 5)
    assert (first.out, second.out) == (True, False)
    assert first.admits(ANY, first.until)
    fail(first, 200, 1, first.until)
    fail(second, 500, 1, first.until)
    assert (first.out, second.out) == (False, True)


def rates(found: Outliers, *failing: int, total: int = VOLUME) -> None:
    """Each fails so many of its requests, never five in a row."""
    for one, failures in zip(found.standings, failing, strict=True):
        for at in range(total):
            fail(one, 500 if at % 5 < 4 and failures > at - at // 5 else 200, 1, 1.0)


def test_whoever_fails_much_more_often_than_its_peers_is_ejected() -> None:
    found = outliers()
    rates(found, 10, 0, 1, 0)
    found.tick(20.0)
    assert out(found) == [FAILURE_RATE]


def test_a_rate_means_nothing_where_all_fail_or_little_is_asked() -> None:
    for failing, total in (((30, 25, 24, 26), 50), ((9, 0, 0, 0), 50), ((30, 0, 0, 0), 49)):
        found = outliers()
        rates(found, *failing, total=total)
        found.tick(20.0)
        assert out(found) == []
    found = outliers(settings=replace(SETTINGS, failure_rate=0.0))
    rates(found, 30, 0, 0, 0)
    found.tick(20.0)
    assert out(found) == []


def test_each_interval_is_judged_for_itself() -> None:
    found = outliers()
    rates(found, 6, 0, 0, 0, total=30)
    found.tick(20.0)
    rates(found, 6, 0, 0, 0, total=30)
    found.tick(29.9)
    assert out(found) == []
    rates(found, 6, 0, 0, 0, total=30)
    found.tick(30.1)
    assert out(found) == [FAILURE_RATE]


def test_answers_that_break_off_count_towards_the_rate() -> None:
    found = outliers()
    rates(found, 0, 0, 0, 0)
    for _ in range(10):
        found.standings[2].broke_off()
    found.tick(20.0)
    assert found.standings[2].out


def test_what_consul_says_goes_before_the_settings() -> None:
    said = PassiveHealth(2.0, 2, 100, 25, 1.0)
    for status in (500, 503, 0):
        found = outliers(8, said=said)
        for one in found.standings:
            fail(one, status, 2)
        assert len(out(found)) == 2
        assert found.standings[0].until <= 101.0 + JITTER
    rules = Rules(SETTINGS, 0.0, PassiveHealth(base_ejection_time=600.0))
    assert (rules.seconds, rules.max_seconds, rules.interval) == (600.0, 600.0, 10.0)
    assert Rules(SETTINGS, 0.0).limits == {FAILED: 5, GATEWAY: 3, UNANSWERED: 3}


def test_a_share_of_the_streaks_is_acted_on() -> None:
    ejected = 0
    for percent, low, high in ((0, 0, 0), (30, 30, 90), (100, 200, 200)):
        found = outliers(200, said=PassiveHealth(None, None, percent, 100))
        for one in found.standings:
            fail(one, 500, 5)
        ejected = len(out(found))
        assert low <= ejected <= high


def test_who_comes_to_others_begins_small_and_who_comes_with_all_does_not() -> None:
    found = outliers(2)
    assert not found.unsteady
    newcomer = Standing("node9/api", found)
    found.hold([*found.standings, newcomer], found.rules, 50.0)
    assert [one.state for one in found.standings] == [STEADY, STEADY, FRESH]
    assert found.unsteady
    found.hold([Standing("a", found), Standing("b", found)], found.rules, 60.0)
    assert [one.state for one in found.standings] == [STEADY, STEADY]
    assert not found.unsteady
    found.hold([*found.standings, newcomer], Rules(SETTINGS, 0.0), 60.0)
    assert not found.unsteady


def test_quick_failures_make_nobody_quick_and_slow_ones_slow() -> None:
    one = outliers().standings[0]
    one.answered(200, 0.1, 1.0)
    one.answered(500, 0.0001, 1.0)
    assert one.latency.estimate(1.0) == 0.1
    one.answered(500, 3.0, 1.0)
    assert one.latency.estimate(1.0) == 3.0
    one.waited(2.0, 1.0)
    assert one.latency.estimate(1.0) == 3.0
    one.waited(15.0, 1.0)
    assert one.latency.estimate(1.0) == 15.0
    assert one.failures == 2


def test_whoever_sheds_load_is_neither_ejected_nor_preferred() -> None:
    """It answers at once, but what it would take to do the work is known from before."""
    found = outliers()
    one = found.standings[0]
    one.answered(200, 0.2, 100.0)
    for at in range(200):
        one.shed(0.001, 100.0 + at / 100)
    assert out(found) == []
    assert one.latency.seconds >= 0.2 * 0.8
    fail(one, 0, 3)
    assert out(found) == [UNANSWERED]
    assert one.admits(ANY, one.until + 0.1)
    one.shed(0.001, one.until)
    assert out(found) == [], "an answer to the probe shows that it is there"


def slow(found: Outliers, *seconds: float, total: int = VOLUME) -> None:
    """Each takes so long, and one answer in ten a hundred times as long as that."""
    for one, usual in zip(found.standings, seconds, strict=True):
        for at in range(total):
            one.answered(200, usual * (100 if at % 10 == 9 else 1), 1.0)


def test_whose_slow_end_stands_far_above_its_peers_is_ejected() -> None:
    found = outliers()
    slow(found, 0.05, 0.5, 0.04, 0.06)
    found.tick(20.0)
    assert out(found) == [LATENCY]
    assert found.standings[1].out


def test_latency_ejects_nobody_where_all_are_slow_or_quick_enough_or_little_is_asked() -> None:
    for seconds, total in (((0.5, 1.2, 0.6, 0.9), 50), ((0.001, 0.02, 0.001, 0.001), 50)):
        found = outliers()
        slow(found, *seconds, total=total)
        found.tick(20.0)
        assert out(found) == []
    found = outliers()
    slow(found, 0.05, 0.5, 0.04, 0.06, total=49)
    found.tick(20.0)
    slow(found, 0.05, 0.05, 0.04, 0.06)
    found.tick(30.0)
    assert out(found) == []
    found = outliers(settings=replace(SETTINGS, latency_multiple=0.0))
    slow(found, 0.05, 5.0, 0.04, 0.06)
    found.tick(20.0)
    assert out(found) == []


def test_a_probe_must_be_as_quick_as_was_missed() -> None:
    found = outliers()
    slow(found, 0.05, 0.5, 0.04, 0.06)
    found.tick(20.0)
    one = found.standings[1]
    assert one.admits(ANY, one.until)
    one.answered(200, 0.4, one.until)
    assert (one.state, one.reason) == (EJECTED, LATENCY)
    assert one.admits(ANY, one.until)
    one.answered(200, 0.2, one.until)
    assert one.state == FRESH


def test_what_other_workers_found_holds_and_is_no_news() -> None:
    found = outliers()
    found.heard("node1/api", FAILED, 7.0, 100.0)
    one = found.standings[1]
    assert (one.state, one.reason, one.until) == (EJECTED, FAILED, 107.0)
    assert found.unsteady
    found.heard("node1/api", PROBE, 12.0, 107.0)
    assert (one.reason, one.until, one.times) == (FAILED, 119.0, 2)
    found.heard("nobody/api", FAILED, 7.0, 100.0)
    found.heard("node2/api", FAILED, 7.0, 107.0)
    found.heard("node3/api", FAILED, 7.0, 107.0)
    assert out(found) == [FAILED, FAILED]  # half of them, and no more
    found.heard("node1/api", "", 0.0, 110.0)
    found.heard("node0/api", "", 0.0, 110.0)
    assert [one.state for one in found.standings] == [STEADY, FRESH, EJECTED, STEADY]
    assert (found.news, found.counts) == ([], {})


def left_with(found: Outliers, well: int, now: float) -> list[Standing]:
    """Half of ten are out; of the others all but `well` went away."""
    for one in found.standings[:5]:
        fail(one, 500, 5, now)
    assert len(out(found)) == 5
    assert not found.panic
    found.hold(found.standings[: 5 + well], found.rules, now)
    return found.standings[:5]


def test_what_one_that_is_out_answers_badly_is_for_its_peers_but_not_in_panic() -> None:
    found = outliers()
    one = found.standings[0]
    fail(one, 500, 4)
    assert not one.given_up()
    fail(one, 500, 1)
    assert one.given_up()
    assert one.admits(ANY, one.until)
    assert one.given_up(), "a bad answer to its probe is no news"
    few = outliers(10)
    assert not any(one.given_up() for one in left_with(few, 1, 100.0))


def test_where_too_few_are_left_the_ejected_serve_until_more_are_well() -> None:
    found = outliers(10, slow_start=0.0)
    ejected = left_with(found, 1, 100.0)
    assert found.panic
    assert all(one.admits(ANY, 101.0) for one in ejected)
    assert len(out(found)) == 5, "they are still ejected, and have their probes to pass"
    for at, one in enumerate(ejected, 2):
        now = one.until
        assert one.admits(ANY, now)
        assert one.admits(ANY, now) == found.panic
        one.answered(200, 0.001, now)
        assert found.panic == (at < 3)
    assert not found.unsteady


def test_a_bad_answer_in_panic_is_the_probes_and_ends_no_panic() -> None:
    found = outliers(10)
    one = left_with(found, 1, 100.0)[0]
    assert one.admits(ANY, one.until)
    fail(one, 500, 1, one.until)
    assert (one.state, one.times) == (EJECTED, 2)
    assert found.panic


def test_when_it_is_panic_is_the_settings_and_what_consul_allows_is_none() -> None:
    for threshold, said, panic in (
        (50, None, True),
        (17, None, True),
        (16, None, False),
        (0, None, False),
        (50, PassiveHealth(max_ejection_percent=90), False),
        (50, PassiveHealth(max_ejection_percent=50), True),
    ):
        found = outliers(10, replace(SETTINGS, panic_threshold=threshold), said)
        if said is not None and said.max_ejection_percent == 90:
            for one in found.standings:
                fail(one, 500, 5)
            assert (len(out(found)), found.panic) == (9, panic)
            continue
        ejected = left_with(found, 1, 100.0)
        assert found.panic == panic
        assert ejected[0].admits(ANY, 101.0) == panic


def test_what_others_found_can_be_cause_for_panic_too() -> None:
    found = outliers(4, replace(SETTINGS, max_ejection_percent=75))
    for at in range(3):
        assert not found.panic
        found.heard(f"node{at}/api", FAILED, 7.0, 100.0)
    assert found.panic
    found.heard("node1/api", "", 0.0, 101.0)
    assert not found.panic
