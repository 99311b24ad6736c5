"""What the service manager hands over and wants to hear: inherited listeners, and datagrams of state (SPEC §14).

Both are plain environment variables, so there is no library. Nothing in here stops the product: outside systemd the
variables are absent, and a datagram that cannot be sent is dropped.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FIRST_FD = 3  # sd_listen_fds(3): SD_LISTEN_FDS_START
MOST_FDS = 1024


def listen_fds(environ: Mapping[str, str], pid: int) -> range:
    """The descriptors that were handed to process ``pid``; none if the variables are absent or meant for another.

    Raises ValueError for variables that are no numbers, since serving another address than the one that was set up
    would be a surprise.
    """
    owner, count = environ.get("LISTEN_PID"), environ.get("LISTEN_FDS")
    if owner is None or count is None:
        return range(0)
    if not _is_number(owner) or not _is_number(count) or int(count) > MOST_FDS:
        raise ValueError(f"LISTEN_PID and LISTEN_FDS must be numbers, the second at most {MOST_FDS}")
    return range(FIRST_FD, FIRST_FD + int(count)) if int(owner) == pid else range(0)


def inherited_listeners(environ: Mapping[str, str], pid: int) -> list[socket.socket]:
    """The listening sockets that were handed to us, ready for the loop. Raises ValueError for any other descriptor."""
    return [_listener(fd) for fd in listen_fds(environ, pid)]


def _listener(fd: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=fd)  # asks the kernel for family, type and protocol
    except OSError as error:
        raise ValueError(f"the inherited descriptor {fd} is no socket: {error.strerror}") from error
    os.set_inheritable(fd, False)
    sock.setblocking(False)
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise ValueError(f"the inherited descriptor {fd} is no listening stream socket")
    return sock


class Notifier:
    """Says to the service manager how we are (sd_notify(3)). Without ``NOTIFY_SOCKET`` nobody is told.

    ``clock`` is CLOCK_MONOTONIC in nanoseconds.
    """

    def __init__(self, environ: Mapping[str, str], clock: Callable[[], int] = time.monotonic_ns) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._clock = clock
        self._address = "\0" + path[1:] if path.startswith("@") else path  # an abstract socket
        self._wanted = path.startswith(("/", "@"))  # any other kind is refused by sd_notify, too

    def ready(self, status: str = "") -> bool:
        """Serving, at first or after a reload."""
        return self._send("READY=1", status)

    def reloading(self) -> bool:
        """Reading the configuration anew; ``ready`` must follow, whether the new one is taken or not."""
        return self._send(f"RELOADING=1\nMONOTONIC_USEC={self._clock() // 1000}")

    def stopping(self, status: str = "") -> bool:
        """Draining: no new connections are taken."""
        return self._send("STOPPING=1", status)

    def _send(self, state: str, status: str = "") -> bool:
        if not self._wanted:
            return False
        if status:
            state += "\nSTATUS=" + " ".join(status.split())  # a line is one assignment
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(state.encode(), self._address)
            return True
        return False


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
