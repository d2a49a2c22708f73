"""What goes through the mesh is what was sent, whatever it is and however the stream is cut.

`HYPOTHESIS_PROFILE=deep` looks at a hundred times as many examples, new ones each time.
"""

from __future__ import annotations

import os
from random import Random

import h11
import pytest
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st
from tests.support.http_grammar import answer, cut, mutate, request
from tests.support.http_judge import DivergenceError, judge
from tests.support.http_known import KNOWN, REFUSED, Known, Refused, known, refused
from tests.support.http_reader import End, Message, read_answers, read_requests
from tests.support.http_wires import Answer, Wires

settings.register_profile(
    "ci", max_examples=150, derandomize=True, database=None, deadline=None, print_blob=True
)
settings.register_profile("deep", max_examples=15_000, deadline=None, print_blob=True)
PROFILE = settings(
    settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci")),
    suppress_health_check=list(HealthCheck),  # what is slow or rare here is so on purpose
)

chances = st.randoms(use_true_random=False)


def through(wires: Wires, raw: bytes) -> int:
    """The verdict; an example that meets what is known already says nothing."""
    try:
        return judge(wires, raw)
    except DivergenceError as divergence:
        if known(str(divergence)) is None:
            raise
        return reject()


@PROFILE
@given(chances)
def test_legal_requests_arrive_as_they_were_meant(chance: Random) -> None:
    """Pipelined or alone, every request reaches the endpoint with the method, target, fields in
    order and body that its writer meant, and with nothing more."""
    count = chance.choice((1, 1, 2, 3))
    written = [request(chance, last=number == count - 1) for number in range(count)]
    raw = b"".join(one.raw for one in written)
    assert list(read_requests(raw).messages) == [one.message for one in written]
    assume(not refused(raw))
    wires = Wires([])
    wires.send(*cut(chance, raw))
    assert through(wires, raw) == count
    witnessed(wires)
    methods = [one.message.line[0] for one in written]
    answers = read_answers(bytes(wires.client.sent), methods, ended=wires.client.ended)
    assert [one.line[0] for one in answers.messages] == [b"200"] * count
    assert wires.client.ended is written[-1].closes
    wires.close()


def witnessed(wires: Wires) -> None:
    """Another parser reads what the endpoint got as our reader does."""
    for wire in wires.used:
        witness = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        witness.receive_data(bytes(wire.sent))
        for message in read_requests(bytes(wire.sent)).messages:
            head = witness.next_event()
            assert isinstance(head, h11.Request)
            assert (head.method, head.target) == message.line
            assert list(head.headers) == [(name.lower(), value) for name, value in message.fields]
            body = b""
            while isinstance(event := witness.next_event(), h11.Data):
                body += event.data
            assert body == message.body
            assert isinstance(event, h11.EndOfMessage)
            witness.send(h11.Response(status_code=204, headers=[]))
            witness.send(h11.EndOfMessage())
            witness.start_next_cycle()


@PROFILE
@given(chances)
def test_legal_answers_arrive_as_they_were_meant(chance: Random) -> None:
    """Interim answers, status, reason, fields in order, body and, where the client asked for them,
    trailers; in the order of the requests, even when an answer does not wait for its request."""
    count = chance.choice((1, 1, 2, 3))
    asked = [request(chance, last=number == count - 1) for number in range(count)]
    given_answers = []
    for number, one in enumerate(asked):
        last = number == count - 1
        method = one.message.line[0]
        reply = answer(chance, method, last=last)
        finals = read_answers(reply.raw, [method], ended=reply.closes).messages
        assert finals[-1] == reply.message
        early = last and chance.randrange(4) == 0
        given_answers.append(Answer(*cut(chance, reply.raw), closes=reply.closes, early=early))
    raw = b"".join(one.raw for one in asked)
    assume(not refused(raw + b"".join(one.raw for one in given_answers)))
    wires = Wires(given_answers)
    wires.send(*cut(chance, raw))
    assert through(wires, raw) == count
    finals = _finals(wires, [one.message.line[0] for one in asked])
    assert len(finals) == count
    assert all(one.whole for one in finals)
    wires.close()


def _finals(wires: Wires, methods: list[bytes]) -> list[Message]:
    answers = read_answers(bytes(wires.client.sent), methods, ended=wires.client.ended)
    assert answers.end is End.CLEAN
    return [one for one in answers.messages if one.line[0][:1] != b"1"]


@PROFILE
@given(chances)
def test_a_changed_protocol_carries_bytes_both_ways(chance: Random) -> None:
    """After 101, whatever follows on either side arrives on the other, however it was cut."""
    there, back = (bytes(chance.choices(b"\x00\r\nGET", k=chance.randrange(20))) for _ in "ab")
    head = b"GET /ws HTTP/1.1\r\nHost: api\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    grant = b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    wires = Wires([Answer(*cut(chance, grant + back))])
    wires.send(*cut(chance, head + there))
    assert bytes(wires.client.sent).endswith(b"Upgrade: websocket\r\n\r\n" + back)
    assert bytes(wires.used[0].sent).endswith(b"Upgrade: websocket\r\n\r\n" + there)
    wires.close()


@PROFILE
@given(chances)
def test_mutated_requests_are_refused_or_relayed_as_what_they_are(chance: Random) -> None:
    """Nothing reaches the endpoint that a strict reader would read otherwise than it would read
    the client's own bytes."""
    count = chance.choice((1, 2))
    raw = b"".join(request(chance, last=number == count - 1).raw for number in range(count))
    raw = mutate(chance, raw)
    wires = Wires([])
    wires.send(*cut(chance, raw), ends=chance.randrange(4) == 0)
    through(wires, raw)
    wires.close()


@PROFILE
@given(chances)
def test_mutated_answers_are_refused_or_relayed_as_what_they_are(chance: Random) -> None:
    """Nothing reaches the client that a strict reader would read otherwise than it would read the
    endpoint's own bytes; an answer that was cut off never looks whole."""
    asked = request(chance)
    reply = answer(chance, asked.message.line[0])
    raw = mutate(chance, reply.raw)
    wires = Wires([Answer(*cut(chance, raw), closes=chance.randrange(2) == 0, legal=False)])
    wires.send(*cut(chance, asked.raw))
    through(wires, asked.raw)
    wires.close()


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            row, marks=pytest.mark.xfail(strict=True, raises=AssertionError, reason=row.title)
        )
        for row in KNOWN
    ],
    ids=lambda row: row.title.replace(" ", "-"),
)
def test_known_leniency_is_still_there(row: Known) -> None:
    """Passes, and so fails as unexpected, as soon as the mesh is strict: the row has to go."""
    wires = Wires([Answer(row.answer, legal=False)])
    wires.send(row.client)
    verdict = None
    try:
        judge(wires, row.client)
    except DivergenceError as divergence:
        verdict = known(str(divergence)) or divergence
    assert verdict is not row


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            row, marks=pytest.mark.xfail(strict=True, raises=AssertionError, reason=row.title)
        )
        for row in REFUSED
    ],
    ids=lambda row: row.title.replace(" ", "-"),
)
def test_a_legal_request_is_still_refused(row: Refused) -> None:
    """Passes, and so fails as unexpected, as soon as the mesh takes it: the row has to go."""
    assert refused(row.client)
    wires = Wires([])
    wires.send(row.client)
    assert judge(wires, row.client) == 1
