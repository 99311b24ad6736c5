"""One answer on its way to the client: the commit, the content, and an honest end when the upstream breaks off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ClientGone, ProxyError, UpstreamFailure
from ..wire.connection import PeerGone, Silent
from ..wire.fields import inbound_lines
from ..wire.pump import BodyRelay

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..reach.upstream import UpstreamResponse
    from ..requests.downstream import Exchange
    from ..wire.heads import ResponseHead

EVENT_STREAM = b"text/event-stream"


class BrokenResponse(UpstreamFailure):
    """A response that had begun has been broken off, and the client told so.

    ``cause`` is what was wrong with the rest of the request, where it was that and not the upstream.
    """

    code = "upstream_broke_off"
    cause: ProxyError | None = None


async def relay_response(
    exchange: Exchange, response: UpstreamResponse, own_lines: bytes, watch: Callable[[bytes], None] | None
) -> None:
    """Commit, and move the content; ``watch`` sees each piece before it leaves.

    Raises BrokenResponse when the upstream does not bring the message to its end, ClientGone when nobody reads it.
    """
    head, connection, record = response.head, exchange.connection, exchange.record
    extent, length = response.framing()
    exchange.send_head(head.status, head.reason, extent, length, inbound_lines(head) + own_lines)
    response.take_rest()
    for piece in response.pieces:
        if watch is not None:
            watch(piece)
        connection.send_data(piece)
        record.bytes_out += len(piece)
    if response.complete:
        connection.send_end()
        connection.depart()
        return
    relay = BodyRelay(response.upstream.connection, connection, watch, exchange.config.timeouts.stream_idle)
    try:
        await relay.run()
    except (PeerGone, Silent, ProxyError) as error:
        if connection.closed or isinstance(error, ClientGone):
            raise ClientGone("the client left") from None
        at_boundary = relay.at_event_boundary and (relay.count > 0 or not response.pieces)
        uploading = isinstance(error, ProxyError) and error is response.upstream.connection.failure
        raise break_off(exchange, head, error, uploading=uploading, at_boundary=at_boundary) from error
    finally:
        record.bytes_out += relay.count


def break_off(
    exchange: Exchange, head: ResponseHead, error: Exception, *, uploading: bool, at_boundary: bool
) -> BrokenResponse:
    """End a response that will not be whole, so that nobody takes it for whole (SPEC §7 "Streams").

    A readable event stream that stands between two events gets a last one that says so, which the SDKs raise.
    ``uploading``: the rest of the request was at fault, while the answer was on its way already.
    """
    connection = exchange.connection
    broken = BrokenResponse("The upstream broke off its answer.", sent=True, detail=f"broke off: {error}")
    if uploading and isinstance(error, ProxyError):
        broken.cause = error
    spoken = is_open_event_stream(head) and at_boundary
    if spoken:
        connection.send_data(b"data: " + (broken.cause or broken).body() + b"\n\n")
    if spoken or exchange.head.version == b"1.1":
        connection.close()  # without the final chunk, or short of Content-Length
    else:
        connection.cut()  # to HTTP/1.0 an end would look like the end of the content
    return broken


def is_open_event_stream(head: ResponseHead) -> bool:
    """Whether an event can be added: server-sent events, as plain text, of no stated length."""
    media_type = head.get(b"content-type").partition(b";")[0].strip().lower()
    return media_type == EVENT_STREAM and b"content-encoding" not in head and b"content-length" not in head
