"""Dialling: a TCP connection along a lane, and TLS on it where the lane leads to a peer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, Generic, TypeVar

import msgspec

from fleetmesh.core.lane import Lane
from fleetmesh.model.refusal import Refusal
from fleetmesh.proxy.conduit import Receiver
from fleetmesh.proxy.crowd import OUT_OF_FILES, release_idle
from fleetmesh.proxy.keepalive import keep_alive_dialled
from fleetmesh.proxy.plane import Plane
from fleetmesh.proxy.site import Site
from fleetmesh.proxy.stream import TlsStream

MAX_ATTEMPTS = 3
_OWN = frozenset({Refusal.NO_IDENTITY, Refusal.TOO_MANY_CONNECTIONS})  # no endpoint's fault
SESSION_PAUSE = 60.0
"""Seconds until a lane takes another TLS session to resume."""

P = TypeVar("P", bound=Receiver)


class Failure(msgspec.Struct, frozen=True):
    """`refusal` is None when the address could not be reached, whatever that means to the
    caller. `dropped`: something accepted the connection and ended it before it was of use."""

    refusal: Refusal | None
    detail: str
    dropped: bool = False


class _Ready:
    """Sets a protocol on a stream whose handshake is done and whose peer is who it must be."""

    __slots__ = ("_done", "_expected", "_protocol")

    def __init__(self, protocol: Receiver, expected: str, done: asyncio.Future[None]) -> None:
        self._protocol = protocol
        self._expected = expected
        self._done = done

    def __call__(self, stream: TlsStream, error: Exception | None) -> None:
        if self._done.done():  # the time was up
            stream.abort()
        elif error is not None:
            self._done.set_exception(error)
        elif (uri := peer_uri(stream)) != self._expected:
            stream.abort()
            self._done.set_exception(
                WrongPeerError(f"expected {self._expected}, got {uri or 'no identity'}")
            )
        else:
            stream.set_protocol(self._protocol)
            self._protocol.connection_made(stream)
            self._done.set_result(None)


class WrongPeerError(Exception):
    """The endpoint's certificate is of this mesh, but another service's."""


def peer_uri(stream: TlsStream) -> str:
    """The URI that the peer's certificate names; empty unless there is exactly one."""
    certificate = stream.tls.getpeercert() or {}
    names: Any = certificate.get("subjectAltName", ())
    uris = [value for kind, value in names if kind == "URI"]
    return uris[0] if len(uris) == 1 else ""


async def dial(
    plane: Plane,
    site: Site,
    lane: Lane,
    make: Callable[[Lane], P],
    *,
    streams: bool = False,
    tried: Collection[str] = (),
    spare: Callable[[P], None] | None = None,
) -> tuple[Lane, P] | tuple[Lane, Failure]:
    """Connect what `make` makes along `lane`, or along another where that fails, three times at
    most; the failure's `refusal` is settled. With `streams` peers that
    know of it are offered to carry several. None goes where the request was `tried` before.

    An endpoint that failed is dialled again only if it accepted the connection before it
    dropped it, as a restarting agent does, and there is no other. One that is silent for
    `plane.unreachable_after` is joined by the next: the first connection counts, and another that
    comes after all is `spare`. Where no file can be opened, connections that wait for a next
    request are given up, once.
    """
    dials = _Dials(plane, site, make, streams, [*tried, lane.endpoint_id])
    released = False
    while True:
        patience = plane.unreachable_after
        if lane.expected and lane.standing is not None and 0.0 < patience < lane.connect_timeout:
            lane, protocol, failure = await dials.dial_race(lane, patience, spare)
        else:
            protocol = make(lane)
            failure = await _open(plane, lane, protocol, streams)
        if failure is None:
            return lane, protocol
        if failure.refusal is Refusal.TOO_MANY_CONNECTIONS:
            # No endpoint is to blame, and none would be reached.
            if released or not release_idle(plane):
                return lane, failure
            released = True
            await asyncio.sleep(0)
            continue
        _tell(plane, lane, failure)
        onwards = dials.onwards(failure.dropped)
        if onwards is None:
            return lane, Failure(failure.refusal or site.failure, failure.detail)
        lane = onwards


def _tell(plane: Plane, lane: Lane, failure: Failure) -> None:
    if lane.standing is not None and failure.refusal not in _OWN:
        lane.standing.unanswered(plane.now)


