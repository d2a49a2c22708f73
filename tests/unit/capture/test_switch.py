"""Who wins when rules are wanted, confirmed, expired, removed."""

from __future__ import annotations

import msgspec

from fleetmesh.capture import switch
from fleetmesh.capture.redirect import Inputs, Service
from fleetmesh.capture.switch import NOTHING, Held, Pending, Switch

WEB = Service("web", 8080, 4001, 15100)
CART = Service("cart", 7001, 4002, 15101)
ONE = Inputs((WEB,))
BOTH = Inputs((WEB, CART))
OTHER = Inputs((WEB,), exclude_ports=(5432,))


def test_rules_new_to_the_host_are_armed() -> None:
    after, in_force = switch.want(Switch(), ONE, now=100, patience=60)
    assert (after, in_force) == (Switch(pending=Pending(ONE, 160)), ONE)


def test_wanting_the_same_again_does_not_move_the_deadline() -> None:
    armed, _ = switch.want(Switch(), ONE, now=100, patience=60)
    assert switch.want(armed, ONE, now=150, patience=60) == (armed, ONE)


def test_other_rules_begin_another_deadline() -> None:
    armed, _ = switch.want(Switch(), ONE, now=100, patience=60)
    after, in_force = switch.want(armed, OTHER, now=150, patience=60)
    assert (after.pending, in_force) == (Pending(OTHER, 210), OTHER)


def test_confirmed_rules_need_nobody() -> None:
    armed, _ = switch.want(Switch(), ONE, now=100, patience=60)
    confirmed = switch.confirm(armed)
    assert confirmed == Switch(confirmed=ONE)
    assert switch.want(confirmed, ONE, now=1e9, patience=60) == (confirmed, ONE)


def test_what_changes_no_rule_needs_nobody() -> None:
    """`on_stop` decides only what stays without an agent; it is remembered all the same."""
    closed = Inputs((msgspec.structs.replace(WEB, stays_closed=True),))
    assert switch.want(Switch(confirmed=ONE), closed, 0, 60) == (Switch(confirmed=closed), closed)


def test_fewer_services_need_nobody_and_neither_does_their_return() -> None:
    """Services come one by one while their certificates are signed after a restart."""
    before = Switch(confirmed=BOTH)
    assert switch.want(before, ONE, now=0, patience=60) == (before, ONE)
    assert switch.want(before, BOTH, now=0, patience=60) == (before, BOTH)


def test_a_service_more_or_another_exclusion_is_armed() -> None:
    for wanted in (BOTH, OTHER):
        after, in_force = switch.want(Switch(confirmed=ONE), wanted, now=0, patience=60)
        assert after == Switch(confirmed=ONE, pending=Pending(wanted, 60))
        assert in_force == wanted


def test_confirm_without_anything_pending_changes_nothing() -> None:
    for state in (Switch(), Switch(confirmed=ONE), switch.remove()):
        assert switch.confirm(state) == state


def test_the_deadline_itself_is_too_late() -> None:
    armed = Switch(pending=Pending(ONE, 160))
    assert not switch.expired(armed, 159.9)
    assert switch.expired(armed, 160)
    assert not switch.expired(Switch(confirmed=ONE), 1e9)


def test_undone_rules_give_way_to_those_confirmed_before() -> None:
    armed = Switch(confirmed=ONE, pending=Pending(BOTH, 60))
    after, in_force = switch.undo(armed, BOTH)
    assert in_force == ONE
    assert after == Switch(confirmed=ONE, held=Held.UNDONE, undone=BOTH)


def test_undone_rules_give_way_to_none_when_nothing_was_confirmed() -> None:
    assert switch.undo(Switch(pending=Pending(ONE, 60)), ONE)[1] == NOTHING


def test_what_comes_back_is_only_what_is_still_served() -> None:
    """A service that is gone, or listens elsewhere now, would be sent to a closed socket."""
    moved = Inputs((msgspec.structs.replace(WEB, outbound_port=15111),), exclude_ports=(53,))
    armed = Switch(confirmed=BOTH, pending=Pending(moved, 60))
    assert switch.undo(armed, moved)[1].services == ()
    kept = Inputs((CART,), exclude_ports=(53,))
    armed = Switch(confirmed=BOTH, pending=Pending(kept, 60))
    assert switch.undo(armed, kept)[1] == Inputs((CART,))


