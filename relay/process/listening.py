"""The sockets that clients connect to: bound before anything forks, inherited where somebody bound them for us."""

# ruff: noqa: PTH101, PTH108, PTH109, PTH118 - pathlib is slow to import
from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import stat
from typing import TYPE_CHECKING

from ..reach.names import host_name
from ..values import Value
from .systemd import inherited_listeners

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..config import Listener


class CannotListen(Exception):
    """The address cannot be bound; the text is one clear sentence."""


class Listening(Value):
    """What a process listens on, and whose that is."""

    sockets: list[socket.socket]
    inherited: bool = False  # then whoever handed them over has them too, and keeps what waits in them for a successor
    name: str | None = None  # of a unix socket that we made
    mark: tuple[int, ...] = ()  # which file that is

    def close(self) -> None:
        """Let go of the sockets; workers have their own descriptors."""
        for sock in self.sockets:
            sock.close()

    def remove_name(self) -> None:
        """Remove our unix socket from its folder, unless somebody has put another there meanwhile."""
        with contextlib.suppress(OSError):
            if self.name is not None and mark_of(self.name) == self.mark:
                os.unlink(self.name)


def mark_of(name: str) -> tuple[int, ...]:
    """What tells a socket from another of the same name: an inode may be used again at once. Raises OSError."""
    status = os.lstat(name)
    return status.st_dev, status.st_ino, status.st_mtime_ns  # of a socket, when it was bound


def open_listening(listener: Listener, environ: Mapping[str, str], pid: int) -> Listening:
    """The sockets that were handed to process ``pid``, else those that the configuration names. Raises CannotListen."""
    try:
        inherited = inherited_listeners(environ, pid)
    except ValueError as error:
        raise CannotListen(f"Cannot listen: {error}.") from None
    if inherited:
        return Listening(inherited, inherited=True)
    sockets = bind(listener)
    if listener.unix is None:
        return Listening(sockets)
    name = os.path.join(os.getcwd(), listener.unix)  # "..", too, is left to the system
    return Listening(sockets, name=name, mark=mark_of(name))


def bind(listener: Listener) -> list[socket.socket]:
    """Bind and listen. Raises CannotListen."""
    if listener.unix is not None:
        return [bind_unix(listener)]
    host = host_name(listener.host) or None
    try:
        found = socket.getaddrinfo(host, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no host name"
        raise CannotListen(f"server.host {listener.host!r} is no address of this machine: {reason}.") from None
    return [bind_tcp(family, address, listener) for family, _, _, _, address in dict.fromkeys(found)]


def bind_tcp(family: int, address: tuple[object, ...], listener: Listener) -> socket.socket:
    """One TCP socket; an address just left by another process is taken over (SO_REUSEADDR)."""
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(listener.backlog)
    except OSError as error:
        sock.close()
        raise CannotListen(why_not_tcp(error, listener)) from None
    sock.setblocking(False)
    return sock


def why_not_tcp(error: OSError, listener: Listener) -> str:
    """A sentence that says what to do about it."""
    where = f"{listener.host}:{listener.port}"
    if error.errno == errno.EADDRINUSE:
        return f"Port {listener.port} is taken by another process; stop it, or choose another with --port."
    if error.errno == errno.EACCES:
        return f"This user may not listen on port {listener.port}; choose one from 1024 on with --port."
    return f"Cannot listen on {where}: {error.strerror}."


def bind_unix(listener: Listener) -> socket.socket:
    """A unix socket with its mode; a stale one, whose owner is gone, is replaced."""
    path = str(listener.unix)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        remove_stale(path)
        mask = os.umask(0o777 & ~listener.unix_mode)  # never open to others, not even between bind and chmod
        try:
            sock.bind(path)
        finally:
            os.umask(mask)
        os.chmod(path, listener.unix_mode)
        sock.listen(listener.backlog)
    except OSError as error:
        sock.close()
        raise CannotListen(f"Cannot listen on the socket {path}: {error.strerror or error}.") from None
    sock.setblocking(False)
    return sock


def remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on. Raises OSError for one in use, and for what is no socket."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file of that name that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, "another process listens there")


def raise_descriptor_limit() -> None:
    """Take as many descriptors as we may (SPEC §9): 10,000 clients need twice that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # "unlimited" where the kernel has a lower bound
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
