"""HTTP/1.1 over one socket, the server's side: h11 on an asyncio protocol, with every way of breaking it."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any

import h11

from .bodies import Blob, Form
from .messages import Answer, APIError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .heard import Heard, Outcome
    from .script import Script
    from .server import DemoUpstream

UNREAD_MOST = 256 << 10  # received and not yet looked at; more waits in the kernel, and hides the client's leaving
BODY_SILENCE = 60.0  # seconds
LINGER_SECONDS = 1.0  # after an early answer, so that the client reads it and not a reset
HEAD_MOST = 64 << 10
READ_ANYWAY = 64 << 10  # a refused body this small is read, and the connection kept


class Gone(Exception):
    """The client left: nothing more can be said on this connection."""


class Cut(Exception):
    """A script broke the connection."""


class Connection(asyncio.Protocol):
    """One connection and the task that serves it, exchange after exchange."""

    def __init__(self, upstream: DemoUpstream, number: int) -> None:
        self.upstream = upstream
        self.number = number
        self.wire = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MOST)
        self.transport: Any = None
        self.task: asyncio.Task[None] | None = None
        self._unread = 0
        self._news = asyncio.Event()  # data, end or loss
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = False
        self._last = False  # no exchange after this one

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve."""
        self.transport = transport
        self.task = asyncio.create_task(self.serve(), name=f"demo connection {self.number}")
        self.upstream.opened(self)

    def data_received(self, data: bytes) -> None:
        """Keep what came; what is too much stays in the kernel."""
        self.wire.receive_data(data)
        self._unread += len(data)
        if self._unread > UNREAD_MOST:
            self.transport.pause_reading()
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 asyncio calls it so
        """Stop whatever is under way: a client that left, even by half, has left (as nginx sees it)."""
        self._lost = True
        if self.task is not None:
            self.task.cancel()
        self.upstream.closed(self)

    def pause_writing(self) -> None:
        """Hold the task at its next write: the client takes no more for now."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let the task write on."""
        self._writable.set()

    # The task's side.

    async def serve(self) -> None:
        """Serve exchanges until one side has had enough."""
        try:
            while await self.exchange():
                self.wire.start_next_cycle()
        except (Gone, Cut, OSError, h11.LocalProtocolError):
            pass
        except h11.RemoteProtocolError as error:
            await self.answer_malformed(error)
        finally:
            self.transport.close()

    async def exchange(self) -> bool:
        """One request and its answer. Gives whether another may follow."""
        request = await self.next_event(self.upstream.keep_alive)
        assert isinstance(request, h11.Request)
        heard = self.upstream.hear(request, self.number)
        outcome: Outcome = "left"
        try:
            await self.respond(heard)
            outcome = "done"
        except (Cut, h11.LocalProtocolError):  # the latter: a script whose fields and body do not fit
            outcome = "cut"
            raise
        finally:
            self.upstream.settle(heard, outcome)
        return self.wire.our_state is h11.DONE and self.wire.their_state is h11.DONE and not self._last

    async def respond(self, heard: Heard) -> None:
        """Hear the request out and answer it, honestly or as scripted."""
        script = heard.script
        if script is not None and script.place == "unread":
            await self.misbehave(script)
        refusal = None if script is not None else self.upstream.refuse(heard)
        if refusal is not None and not self.wants_little(heard):
            await self.answer_early(refusal, heard)
            return
        try:
            content = await self.read_content(heard)
        except APIError as error:
            await self.answer_early(error.answer(), heard)
            return
        answer = refusal or self.upstream.answer(heard, content)
        pause = max(self.upstream.switches(heard.key).slow, script.delay if script is not None else 0.0)
        if pause:
            await asyncio.sleep(pause)
        await self.send_answer(answer, script, head_only=heard.method == "HEAD")

    async def next_event(self, silence: float) -> Any:
        """The next thing the client says; a pause longer than ``silence`` seconds ends the connection."""
        while (event := self.wire.next_event()) is h11.NEED_DATA:
            if self.wire.they_are_waiting_for_100_continue:
                await self.write(self.wire.send(h11.InformationalResponse(status_code=100, headers=[])))
            self._unread = 0
            self.transport.resume_reading()
            self._news.clear()
            async with asyncio.timeout(silence):
                await self._news.wait()
        return event

    async def read_content(self, heard: Heard) -> tuple[Blob, Form | None]:
        """Take the request's content, hashed and, if a form, cut into parts. Raises the 413 for too much of it."""
        form = Form.of(heard.value(b"content-type"))
        content = Blob(kept=0) if form is not None else Blob()
        while isinstance(event := await self.next_event(BODY_SILENCE), h11.Data):
            content.feed(event.data)
            self.upstream.check_size(content.size)
            if form is not None and heard.form_error is None:
                try:
                    form.feed(bytes(event.data))
                except APIError as error:
                    heard.form_error = error  # answered when all of it has come
        heard.took(content)
        return content, form

    def wants_little(self, heard: Heard) -> bool:
        """Whether the rest of this request costs less to read than a new connection."""
        length = heard.value(b"content-length")
        known = not heard.value(b"transfer-encoding") and (not length or int(length) <= READ_ANYWAY)
        return known and not self.wire.they_are_waiting_for_100_continue

    # Answering.

    async def send_answer(self, answer: Answer, script: Script | None = None, *, head_only: bool = False) -> None:
        """Write one answer, breaking it where the script says."""
        if script is not None and script.raw is not None:
            self._last = True
            await self.write(script.raw)
            return
        if script is not None and script.fault and script.place == "before":
            await self.misbehave(script)
        head = self.wire.send(self.upstream.head(answer))
        assert head is not None
        if script is not None and script.fault and script.place == "within":
            await self.write(head[: len(head) // 2])
            await self.misbehave(script)
        breaking = script if script is not None and script.fault else None
        if answer.stream is None and script is None:  # the usual one: in one piece
            data = self.wire.send(h11.Data(data=b"" if head_only else answer.body)) or b""
            await self.write(head + data + (self.wire.send(h11.EndOfMessage()) or b""))
            return
        await self.write(head)
        await self.send_content(iter(()) if head_only else pieces(answer), answer, breaking)
        await self.write(self.wire.send(h11.EndOfMessage()))

    async def send_content(self, content: Iterator[bytes], answer: Answer, script: Script | None) -> None:
        """Write the content, at the upstream's pace if it is paced, until the script says stop."""
        left = script.count if script is not None else None
        for piece in content:
            if left is not None and len(piece) >= left:
                await self.write(self.wire.send(h11.Data(data=piece[:left])) if left else None)
                break
            await self.write(self.wire.send(h11.Data(data=piece)))
            left = left - len(piece) if left is not None else None
            if answer.stream is not None:
                await asyncio.sleep(self.upstream.pace if answer.paced else 0)
        if script is not None:
            await self.misbehave(script)

    async def write(self, data: bytes | None) -> None:
        """Send bytes, no faster than they are taken."""
        if data:
            self.transport.write(data)
        if self._lost:
            raise Gone
        await self._writable.wait()

    async def misbehave(self, script: Script) -> None:
        """Break the connection as scripted, after everything written so far has left."""
        self.transport.set_write_buffer_limits(0)
        await self._writable.wait()
        if script.fault == "stall":
            await asyncio.get_running_loop().create_future()  # until the client leaves or the upstream closes
        if script.fault == "reset":
            reset_on_close(self.transport)
            self.transport.abort()
        raise Cut

    async def answer_early(self, answer: Answer, heard: Heard) -> None:
        """Refuse a request whose content has not come yet; then listen for a moment, so that the answer is read."""
        answer.fields.append((b"connection", b"close"))
        await self.send_answer(answer)
        self.upstream.settle(heard, "done")
        if self.transport.can_write_eof():
            self.transport.write_eof()
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while isinstance(await self.next_event(LINGER_SECONDS), h11.Data):
                    pass
        except TimeoutError:
            pass

    async def answer_malformed(self, error: h11.RemoteProtocolError) -> None:
        """Say what was wrong with the request's framing, if there is still room to say it."""
        if self.wire.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self._lost:
            refusal = APIError(error.error_status_hint, f"Bad request: {error}.").answer()
            refusal.fields.append((b"connection", b"close"))
            await self.send_answer(refusal)


def pieces(answer: Answer) -> Iterator[bytes]:
    """The content of an answer, piece by piece."""
    if answer.stream is not None:
        return answer.stream
    return iter((answer.body,)) if answer.body else iter(())


def reset_on_close(transport: Any) -> None:
    """Let the close of this socket be seen as a reset (``SO_LINGER`` of no seconds)."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