def test_undone_rules_are_tried_again_only_when_they_change_or_somebody_asks() -> None:
    undone, _ = switch.undo(Switch(confirmed=ONE, pending=Pending(BOTH, 60)), BOTH)
    assert switch.want(undone, BOTH, now=70, patience=60) == (undone, ONE)
    assert switch.want(undone, OTHER, now=70, patience=60)[0].pending == Pending(OTHER, 130)
    assert switch.insist(undone, BOTH, now=70, patience=5)[0].pending == Pending(BOTH, 75)
    assert switch.want(undone, ONE, now=70, patience=60) == (Switch(confirmed=ONE), ONE)


def test_removed_rules_stay_away_until_somebody_asks_and_must_be_confirmed_again() -> None:
    removed = switch.remove()
    for wanted in (ONE, BOTH, NOTHING):
        assert switch.want(removed, wanted, now=0, patience=60) == (removed, NOTHING)
    assert switch.insist(removed, ONE, now=0, patience=60) == (
        Switch(pending=Pending(ONE, 60)),
        ONE,
    )


def test_asking_without_patience_confirms() -> None:
    assert switch.insist(Switch(), ONE, now=0, patience=0) == (Switch(confirmed=ONE), ONE)
    assert switch.insist(Switch(), NOTHING, now=0, patience=0) == (Switch(), NOTHING)


def test_asking_for_what_is_pending_begins_a_new_deadline() -> None:
    armed = Switch(pending=Pending(ONE, 60))
    assert switch.insist(armed, ONE, now=10, patience=5)[0].pending == Pending(ONE, 15)


def test_without_services_there_is_nothing_to_confirm() -> None:
    armed = Switch(confirmed=ONE, pending=Pending(BOTH, 60))
    assert switch.want(armed, NOTHING, now=0, patience=60) == (Switch(confirmed=ONE), NOTHING)
    assert switch.want(Switch(), NOTHING, now=0, patience=60) == (Switch(), NOTHING)


def test_unconfirmed_rules_do_not_outlive_the_agent() -> None:
    assert switch.settled(Switch(confirmed=ONE), ONE) == ONE
    assert switch.settled(Switch(confirmed=ONE, pending=Pending(BOTH, 60)), BOTH) == ONE
    assert switch.settled(Switch(pending=Pending(BOTH, 60)), BOTH) == NOTHING


def test_a_confirmation_asked_for_anew_makes_the_earlier_one_void() -> None:
    """Somebody who doubts rules in force gets them undone to nothing, not to themselves."""
    confirmed = Switch(confirmed=ONE)
    armed, in_force = switch.insist(confirmed, ONE, now=10, patience=5, anew=True)
    assert (armed, in_force) == (Switch(pending=Pending(ONE, 15)), ONE)
    assert switch.undo(armed, ONE)[1] == NOTHING
    kept, _ = switch.insist(confirmed, BOTH, now=10, patience=5, anew=True)
    assert kept == Switch(confirmed=ONE, pending=Pending(BOTH, 15))


def test_capture_of_dns_is_armed_and_undone_where_it_is_new() -> None:
    """An agent that begins to answer DNS must not take it over unconfirmed; one that cannot
    answer lets it go."""
    named = msgspec.structs.replace(ONE, dns_port=15053)
    armed, in_force = switch.want(Switch(confirmed=ONE), named, now=0, patience=60)
    assert (armed, in_force) == (Switch(confirmed=ONE, pending=Pending(named, 60)), named)
    assert switch.undo(armed, named)[1] == ONE
    confirmed = Switch(confirmed=named)
    assert switch.want(confirmed, ONE, now=0, patience=60) == (confirmed, ONE)
    assert switch.want(confirmed, named, now=0, patience=60) == (confirmed, named)
