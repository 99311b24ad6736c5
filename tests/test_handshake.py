"""WebSocket's handshake, head by head."""

from __future__ import annotations

import pytest

from relay.errors import BadRequest
from relay.wire.fields import outbound_lines
from relay.wire.handshake import (
    WrongVersion,
    accept_for,
    answer_lines,
    asks_for_websocket,
    check_request,
    grants_plainly,
    grants_websocket,
)
from relay.wire.heads import RequestHead, ResponseHead

KEY, ACCEPT = b"dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 §1.3
SWITCH = [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")]


def asked(*fields: tuple[bytes, bytes], method: bytes = b"GET", version: bytes = b"1.1") -> RequestHead:
    return RequestHead(method, b"/v1/realtime", version, list(fields))


ASKS = [
    ("as browsers do", asked((b"Connection", b"keep-alive, Upgrade"), (b"Upgrade", b"WebSocket")), True),
    ("by another method", asked(*SWITCH, method=b"POST"), False),
    ("in an older version", asked(*SWITCH, version=b"1.0"), False),
    ("for something else", asked((b"Connection", b"Upgrade"), (b"Upgrade", b"h2c")), False),
    ("without naming it in Connection", asked((b"Upgrade", b"websocket")), False),
    ("without saying for what", asked((b"Connection", b"Upgrade")), False),
]


@pytest.mark.parametrize(("head", "asks"), [case[1:] for case in ASKS], ids=[case[0] for case in ASKS])
def test_who_asks_for_a_websocket(head: RequestHead, asks: bool) -> None:
    assert asks_for_websocket(head) is asks


GRANTS = [
    ("a switch", ResponseHead(101, b"", b"1.1", SWITCH), True),
    ("no switch", ResponseHead(200, b"", b"1.1", SWITCH), False),
    ("to something else", ResponseHead(101, b"", b"1.1", [(b"Upgrade", b"h2c"), SWITCH[1]]), False),
    ("in an older version", ResponseHead(101, b"", b"1.0", SWITCH), False),
]


@pytest.mark.parametrize(("head", "grants"), [case[1:] for case in GRANTS], ids=[case[0] for case in GRANTS])
def test_who_grants_one(head: ResponseHead, grants: bool) -> None:
    assert grants_websocket(head) is grants


def test_the_example_of_the_rfc() -> None:
    assert accept_for(KEY) == ACCEPT
    request = asked((b"Sec-WebSocket-Key", KEY))
    good = ResponseHead(101, b"", b"1.1", [(b"Sec-WebSocket-Accept", ACCEPT)])
    extended = ResponseHead(101, b"", b"1.1", [*good.fields, (b"Sec-WebSocket-Extensions", b"permessage-deflate")])
    assert grants_plainly(request, good)
    assert not grants_plainly(request, extended)
    assert not grants_plainly(request, ResponseHead(101, b"", b"1.1", []))


def test_what_is_wanted_of_a_client() -> None:
    version = (b"Sec-WebSocket-Version", b"13")
    check_request(asked(version, (b"Sec-WebSocket-Key", KEY)))
    for key in (b"", b"c2hvcnQ=", b"***", KEY + b", " + KEY):
        with pytest.raises(BadRequest):
            check_request(asked(version, (b"Sec-WebSocket-Key", key)))
    with pytest.raises(WrongVersion) as caught:
        check_request(asked((b"Sec-WebSocket-Key", KEY)))
    assert caught.value.status == 426
    assert (b"Sec-WebSocket-Version", b"13") in caught.value.fields()


OFFERS = [
    (b"realtime", True),
    (b"x, realtime ,openai-insecure-api-key.sk-1", True),
    (b"openai-insecure-api-key.realtime", False),
    (b"realtimes", False),
    (b"", False),
]


@pytest.mark.parametrize(("offered", "echoed"), OFFERS)
def test_only_realtime_is_echoed(offered: bytes, echoed: bool) -> None:
    lines = answer_lines(asked((b"Sec-WebSocket-Key", KEY), (b"Sec-WebSocket-Protocol", offered)))
    assert lines.startswith(b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + ACCEPT + b"\r\n")
    assert (b"Sec-WebSocket-Protocol: realtime\r\n" in lines) is echoed
    assert b"sk-1" not in lines


KEPT = [
    (b"realtime", b"Sec-WebSocket-Protocol: realtime\r\n"),
    (b"realtime,x", b"Sec-WebSocket-Protocol: realtime,x\r\n"),  # as it came
    (b"realtime , openai-insecure-api-key.k,x", b"Sec-WebSocket-Protocol: realtime, x\r\n"),
    (b"OpenAI-Organization.o, openai-project.p", b""),
]


@pytest.mark.parametrize(("said", "sent"), KEPT)
def test_tokens_with_credentials_go_no_further(said: bytes, sent: bytes) -> None:
    head = asked((b"Sec-WebSocket-Protocol", said), (b"sec_websocket_protocol", b"openai-insecure-api-key.k"))
    assert outbound_lines(head, frozenset(), readable=False) == sent
