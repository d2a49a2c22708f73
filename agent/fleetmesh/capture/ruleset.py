"""nftables rules as values: what capture wants and what the kernel has, comparable and readable.

Only the vocabulary that capture needs. A rule that somebody else put into our table and that
this vocabulary cannot say is a `ForeignRule`. `text` renders what `nft -f` would accept.
"""

from __future__ import annotations

import difflib
import enum
import hashlib
from collections.abc import Iterator, Sequence

import msgspec

TABLE = "fleetmesh"


class Hook(enum.IntEnum):
    """Where a chain of family inet hangs (enum nf_inet_hooks)."""

    PREROUTING = 0
    INPUT = 1
    FORWARD = 2
    OUTPUT = 3
    POSTROUTING = 4


class Kind(enum.StrEnum):
    NAT = "nat"
    FILTER = "filter"
    ROUTE = "route"


class Tcp(msgspec.Struct, frozen=True, tag="tcp"):
    """The packet is TCP. Left out where another match says so already."""

    def __str__(self) -> str:
        return "meta l4proto tcp"


class Udp(msgspec.Struct, frozen=True, tag="udp"):
    """The packet is UDP, to this port."""

    port: int

    def __str__(self) -> str:
        return f"udp dport {self.port}"


class Opening(msgspec.Struct, frozen=True, tag="opening"):
    """The packet opens a TCP connection (SYN alone), or is TCP and does not (`negated`)."""

    negated: bool = False

    def __str__(self) -> str:
        return f"tcp flags & (fin | syn | rst | ack) {'!=' if self.negated else '=='} syn"


class Destination(msgspec.Struct, frozen=True, tag="destination"):
    """`network` is canonical text: `10.0.0.0/8`, `192.0.2.1/32`, `fd00::/8`."""

    network: str

    def __str__(self) -> str:
        address, _, length = self.network.partition("/")
        family, full = ("ip6", "128") if ":" in address else ("ip", "32")
        return f"{family} daddr {address if length == full else self.network}"


class Port(msgspec.Struct, frozen=True, tag="port"):
    """TCP destination port."""

    port: int

    def __str__(self) -> str:
        return f"tcp dport {self.port}"


class User(msgspec.Struct, frozen=True, tag="user"):
    """The uid that owns the local socket. Only meaningful on output."""

    uid: int

    def __str__(self) -> str:
        return f"meta skuid {self.uid}"


class Loopback(msgspec.Struct, frozen=True, tag="loopback"):
    """The packet came in over `lo`, whose index is 1 in every network namespace."""

    def __str__(self) -> str:
        return 'iif "lo"'


class LocalAddress(msgspec.Struct, frozen=True, tag="local_address"):
    """The destination is an address of this host, or is not (`negated`)."""

    negated: bool = False

    def __str__(self) -> str:
        return f"fib daddr type {'!= ' if self.negated else ''}local"


class Captured(msgspec.Struct, frozen=True, tag="captured"):
    """The connection's destination was translated (it came through a redirect), or not."""

    negated: bool = False

    def __str__(self) -> str:
        return f"ct status {'! ' if self.negated else ''}dnat"


Match = Tcp | Udp | Opening | Destination | Port | User | Loopback | LocalAddress | Captured


class Accept(msgspec.Struct, frozen=True, tag="accept"):
    """Leave the packet to the rest of the system."""

    def __str__(self) -> str:
        return "accept"


class Redirect(msgspec.Struct, frozen=True, tag="redirect"):
    """To this port of this host: of loopback on output, of the same interface on prerouting."""

    port: int

    def __str__(self) -> str:
        return f"redirect to :{self.port}"


class Reject(msgspec.Struct, frozen=True, tag="reject"):
    """Answer with a TCP reset."""

    def __str__(self) -> str:
        return "reject with tcp reset"


Action = Accept | Redirect | Reject


class Rule(msgspec.Struct, frozen=True, tag="rule"):
    """All `matches` hold → `action`. Every rule counts its packets; `comment` names the service
    or the reason, at most 127 bytes."""

    matches: tuple[Match, ...]
    action: Action
    comment: str = ""

    def text(self, packets: int | None = None) -> str:
        counter = "counter" if packets is None else f"counter packets {packets}"
        comment = f'comment "{self.comment}"' if self.comment else ""
        return " ".join(filter(None, (*map(str, self.matches), counter, str(self.action), comment)))


class ForeignRule(msgspec.Struct, frozen=True, tag="foreign"):
    """Somebody else's rule; `expressions` are the names of its nftables expressions."""

    expressions: tuple[str, ...]
    comment: str = ""

    def text(self, packets: int | None = None) -> str:
        return f"# foreign rule: {' '.join(self.expressions)} {self.comment}".rstrip()


class Chain(msgspec.Struct, frozen=True):
    """`hook` is None for a chain that is only jumped to; capture makes none of those."""

    name: str
    kind: Kind
    hook: Hook | None
    priority: int
    rules: tuple[Rule | ForeignRule, ...] = ()
    accepts: bool = True


class Ruleset(msgspec.Struct, frozen=True):
    """The chains of table `inet fleetmesh`, ordered by name. No chains: no table."""

    chains: tuple[Chain, ...] = ()

    def __len__(self) -> int:
        return sum(len(chain.rules) for chain in self.chains)


Packets = dict[str, tuple[int, ...]]
"""Chain name → packets that each of its rules matched, in the rules' order."""

_encoder = msgspec.msgpack.Encoder()


def digest(ruleset: Ruleset) -> str:
    """The same for equal rule sets, whoever computed it."""
    return hashlib.sha256(_encoder.encode(ruleset)).hexdigest()[:16]


def text(ruleset: Ruleset, packets: Packets | None = None) -> str:
    """The rule set in nft's language; the empty string when there is no table."""
    return "".join(f"{line}\n" for line in _lines(ruleset, packets or {}))


def difference(wanted: Ruleset, kernel: Ruleset) -> tuple[str, ...]:
    """What must change in the kernel, as lines of a unified diff; empty when nothing must."""
    if wanted == kernel:
        return ()
    return tuple(
        difflib.unified_diff(
            text(kernel).splitlines(), text(wanted).splitlines(), "kernel", "wanted", lineterm=""
        )
    )


def _lines(ruleset: Ruleset, packets: Packets) -> Iterator[str]:
    if not ruleset.chains:
        return
    yield f"table inet {TABLE} {{"
    for chain in ruleset.chains:
        yield f"\tchain {chain.name} {{"
        if chain.hook is not None:
            policy = "accept" if chain.accepts else "drop"
            yield (
                f"\t\ttype {chain.kind} hook {chain.hook.name.lower()}"
                f" priority {chain.priority}; policy {policy};"
            )
        counts: Sequence[int | None] = packets.get(chain.name, ())
        if len(counts) != len(chain.rules):
            counts = [None] * len(chain.rules)
        for rule, count in zip(chain.rules, counts, strict=True):
            yield f"\t\t{rule.text(count)}"
        yield "\t}"
    yield "}"