class _Dials(Generic[P]):
    """The dials for one connection. `tried` are the endpoints that had their chance, the last
    `MAX_ATTEMPTS` at most of them in these."""

    __slots__ = ("_left", "_make", "_plane", "_site", "_streams", "_tried")

    def __init__(
        self,
        plane: Plane,
        site: Site,
        make: Callable[[Lane], P],
        streams: bool,
        tried: list[str],
    ) -> None:
        self._plane = plane
        self._site = site
        self._make = make
        self._streams = streams
        self._tried = tried
        self._left = MAX_ATTEMPTS - 1

    def onwards(self, dropped: bool) -> Lane | None:
        """Where to dial next; `dropped`: the last endpoint may be dialled again."""
        if self._left <= 0:
            return None
        lane = self._site.lane(self._tried)
        if not isinstance(lane, Lane):
            return None
        if lane.endpoint_id in self._tried and not dropped:
            return None
        self._left -= 1
        self._tried.append(lane.endpoint_id)
        return lane

    async def dial_race(
        self, lane: Lane, patience: float, spare: Callable[[P], None] | None
    ) -> tuple[Lane, P, Failure | None]:
        """The first connection of those that are begun, each as long after the last as its
        `patience` lasts; without one, the last failure."""
        running: dict[asyncio.Task[Failure | None], tuple[int, Lane, P]] = {}
        latest: Lane | None = lane
        begun = 0
        while True:
            if latest is not None:
                protocol = self._make(latest)
                dialling = self._open(latest, protocol, counted=latest is not lane)
                running[self._plane.loop.create_task(dialling)] = (begun, latest, protocol)
                begun += 1
            waits = patience if latest is not None and self._left > 0 else None
            done, _ = await asyncio.wait(
                running, timeout=waits, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                latest = self.onwards(dropped=False)
                continue
            ended = done.pop()
            number, place, connected = running.pop(ended)
            failure = ended.result()
            if failure is not None and running:
                _tell(self._plane, place, failure)
                latest = self.onwards(dropped=False)
                continue
            for task, (before, slow, late) in running.items():
                if before < number and slow.standing is not None:
                    # Another was quicker, which says as much of it as a failure would.
                    slow.standing.unanswered(self._plane.now)
                if spare is None:
                    task.cancel()
                else:
                    self._plane.spawn(_dial_late(task, late, spare))
            return place, connected, failure

    async def _open(self, lane: Lane, protocol: P, counted: bool) -> Failure | None:
        """The first of them its caller counts."""
        if not counted:
            return await _open(self._plane, lane, protocol, self._streams)
        lane.pool.opening += 1
        try:
            return await _open(self._plane, lane, protocol, self._streams)
        finally:
            lane.pool.dialled()


async def _dial_late(
    dialling: asyncio.Task[Failure | None], protocol: P, spare: Callable[[P], None]
) -> None:
    if await dialling is None:
        spare(protocol)


async def _open(plane: Plane, lane: Lane, protocol: Receiver, streams: bool) -> Failure | None:
    """None when `protocol` has its transport."""
    try:
        async with asyncio.timeout(lane.connect_timeout):
            if not lane.expected:
                transport, _ = await plane.loop.create_connection(
                    _made(protocol), lane.address, lane.port
                )
                keep_alive_dialled(transport, plane.tcp.keepalive)
                return None
            return await _open_tls(plane, lane, protocol, streams)
    except TimeoutError:
        return Failure(None, f"no connection within {lane.connect_timeout:g} s")
    except WrongPeerError as wrong:  # compiled, a name has one type in a function
        return Failure(Refusal.WRONG_PEER, str(wrong))
    except (OSError, ValueError) as error:  # ssl.SSLError is the one, a bad SNI the other
        if isinstance(error, OSError) and error.errno in OUT_OF_FILES:
            return Failure(Refusal.TOO_MANY_CONNECTIONS, "no file descriptor is left")
        return Failure(None, str(error), dropped=not isinstance(error, ConnectionRefusedError))


async def _open_tls(plane: Plane, lane: Lane, protocol: Receiver, streams: bool) -> Failure | None:
    identity = plane.identities.get(lane.source)
    if identity is None:
        return Failure(Refusal.NO_IDENTITY, "")
    context = identity.streams if streams and lane.shares else identity.client
    session = lane.session if lane.session is not None and lane.session[0] is context else None
    keeper: Lane | None = lane
    if session is not None:
        # Python 3.11 loses 6 KB each time that it is asked for a session, and a callee of several
        # workers, with a ticket key each, takes only some: so another once a minute at most.
        if plane.now >= lane.session_after:
            lane.session_after = plane.now + SESSION_PAUSE
        else:
            keeper = None
    ready: asyncio.Future[None] = plane.loop.create_future()
    on_ready: Callable[[TlsStream, Exception | None], None] = _Ready(protocol, lane.expected, ready)
    stream = TlsStream(
        context,
        on_ready,
        server_side=False,
        server_hostname=lane.sni or None,
        session=session[1] if session is not None else None,
        keeper=keeper,
    )
    try:
        transport, _ = await plane.loop.create_connection(_made(stream), lane.address, lane.port)
        keep_alive_dialled(transport, plane.tcp.keepalive)
        await ready
    except BaseException:
        if stream.transport is not None:
            stream.transport.abort()
        raise
    return None


def _made(receiver: Any) -> Callable[[], Any]:
    """A factory of what is there already, as asyncio wants one."""
    return lambda: receiver
