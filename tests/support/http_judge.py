"""Whether what went through the mesh is what was sent: the verdict on one connection."""

from __future__ import annotations

from dataclasses import replace

from tests.support.http_meaning import (
    Meaning,
    received_answer,
    received_request,
    sent_answer,
    sent_request,
)
from tests.support.http_reader import End, Message, Reading, read_answers, read_requests
from tests.support.http_wires import DEFAULT_HOST, Answer, Wires

REASON = b"x-fleetmesh-reason"


class DivergenceError(Exception):
    """The mesh passed on something else than it was given."""


def forwarded(wires: Wires) -> list[Message]:
    """What the endpoint read, in order; the last may lack its end."""
    messages: list[Message] = []
    for number, wire in enumerate(wires.used):
        most = 1 if wire.tunnel else 1 << 30
        reading = read_requests(bytes(wire.sent), most=most, empty_lines=False)
        last = number == len(wires.used) - 1
        if reading.end is not End.CLEAN and not (last and reading.end is End.PARTIAL_BODY):
            raise DivergenceError(
                f"the endpoint reads {reading.end}: {reading.why}\n{bytes(wire.sent)!r}"
            )
        messages += reading.messages
    return messages


def judge(wires: Wires, raw: bytes) -> int:
    """Compare what the client sent (`raw`) with what the endpoint read, and back. Returns how many
    messages went through. Raises DivergenceError."""
    arrived = forwarded(wires)
    tunnel = any(wire.tunnel for wire in wires.used) and b"\r\n\r\n" in wires.client.sent
    most = len(arrived) if tunnel else 1 << 30
    sent = read_requests(raw, most=most)
    if len(arrived) > len(sent.messages):
        raise DivergenceError(
            f"{len(arrived)} requests arrived of {len(sent.messages)} ({sent.why})"
        )
    for ours, theirs in zip(sent.messages, arrived, strict=False):
        _same(sent_request(ours, DEFAULT_HOST), received_request(theirs), theirs.whole)
        if theirs.whole and not ours.whole:
            raise DivergenceError(f"a whole request arrived of one that is not: {ours}")
    _judge_answers(wires, sent, arrived)
    if tunnel:
        _judge_tunnel(wires, sent.rest)
    return len(arrived)


def _judge_answers(wires: Wires, sent: Reading, arrived: list[Message]) -> None:
    client = wires.client
    ended = (client.ended or client.closed) and not client.aborted
    methods = [one.line[0] for one in sent.messages[: len(arrived)]]
    raw = bytes(client.sent)
    got = read_answers(raw, [*methods, b"GET"], ended=ended)
    if got.end is End.PARTIAL_BODY and _made_here(got.messages[-1]) and ended:
        # A request that was refused may have been one of HEAD.
        got = read_answers(raw, [*methods, b"HEAD"], ended=ended)
    if got.end not in (End.CLEAN, End.TUNNEL) and not (
        got.end is End.PARTIAL_BODY and (client.aborted or not ended)
    ):
        raise DivergenceError(
            f"the client reads {got.end}: {got.why}\n{bytes(client.sent)!r}\n{sent}"
        )
    if got.rest and got.end is not End.TUNNEL:
        raise DivergenceError(f"the client reads too much: {got.rest!r}")
    answers = list(got.messages)
    for request, answer in zip(sent.messages[: len(arrived)], wires.answers, strict=False):
        if not _judge_answer(request, answer, answers):
            return
    for theirs in answers:
        if not _made_here(theirs):
            raise DivergenceError(f"an answer that nobody gave: {theirs}")


def _judge_answer(request: Message, answer: Answer, answers: list[Message]) -> bool:
    """Take what the client got for `request` from the front of `answers`; False when what the
    endpoint said next on that connection is nobody's answer."""
    given = read_answers(answer.raw, [request.line[0]], ended=answer.closes, empty_lines=True)
    final = _final(given)
    owed = answer.legal and final is not None and final.whole and request.whole
    for ours in given.messages:
        if ours is not final and not request.minor:
            continue  # RFC 9110 section 15.2: HTTP/1.0 knows no interim answers
        theirs = answers.pop(0) if answers else None
        if theirs is None or (_made_here(theirs) and not _made_here(ours)):
            if owed:
                raise DivergenceError(f"{theirs} although the answer was {ours}")
            return True
        _same(sent_answer(ours, request), received_answer(theirs), theirs.whole)
        if theirs.whole and not ours.whole:
            raise DivergenceError(f"a whole answer of one that is not: {ours}")
    if final is None and answers and not _made_here(theirs := answers.pop(0)):
        raise DivergenceError(f"{theirs} made of {answer.raw!r}")
    return not given.rest


def _made_here(message: Message) -> bool:
    return bool(message.values(REASON))


def _final(reading: Reading) -> Message | None:
    finals = [one for one in reading.messages if one.line[0][:1] != b"1"]
    return finals[0] if finals else None


def _same(ours: Meaning, theirs: Meaning, whole: bool) -> None:
    """An arrived message that is not `whole` may lack the end of its content."""
    if not whole:
        if not ours.body.startswith(theirs.body):
            raise DivergenceError(f"another body:\n{ours.body!r}\n{theirs.body!r}")
        ours = replace(ours, body=b"", trailers=())
        theirs = replace(theirs, body=b"", trailers=())
    if ours != theirs:
        raise DivergenceError(f"sent:    {ours}\narrived: {theirs}")


def _judge_tunnel(wires: Wires, rest: bytes) -> None:
    wire = next(wire for wire in wires.used if wire.tunnel)
    beyond = read_requests(bytes(wire.sent), most=1, empty_lines=False).rest
    if not rest.startswith(beyond):
        raise DivergenceError(f"the tunnel carried {beyond!r} of {rest!r}")
