"""Rules as people read them, and what differs."""

from __future__ import annotations

import msgspec

from fleetmesh.capture.ruleset import (
    Accept,
    Chain,
    ForeignRule,
    Hook,
    Kind,
    Port,
    Redirect,
    Rule,
    Ruleset,
    Tcp,
    User,
    difference,
    digest,
    text,
)
from fleetmesh.capture.view import view
from fleetmesh.model.status import CaptureStatus

SSH = Rule((Port(22),), Accept(), "SSH")
WEB = Rule((Tcp(), User(4001)), Redirect(15100), "web")


def output(*rules: Rule | ForeignRule) -> Ruleset:
    return Ruleset((Chain("output", Kind.NAT, Hook.OUTPUT, -100, rules),))


def test_text_is_nfts_language() -> None:
    assert text(output(SSH, WEB)) == (
        "table inet fleetmesh {\n"
        "\tchain output {\n"
        "\t\ttype nat hook output priority -100; policy accept;\n"
        '\t\ttcp dport 22 counter accept comment "SSH"\n'
        '\t\tmeta l4proto tcp meta skuid 4001 counter redirect to :15100 comment "web"\n'
        "\t}\n"
        "}\n"
    )


def test_text_with_counts() -> None:
    shown = text(output(SSH, WEB), {"output": (0, 17)})
    assert "tcp dport 22 counter packets 0 accept" in shown
    assert "meta skuid 4001 counter packets 17 redirect to :15100" in shown


def test_chains_and_rules_of_others_are_shown() -> None:
    mine = Chain("mine", Kind.FILTER, None, 0, (ForeignRule(("meta", "cmp", "limit"), "whose"),))
    drops = Chain("out", Kind.FILTER, Hook.OUTPUT, 5, accepts=False)
    shown = text(Ruleset((mine, drops)))
    assert "\tchain mine {\n\t\t# foreign rule: meta cmp limit whose\n\t}\n" in shown
    assert "type filter hook output priority 5; policy drop;" in shown


def test_no_chains_are_no_table() -> None:
    assert text(Ruleset()) == ""
    assert len(Ruleset()) == 0


def test_difference_says_what_to_change_in_the_kernel() -> None:
    assert difference(output(SSH, WEB), output(SSH, WEB)) == ()
    changed = difference(wanted=output(SSH, WEB), kernel=output(SSH))
    assert [line for line in changed if line.startswith("+\t")] == [
        '+\t\tmeta l4proto tcp meta skuid 4001 counter redirect to :15100 comment "web"'
    ]
    assert not [line for line in changed if line.startswith("-\t")]
    assert difference(wanted=Ruleset(), kernel=output(SSH))[2:] == (
        "@@ -1,6 +0,0 @@",
        *(f"-{line}" for line in text(output(SSH)).splitlines()),
    )


def test_order_of_rules_is_a_difference() -> None:
    assert difference(output(SSH, WEB), output(WEB, SSH))


def test_equal_rule_sets_have_one_digest() -> None:
    assert digest(output(SSH, WEB)) == digest(output(SSH, WEB))
    assert digest(output(SSH, WEB)) != digest(output(WEB, SSH))


def test_rule_sets_and_views_survive_json() -> None:
    rules = output(SSH, WEB, ForeignRule(("quota",)))
    assert msgspec.json.decode(msgspec.json.encode(rules), type=Ruleset) == rules
    seen = view(CaptureStatus("applied", rules=2), output(SSH, WEB), rules, {"output": (1, 2, 3)})
    assert msgspec.json.decode(msgspec.json.encode(seen), type=type(seen)) == seen
    assert "packets 2" in seen.counted
    assert "packets" not in seen.kernel
    assert [line for line in seen.difference if line.startswith("-\t")] == [
        "-\t\t# foreign rule: quota"
    ]
