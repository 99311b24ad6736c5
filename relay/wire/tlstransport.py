"""TLS between a protocol and the transport below it, on any loop: records in, content out, and back.

asyncio's own layer holds a buffer of 256 KiB for each connection, reads each record twice to learn that nothing follows
it, and gives up without telling the other side why. Here a connection holds what OpenSSL does, which gets a record at
a time; a handshake that fails ends with the alert that says so; and a closed connection says so (RFC 8446 §6.1) without
waiting for the same from the other side: HTTP knows where a message ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

RECORD = 16 << 10  # bytes of content in a record at most (RFC 8446 §5.1)
READ_SIZE = 64 << 10  # bytes of one read from the transport below, where that can be said


class TLSTransport(asyncio.Transport, asyncio.Protocol):
    """The protocol of the transport below, and the transport of a protocol above, which ``factory`` makes.

    ``server_hostname`` is whom a client wants to speak to; with None this is the server's side. The handshake begins
    as soon as there is a transport below. The protocol is made once it is over, which ``done`` tells: it ends with
    None, or with the OSError that the handshake came to. Limits of what may wait to be sent are those of the transport
    below, and neither direction ends without the other.
    """

    __slots__ = (
        "_below",
        "_closing",
        "_error",
        "_factory",
        "_held",
        "_incoming",
        "_outgoing",
        "_protocol",
        "_stuffed",
        "_tls",
        "done",
    )

    def __init__(
        self,
        factory: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext,
        *,
        server_hostname: str | None = None,
    ) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._factory = factory
        self._protocol: asyncio.Protocol | None = None
        self._below: asyncio.Transport = cast("asyncio.Transport", None)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname is None, server_hostname)
        self._held = bytearray()  # content that TLS does not take before it has heard from the other side
        self._stuffed = False  # the transport below has enough
        self._closing = False
        self._error: OSError | None = None  # what the connection ends with

    # What the transport below tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._below = cast("asyncio.Transport", transport)
        if hasattr(transport, "max_size"):  # asyncio's
            transport.max_size = READ_SIZE
        try:
            self._shake()
        except ssl.SSLError as error:
            self._fail(error)

    def data_received(self, data: bytes) -> None:
        """Pass on the content of the records that have become whole."""
        if self._closing:
            return
        try:
            content, is_end = self._open(data)
            if self._outgoing.pending:
                self._flush()
            if self._held:
                self._send_held()
        except ssl.SSLError as error:
            self._fail(error)
            return
        if content and not self._closing:
            assert self._protocol is not None
            self._protocol.data_received(content)
        if is_end:
            self.eof_received()

    def eof_received(self) -> None:
        """The other side says no more: by close_notify, or without (SPEC §12)."""
        if self._protocol is not None and not self._closing:
            self._protocol.eof_received()
        self.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the protocol, or whoever waits for one."""
        self._closing = True
        error, self._error = self._error or error, None
        if error is not None:
            error.__traceback__ = None  # which knows us, by the frames it went through: a ring for the collector
        if not self.done.done():
            self.done.set_exception(error or ConnectionResetError("connection closed before the handshake was over"))
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(error)

    def pause_writing(self) -> None:
        """The transport below has enough for now."""
        self._stuffed = True
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """It wants more, and so do we unless something is held."""
        self._stuffed = False
        if self._protocol is not None and not self._held:
            self._protocol.resume_writing()

    # TLS.

    def _shake(self) -> bool:
        """Go on with the handshake; whether it is over. Raises SSLError."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self._flush()  # a failure's alert, too
        self._protocol = self._factory()
        self._protocol.connection_made(self)
        if not self.done.done():
            self.done.set_result(None)
        return True

    def _open(self, data: bytes) -> tuple[bytes, bool]:
        """What became readable with ``data``, and whether the other side has ended with it. Raises SSLError.

        OpenSSL keeps the size that its buffer once had, so it is given no more than a record at a time.
        """
        pieces: list[bytes] = []
        for start in range(0, len(data), RECORD):
            self._incoming.write(data[start : start + RECORD])
            if self._protocol is None and not self._shake():
                continue
            try:
                while self._incoming.pending:  # a record that has begun is OpenSSL's, and no longer pending
                    piece = self._tls.read(RECORD)
                    if not piece:
                        return b"".join(pieces), True
                    pieces.append(piece)
            except ssl.SSLWantReadError:
                pass
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), False

    def _seal(self, data: bytes | bytearray | memoryview) -> int:
        """Send content as records; how much of it TLS took, all but while it renegotiates. Raises SSLError."""
        taken, sealed = 0, []
        with memoryview(data) as content:
            while taken < len(content):
                try:
                    taken += self._tls.write(content[taken : taken + RECORD])
                except ssl.SSLWantReadError:
                    break
                finally:
                    sealed.append(self._outgoing.read())
        self._below.write(sealed[0] if len(sealed) == 1 else b"".join(sealed))
        return taken

    def _send_held(self) -> None:
        """The other side has said something, which may have been what TLS waited for. Raises SSLError."""
        taken = self._seal(self._held)
        del self._held[:taken]
        if not self._held and not self._stuffed:
            assert self._protocol is not None
            self._protocol.resume_writing()

    def _flush(self) -> None:
        """Send what TLS itself has to say."""
        data = self._outgoing.read()
        if data:
            self._below.write(data)

    def _fail(self, error: OSError) -> None:
        """End for an error of TLS, and let the alert that tells of it leave if it can."""
        self._error = error
        self._closing = True
        self._flush()
        if self._below.get_write_buffer_size():
            self._below.abort()
        else:
            self._below.close()

    # What the protocol above asks for.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send content; nothing once the connection is closed."""
        if self._closing or not data:
            return
        if not self._held:
            try:
                taken = self._seal(data)
            except ssl.SSLError as error:
                self._fail(error)
                return
            if taken == len(data):
                return
            data = memoryview(data)[taken:]
            assert self._protocol is not None
            self._protocol.pause_writing()
        self._held += data

    def close(self) -> None:
        """Say that no more comes, and close once everything written has left."""
        if self._closing:
            return
        self._closing = True
        if self._protocol is not None:
            with contextlib.suppress(ssl.SSLError):  # the other side has not said the same yet
                self._tls.unwrap()
            self._flush()
        self._below.close()

    def abort(self) -> None:
        """Close now."""
        self._closing = True
        self.done.cancel()
        if self._below is not None:
            self._below.abort()

    def is_closing(self) -> bool:
        """Whether somebody has closed it."""
        return self._closing or self._below.is_closing()

    def is_reading(self) -> bool:
        """Whether the protocol gets what comes."""
        return self._below.is_reading()

    def pause_reading(self) -> None:
        """Leave what comes in the socket."""
        self._below.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._below.resume_reading()

    def get_write_buffer_size(self) -> int:
        """How many bytes have not left yet."""
        return len(self._held) + self._below.get_write_buffer_size()

    def can_write_eof(self) -> bool:
        """TLS ends both directions at once, up to 1.2."""
        return False

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who is told; None before the handshake is over and once the connection is lost."""
        return cast("asyncio.BaseProtocol", self._protocol)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Tell another from now on."""
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``ssl_object``, and what the transport below knows."""
        return self._tls if name == "ssl_object" else self._below.get_extra_info(name, default)
