"""Why the mesh ends a request or a connection: a closed list."""

from __future__ import annotations

import enum


class Refusal(enum.Enum):
    """(code, HTTP status, sentence for the caller). The code is the log's, the metrics' and the
    header `x-fleetmesh-reason`'s. Statuses of upstream failures follow Envoy's;
    that of a fault is the one that was asked for."""

    MALFORMED = ("malformed", 400, "the request is not valid HTTP")
    CONNECT_METHOD = ("connect_method", 405, "CONNECT is not relayed")
    AMBIGUOUS = ("ambiguous", 400, "the request can be read in more than one way")
    HEAD_TIMEOUT = ("head_timeout", 408, "the request head did not arrive in time")
    BODY_TIMEOUT = ("body_timeout", 408, "the request body stopped arriving")
    BODY_TOO_LARGE = ("body_too_large", 413, "the request body is too large")
    TARGET_TOO_LONG = ("target_too_long", 414, "the request target is too long")
    HEAD_TOO_LARGE = ("head_too_large", 431, "the request head is too large")
    DENIED = ("denied", 403, "an intention denies this call")
    UNTRUSTED_PEER = ("untrusted_peer", 403, "the caller's certificate is not one of this mesh")
    PLAINTEXT = ("plaintext", 403, "this service takes mutual TLS only")
    NOT_CAPTURED = ("not_captured", 403, "the connection did not come through capture")
    UNKNOWN_DESTINATION = ("unknown_destination", 502, "the destination is not in the mesh")
    NO_SIDECAR = ("no_sidecar", 502, "the destination's service has no sidecar")
    NOT_EXPOSED = ("not_exposed", 404, "the service exposes nothing under this path")
    NO_IDENTITY = ("no_identity", 503, "the service has no valid certificate yet")
    NO_ENDPOINT = ("no_endpoint", 503, "no healthy endpoint")
    CONNECT_FAILED = ("connect_failed", 503, "the endpoint could not be reached")
    OVERFLOW = ("overflow", 503, "the endpoint has all the requests or connections it may have")
    OVERLOADED = ("overloaded", 503, "the application has all the requests that it can do")
    RATE_LIMITED = ("rate_limited", 429, "more requests came than are allowed in this time")
    TOO_MANY_CONNECTIONS = (
        "too_many_connections",
        503,
        "the agent has all the connections that it may have",
    )
    WRONG_PEER = ("wrong_peer", 503, "the endpoint proved another identity than expected")
    UPSTREAM_RESET = ("upstream_reset", 503, "the endpoint closed before it answered")
    UPSTREAM_MALFORMED = ("upstream_malformed", 502, "the answer is not valid HTTP")
    REQUEST_TIMEOUT = ("request_timeout", 504, "the endpoint did not answer in time")
    DEADLINE_EXCEEDED = ("deadline_exceeded", 504, "the caller's time for the request is over")
    STREAM_TIMEOUT = ("stream_timeout", 504, "it has lasted as long as it may")
    FAULT = ("fault", 503, "a fault was injected on purpose")
    APPLICATION_DOWN = ("application_down", 503, "the application does not accept connections")

    def __init__(self, code: str, status: int, sentence: str) -> None:
        self.code = code
        self.status = status
        self.sentence = sentence
