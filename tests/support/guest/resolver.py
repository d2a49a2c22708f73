"""A DNS server on 127.0.0.9 that says 192.0.2.80 to every question, until its standard input
ends."""

from __future__ import annotations

import json
import os
import select
import socket
import sys

ANSWER = b"\xc0\x0c\0\1\0\1\0\0\0\x05\0\4" + socket.inet_aton("192.0.2.80")

udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.9", 53))
print(json.dumps({"event": "ready"}), flush=True)
while True:
    ready, _, _ = select.select([sys.stdin, udp], [], [])
    if sys.stdin in ready and not os.read(0, 4096):
        break
    if udp in ready:
        query, peer = udp.recvfrom(4096)
        end = query.index(b"\0", 12) + 5
        head = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0"
        udp.sendto(head + query[12:end] + ANSWER, peer)
