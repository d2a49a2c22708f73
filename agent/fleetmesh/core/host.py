"""The host that a request names, read from its head without judging the request."""

from __future__ import annotations


def named_host(head: bytes) -> str:
    """In lower case, without port or final dot. Empty where the target is not in origin form, or
    there is not exactly one Host.

    >>> named_host(b"GET / HTTP/1.1\\r\\nHost: API.mesh:80\\r\\nAccept: */*")
    'api.mesh'
    >>> named_host(b"GET http://api.mesh/ HTTP/1.1\\r\\nHost: api.mesh")
    ''
    """
    lines = head.lstrip(b"\r\n").split(b"\r\n")
    words = lines[0].split(b" ")
    if len(words) != 3 or not words[1].startswith(b"/"):
        return ""
    hosts = [line[5:] for line in lines if line[:5].lower() == b"host:"]
    if len(hosts) != 1:
        return ""
    name = hosts[0].strip(b" \t").partition(b":")[0].removesuffix(b".")
    return name.decode("latin-1").lower()
