"""What carries bytes (a Conduit) and what takes them (a Receiver): asyncio's transports and
protocols, known by their shape.

Classes of the relay path have no base of asyncio's: compiled ahead of time they could not.
"""

from __future__ import annotations

from typing import Any, Protocol


class Receiver(Protocol):
    """As asyncio.Protocol."""

    def connection_made(self, transport: Conduit) -> None: ...

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> bool:
        """True keeps the own direction open."""
        ...

    def connection_lost(self, exc: Exception | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class Quiet:
    """A Receiver to inherit from: nothing that happens to it matters."""

    __slots__ = ()

    def connection_made(self, transport: Conduit) -> None:
        """Nothing."""

    def data_received(self, data: bytes) -> None:
        """Nothing."""

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing."""

    def pause_writing(self) -> None:
        """Nothing."""

    def resume_writing(self) -> None:
        """Nothing."""


class Conduit(Protocol):
    """As asyncio.Transport."""

    def write(self, data: bytes) -> None: ...

    def can_write_eof(self) -> bool: ...

    def write_eof(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def is_closing(self) -> bool: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any: ...

    def set_protocol(self, protocol: Any) -> None: ...
