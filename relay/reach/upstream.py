"""The deployment's side: a pool of kept connections, and one attempt's request and response head."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ..errors import ConfigError, ProxyError, UpstreamFailure, UpstreamTimeout
from ..wire.connection import PeerGone, Silent
from ..wire.framing import CHUNKED, END, LENGTH, NEED_DATA, Extent
from ..wire.heads import RequestHead, ResponseHead
from ..wire.http1 import HTTP1Connection, Role
from ..wire.news import has_news
from .dial import dial
from .lanes import Lanes
from .names import Resolver
from .outbound import OutboundProxies
from .tls import client_context, current_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from ..config import Config, Deployment
    from .lanes import Approach, Lane

MOST_INTERIM = 16  # 1xx heads before a final one (SPEC §12); more is a storm, not information
NEW, KEPT = False, True  # whether the connection of a lease was used before
MOST_IDLE = 256  # kept connections to one upstream: what a burst leaves behind beyond that is closed


class Content(Protocol):
    """What is sent as a request's content: ``body.RequestBody``."""

    def framing(self) -> tuple[Extent, int]: ...  # noqa: D102 - as there
    def at_once(self) -> bytes | None: ...  # noqa: D102
    def chunks(self) -> AsyncIterator[bytes]: ...  # noqa: D102


class StaleConnection(UpstreamFailure):
    """A kept connection died before the first byte of an answer; ``sent`` says whether the request had left."""


class MalformedAnswer(UpstreamFailure):
    """What came is not HTTP/1.1, or beyond the limits."""


class UpstreamConnection:
    """A leased connection, for one attempt. ``release`` ends the lease on every path."""

    __slots__ = ("_pool", "_upload", "approach", "connection", "interim", "released", "reused")

    def __init__(self, pool: UpstreamPool, approach: Approach, connection: HTTP1Connection, reused: bool) -> None:
        self._pool = pool
        self.approach = approach
        self.connection = connection
        self.reused = reused
        self.interim = 0
        self.released = False
        self._upload: asyncio.Task[None] | None = None

    def send_request(self, head: RequestHead, target: bytes, content: Content, lines: bytes) -> None:
        """Write the request. What is at hand leaves at once, with the head; a longer body follows in a task."""
        connection = self.connection
        if not self.reused and not connection.is_alive():  # the pool has just looked at one that was kept
            raise StaleConnection("The upstream closed the connection.", sent=False)
        extent, length = content.framing()
        connection.send_request(head, target, self.approach.lane.host, extent, length, lines)
        data = content.at_once()
        if data is not None:
            if data:
                connection.send_data(data)
            connection.send_end()
            connection.depart()
        else:
            connection.flush()
            self._upload = asyncio.create_task(self._send_content(content), name="upload")

    async def _send_content(self, content: Content) -> None:
        """Stream the body. What goes wrong on the client's side ends the attempt at once."""
        connection = self.connection
        try:
            async for chunk in content.chunks():
                connection.send_data(chunk)
                connection.flush()
                if connection.paused:
                    async with asyncio.timeout(self._pool.patience):  # the connection's deadline is the answer's
                        await connection.drain()
            connection.send_end()
            connection.flush()
        except (PeerGone, Silent):
            pass  # an early answer may be there to read; if it is not, the reader sees the same end
        except TimeoutError:
            connection.fail(Silent("nothing more of the request was taken"))
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for the response
            connection.fail(error)

    @property
    def uploading(self) -> bool:
        """Whether part of the request has not left yet."""
        return self._upload is not None and not self._upload.done()

    async def stop_upload(self) -> None:
        """Send nothing more of the body, which was refused early (413, 429): another attempt may read it now."""
        if self._upload is not None and not self._upload.done():
            self._upload.cancel()
            await asyncio.wait([self._upload])

    async def response_head(self, timeout: float, on_interim: Callable[[ResponseHead], None]) -> ResponseHead:  # noqa: ASYNC109 - a deadline of the connection, which starts with the last request byte
        """Wait for the final head, ``timeout`` seconds from the last byte of the request on.

        Raises UpstreamTimeout, StaleConnection, UpstreamFailure, and what the client's side did wrong meanwhile.
        """
        connection, upload = self.connection, self._upload
        if upload is None:
            connection.set_deadline(timeout)
        else:
            begin = partial(set_deadline, connection, timeout)
            connection.set_deadline(None)
            upload.add_done_callback(begin)
        try:
            while True:
                head = connection.poll_event()
                if head is NEED_DATA:
                    await connection.readable()
                    continue
                assert isinstance(head, ResponseHead)
                if connection.unsent:  # it answers nothing that we have asked: an idle connection ends like this
                    raise StaleConnection("The upstream spoke before it was asked.", sent=False)
                if not head.is_interim():
                    return head
                self._count_interim()
                on_interim(head)
        except Silent:
            raise UpstreamTimeout("The upstream did not answer in time.", sent=True) from None
        except PeerGone as error:
            raise self._gone(error) from None
        except ProxyError as error:
            raise self._malformed(error) from None
        finally:
            if upload is not None:
                upload.remove_done_callback(begin)  # an answer that came before the upload's end is not bound by it

    def _count_interim(self) -> None:
        self.interim += 1
        if self.interim > MOST_INTERIM:
            raise MalformedAnswer("The upstream sent interim responses without end.", sent=True)

    def _gone(self, error: PeerGone) -> UpstreamFailure:
        message = "The upstream closed the connection before it answered."
        kind = StaleConnection if self.reused and not self.connection.heard else UpstreamFailure
        return kind(message, sent=not self.connection.unsent, detail=f"{message} ({error})")

    def _malformed(self, error: ProxyError) -> ProxyError:
        if error is self.connection.failure or isinstance(error, UpstreamFailure):
            return error
        return MalformedAnswer("The upstream's answer is not valid HTTP/1.1.", sent=True, detail=error.message)

    def release(self) -> None:
        """Give the connection back if the exchange on it ended whole, else drop it. Never waits; once is enough."""
        if self.released:
            return
        self.released = True
        if self._upload is not None:
            self._upload.cancel()
        connection = self.connection
        if connection.is_done() and not (connection.pending or connection.eof or connection.unsent):
            connection.next_cycle()
            self._pool.keep(self.approach.lane, connection)
        else:
            connection.abort()


