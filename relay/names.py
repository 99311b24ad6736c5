"""Names to addresses: looked up off the loop, remembered for 30 s, one look-up at a time for each name (SPEC §14)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import socket


class Address(NamedTuple):
    """What ``socket.connect`` needs."""

    family: socket.AddressFamily
    sockaddr: tuple[str | int, ...]


class Resolver:
    """One worker's view of names. Lives on one event loop."""

    async def resolve(self, host: str, port: int) -> tuple[Address, ...]:
        """Every address of ``host``, as the system orders them. Raises OSError when it has none."""
        raise NotImplementedError

    def still_named(self, host: str, port: int, address: str) -> bool:
        """Whether a connection to ``address`` (``peername[0]``) is one that ``host`` still names, as far as we know.

        Cheap enough for each use of an idle connection; an answer older than 30 s is renewed behind the caller's back.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Forget everything and give up look-ups under way."""
        raise NotImplementedError
