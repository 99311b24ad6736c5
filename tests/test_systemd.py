"""Inherited listeners and state datagrams, against real sockets and a real child process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from relay.process import systemd
from relay.process.systemd import Notifier, inherited_listeners, listen_fds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VARIABLES = [
    ({}, range(0)),
    ({"LISTEN_PID": "7"}, range(0)),
    ({"LISTEN_FDS": "1"}, range(0)),
    ({"LISTEN_PID": "7", "LISTEN_FDS": "0"}, range(0)),
    ({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, range(3, 4)),
    ({"LISTEN_PID": "7", "LISTEN_FDS": "2"}, range(3, 5)),
    ({"LISTEN_PID": "8", "LISTEN_FDS": "2"}, range(0)),
]


@pytest.mark.parametrize(("environ", "fds"), VARIABLES)
def test_the_variables_say_which_descriptors(environ: dict[str, str], fds: range) -> None:
    assert listen_fds(environ, 7) == fds


@pytest.mark.parametrize(("pid", "count"), [("x", "1"), ("7", "x"), ("7", "-1"), ("7", ""), ("7", "1025"), ("7", "²")])
def test_nonsense_is_refused(pid: str, count: str) -> None:
    with pytest.raises(ValueError, match="LISTEN_FDS must be numbers"):
        listen_fds({"LISTEN_PID": pid, "LISTEN_FDS": count}, 7)


CHILD = """
import os, socket, sys
from relay.process.systemd import inherited_listeners
one, other = inherited_listeners({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"}, os.getpid())
assert not one.get_inheritable() and not one.getblocking()
assert one.proto == socket.IPPROTO_TCP, one.proto
one.setblocking(True)
accepted, _ = one.accept()
accepted.sendall(b"inherited " + str(other.family.name).encode())
"""


def test_a_child_serves_what_it_was_handed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "x.sock"))
        unix.listen()

        def hand_over() -> None:
            high = [os.dup(sock.fileno()) for sock in (tcp, unix)]
            for number, fd in enumerate(high, start=3):
                os.dup2(fd, number)

        command = [sys.executable, "-c", CHILD]
        with subprocess.Popen(command, close_fds=False, preexec_fn=hand_over) as child:  # noqa: PLW1509 - no threads
            with socket.create_connection(tcp.getsockname(), timeout=10) as client:
                heard = client.makefile("rb").read()
            assert child.wait(10) == 0
    assert heard == b"inherited AF_UNIX"


@pytest.fixture
def third() -> dict[str, str]:
    """Variables that hand over one descriptor, wherever the test puts it."""
    return {"LISTEN_PID": "7", "LISTEN_FDS": "1"}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_listener_is_made_ready_for_the_loop(
    third: dict[str, str], monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    fd = socket.create_server((host, 0), family=family).detach()
    os.set_inheritable(fd, True)
    monkeypatch.setattr(systemd, "FIRST_FD", fd)

    (listener,) = inherited_listeners(third, 7)

    with listener:
        assert (listener.fileno(), listener.family, listener.proto) == (fd, family, socket.IPPROTO_TCP)
        assert not listener.get_inheritable()
        assert not listener.getblocking()


@pytest.mark.parametrize(
    ("family", "kind"), [(socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM)]
)
def test_a_socket_that_does_not_listen_is_refused(
    third: dict[str, str], monkeypatch: pytest.MonkeyPatch, family: int, kind: int
) -> None:
    fd = socket.socket(family, kind).detach()
    monkeypatch.setattr(systemd, "FIRST_FD", fd)

    with pytest.raises(ValueError, match=f"descriptor {fd} is no listening stream socket"):
        inherited_listeners(third, 7)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_file_is_refused(third: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        monkeypatch.setattr(systemd, "FIRST_FD", file.fileno())
        with pytest.raises(ValueError, match="is no socket: "):
            inherited_listeners(third, 7)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """A service manager's socket, and the variable that names it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@passthrough-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1) if name[0] == "@" else name)
        sock.settimeout(10)
        yield sock, {"NOTIFY_SOCKET": name}


def test_the_manager_hears_of_every_state(manager: tuple[socket.socket, dict[str, str]]) -> None:
    sock, environ = manager
    notifier = Notifier(environ, lambda: 1_234_567_899)

    assert notifier.ready("serving 3 groups\nREADY=0")
    assert sock.recv(999) == b"READY=1\nSTATUS=serving 3 groups READY=0"
    assert notifier.reloading()
    assert sock.recv(999) == b"RELOADING=1\nMONOTONIC_USEC=1234567"
    assert notifier.ready()
    assert sock.recv(999) == b"READY=1"
    assert notifier.stopping("draining")
    assert sock.recv(999) == b"STOPPING=1\nSTATUS=draining"


@pytest.mark.parametrize("name", [None, "", "vsock:2:1234", "relative", "/nowhere/notify", "@nobody-listens-here"])
def test_nobody_need_listen(name: str | None) -> None:
    assert not Notifier({} if name is None else {"NOTIFY_SOCKET": name}).ready()


def test_a_manager_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name)
        notifier = Notifier({"NOTIFY_SOCKET": name})

        assert any(not notifier.ready() for _ in range(100_000))  # its queue is full at last