class UpstreamResponse:
    """An answer: its head, and its content as far as it was read before anybody decided to relay it."""

    __slots__ = ("complete", "head", "length", "pieces", "upstream")

    def __init__(self, head: ResponseHead, upstream: UpstreamConnection) -> None:
        self.head = head
        self.upstream = upstream
        self.length = upstream.connection.content_length  # as the head tells it
        self.pieces: list[bytes] = []
        self.complete = False  # ``pieces`` is all of it

    async def read_content(self, most: int, seconds: float) -> bytes:
        """Read on, until the content ends, ``most`` bytes are there or ``seconds`` have passed; what there is so far.

        For an error's code, and to keep an answer while another deployment is asked. What goes wrong shows when the
        rest is relayed; being slow is nothing wrong.
        """
        self.upstream.connection.set_deadline(None)  # the head's; this one must leave the connection usable
        with contextlib.suppress(TimeoutError, PeerGone, ProxyError):
            async with asyncio.timeout(seconds):
                await self._read_up_to(most)
        return b"".join(self.pieces)

    def take_rest(self) -> None:
        """Take what is left of the content if all of it is there already: then the connection is free for others."""
        if not self.complete and (rest := self.upstream.connection.take_rest()) is not None:
            self.pieces.append(rest)
            self.complete = True
            self.upstream.release()

    async def _read_up_to(self, most: int) -> None:
        size = 0
        while size < most:
            event = await self.upstream.connection.next_event()
            if event is END:
                self.complete = True
                self.upstream.release()
                return
            assert isinstance(event, bytes)
            self.pieces.append(event)
            size += len(event)

    def framing(self) -> tuple[Extent, int]:
        """How the content came, and its length, as far as a client has to know."""
        return (CHUNKED, 0) if self.length is None else (LENGTH, self.length)


def set_deadline(connection: HTTP1Connection, seconds: float, _: object) -> None:
    """``connection.set_deadline``, as what is called when a task is done."""
    connection.set_deadline(seconds)


