"""Writes every frame that passes one interface to standard output, each after its length.

sniffer.py INTERFACE — run inside the interface's network namespace. Lengths are 4 bytes, big
endian. A first frame of length 0 says that it listens. SIGTERM ends it.
"""

from __future__ import annotations

import signal
import socket
import sys

ETH_P_ALL = 3
SO_RCVBUFFORCE = 33


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    packets.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 * 1024 * 1024)
    packets.bind((sys.argv[1], 0))
    out = sys.stdout.buffer
    out.write(bytes(4))
    out.flush()
    while True:
        # Segmentation is left to hardware that a veth pair has not: frames come up to 64 KiB.
        frame = packets.recv(128 * 1024)
        out.write(len(frame).to_bytes(4, "big") + frame)
        out.flush()


if __name__ == "__main__":
    main()
