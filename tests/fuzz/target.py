"""One execution: bytes from a client, bytes from an endpoint, and the verdict.

The input is a control part of four bytes (where the streams are cut, what plays against them) and
the stream that is under test: from the client when the first byte is even, else from the endpoint.
"""

from __future__ import annotations

from random import Random

from tests.support.http_grammar import answer, cut, mutate, request
from tests.support.http_judge import judge
from tests.support.http_wires import Answer, Wires

from fleetmesh.settings import HttpSettings

# Small limits are reached by small inputs.
LIMITS = HttpSettings(max_head_bytes=600, max_headers=12, max_target_bytes=80)
CONTROL = 4


def run(data: bytes) -> int:
    """Returns how many messages went through. Raises Divergence, or what the path raised."""
    control, stream = data[:CONTROL], data[CONTROL:]
    chance = Random(control)
    if not control[:1] or control[0] % 2 == 0:
        script = [
            Answer(
                *cut(chance, answer(chance, b"GET", last=False).raw), early=chance.randrange(4) == 0
            )
            for _ in range(3)
        ]
        sent = stream
    else:
        script = [
            Answer(
                *cut(chance, stream),
                closes=chance.randrange(2) == 0,
                early=chance.randrange(4) == 0,
                legal=False,
            )
        ]
        sent = b"".join(
            request(chance, last=last).raw for last in (False, True)[chance.randrange(2) :]
        )
    wires = Wires(script, LIMITS if chance.randrange(2) else None)
    wires.send(*cut(chance, sent), ends=chance.randrange(4) == 0)
    through = judge(wires, sent)
    wires.close()
    return through


def seed(chance: Random) -> bytes:
    """An input to begin with: legal messages, or what accidents made of them."""
    control = bytes(chance.randrange(256) for _ in range(CONTROL))
    if control[0] % 2 == 0:
        count = chance.choice((1, 1, 2, 3))
        stream = b"".join(request(chance, last=n == count - 1).raw for n in range(count))
    else:
        stream = answer(chance, b"GET").raw
    if chance.randrange(5):
        stream = mutate(chance, stream)
    return control + stream