class UpstreamPool:
    """Kept connections to every upstream of one worker."""

    def __init__(self, config: Config, proxies: OutboundProxies) -> None:
        self._config = config
        self._proxies = proxies
        self._resolver = Resolver()
        self._lanes = Lanes(proxies)

    def prepare(self) -> None:
        """Read every file that TLS to the upstreams needs. Raises ValueError, one sentence that names the file."""
        for deployment in self._config.deployments:
            self._proxies.for_base(deployment.base, deployment.proxy)
            if deployment.base.scheme == "https":
                client_context(deployment.tls)

    def reconfigure(self, config: Config, proxies: OutboundProxies) -> None:
        """Go on with another configuration; connections that it still leads to are kept."""
        self._config, self._proxies = config, proxies
        self._lanes.reconfigure(config.deployments, proxies)

    async def lease(
        self, deployment: Deployment, *, fresh: bool = False, until: float | None = None
    ) -> UpstreamConnection:
        """Borrow a kept connection, or dial one (always, where ``fresh``), before the loop's time is ``until``.

        Raises UpstreamFailure, UpstreamTimeout.
        """
        approach = self._lanes.approach(deployment)
        if not fresh:
            connection = self._take_idle(approach.lane)
            if connection is not None:
                return UpstreamConnection(self, approach, connection, KEPT)
        return UpstreamConnection(self, approach, await self._dial_by(until, deployment), NEW)

    @property
    def patience(self) -> float:
        """How long an upstream may take nothing of a request, in seconds."""
        return self._config.timeouts.response_head

    def _take_idle(self, lane: Lane) -> HTTP1Connection | None:
        idle = lane.idle
        while idle:
            connection = idle.pop()  # the warmest; the others grow old and are closed by their deadline
            connection.on_readable = None
            moved = lane.named is not None and not self._still_named(lane.named, connection)
            if not moved and connection.is_alive() and not has_news(connection):
                connection.set_deadline(None)
                connection.heard = False
                return connection
            connection.abort()
        return None

    def _still_named(self, named: tuple[str, int], connection: HTTP1Connection) -> bool:
        """Names move (SPEC §14): a connection to an address that is no longer named is not used again."""
        return self._resolver.still_named(*named, connection.peer())

    async def _dial_by(self, until: float | None, deployment: Deployment) -> HTTP1Connection:
        if until is None:
            return await self._dial(deployment)
        try:
            async with asyncio.timeout_at(until):
                return await self._dial(deployment)
        except TimeoutError:
            message = "The upstream could not be reached before the client's own timeout."
            raise UpstreamTimeout(message, sent=False) from None

    async def _dial(self, deployment: Deployment) -> HTTP1Connection:
        config = self._config
        context = None
        if deployment.base.scheme == "https":
            try:
                context = current_context(deployment.tls)
            except ValueError as error:
                message = "The upstream's TLS files cannot be used."
                raise UpstreamFailure(message, sent=False, detail=str(error)) from error
        _, connection = await dial(
            deployment.base,
            lambda: HTTP1Connection(Role.CLIENT, config.limits),
            context=context,
            proxy=self._proxies.for_base(deployment.base, deployment.proxy),
            resolver=self._resolver,
            timeout=config.timeouts.connect,
        )
        return connection

    def keep(self, lane: Lane, connection: HTTP1Connection) -> None:
        """Take a connection back for the next lease. Any byte or end, or too long a silence, evicts it."""
        if len(lane.idle) >= MOST_IDLE:
            connection.abort()
            return
        lane.idle.append(connection)
        connection.set_deadline(self._config.timeouts.upstream_keep_alive)
        connection.on_readable = lambda: lane.evict(connection)

    def close(self) -> None:
        """Drop every idle connection."""
        self._lanes.drop()
        self._resolver.close()


def open_pool(config: Config, environ: Mapping[str, str]) -> UpstreamPool:
    """The pool, once all that it will need is there: outbound proxies, certificates. Raises ConfigError."""
    try:
        pool = UpstreamPool(config, OutboundProxies(environ))
        pool.prepare()
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    return pool
