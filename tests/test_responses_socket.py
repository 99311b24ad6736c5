"""``GET /responses`` as a WebSocket: chosen by its first message, answered by us before that (SPEC §13)."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest
from openai import AsyncOpenAI, OpenAI
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from relay.config import RouterSettings, Timeouts
from tests.harness import KEY, OK, PATIENCE, config_over, deployment, proxy_over, with_limits, with_timeouts
from tests.sockets import (
    ACCEPT,
    SWITCH,
    SocketUpstream,
    answer_of,
    event,
    proxy_before,
    raw_session,
    session_with,
    told,
    until,
    upgrade,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from websockets.asyncio.client import ClientConnection
    from websockets.asyncio.server import ServerConnection

    from tests.scripted import ScriptedUpstream

PATH = "/v1/responses"
USAGE = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
LIMITED = HTTPStatus.TOO_MANY_REQUESTS, '{"error":{"code":"rate_limit_exceeded","type":"requests","message":"slow"}}'
NO_MODEL = HTTPStatus.NOT_FOUND, '{"error":{"code":"model_not_found","type":"invalid_request_error","message":"no"}}'


class Model:
    """A server of responses over WebSockets: names each by number, and repeats what it was asked."""

    def __init__(self) -> None:
        self.heard: list[str | bytes] = []

    async def talk(self, session: ServerConnection) -> None:
        async for message in session:
            self.heard.append(message)
            asked = json.loads(message)
            if asked["type"] != "response.create":
                continue
            response = {
                "id": f"resp_{len(self.heard)}abc",
                "object": "response",
                "model": asked.get("model"),
                "output": [],
            }
            await event(session, {"type": "response.created", "response": {**response, "usage": None}})
            await event(session, {"type": "response.completed", "response": {**response, "usage": USAGE}})


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
async def up(model: Model) -> AsyncIterator[SocketUpstream]:
    async with SocketUpstream(model.talk).running() as upstream:
        yield upstream


@pytest.fixture
async def second(model: Model) -> AsyncIterator[SocketUpstream]:
    async with SocketUpstream(model.talk).running() as upstream:
        yield upstream


async def hear(session: ClientConnection) -> Any:
    return json.loads(await asyncio.wait_for(session.recv(), PATIENCE))


async def hear_all(session: ClientConnection) -> None:
    while True:
        await hear(session)


async def refusal(session: ClientConnection) -> tuple[Any, int, str]:
    """The error event, and what the session was closed with."""
    said = await hear(session)
    assert said.pop("type") == "error"
    with pytest.raises(ConnectionClosed) as caught:
        await asyncio.wait_for(session.recv(), PATIENCE)
    assert caught.value.rcvd is not None
    return said, caught.value.rcvd.code, caught.value.rcvd.reason


# The real client.


async def test_the_sdks_client(up: SocketUpstream, model: Model) -> None:
    async with proxy_before(up, settings={"model": "gpt-upstream"}) as proxy:
        client = AsyncOpenAI(api_key=KEY, base_url=proxy.base_url)
        async with client.responses.connect() as connection:
            await connection.response.create(model="gpt-4", input="hi")
            types = [(await connection.recv()).type, (await connection.recv()).type]
            await connection.response.create(model="gpt-4", input="and?", previous_response_id="resp_1abc")
            types += [(await connection.recv()).type, (await connection.recv()).type]
        record = await told(proxy)
    assert types == ["response.created", "response.completed"] * 2
    assert [json.loads(message)["model"] for message in model.heard] == ["gpt-upstream"] * 2
    assert (record.status, record.outcome, record.endpoint, record.group) == (101, "ok", "/responses", "gpt-4")
    assert (record.reason, record.deployment) == ("model", "a")
    assert (record.usage["input_tokens"], record.usage["output_tokens"]) == (20, 10)
    assert record.bytes_in > 100
    assert record.bytes_out > 200


@pytest.mark.filterwarnings("ignore:connect.. must be used:DeprecationWarning")  # the SDK's own way to call it
async def test_the_sdks_synchronous_client(up: SocketUpstream) -> None:
    def converse(base_url: str) -> list[str]:
        with OpenAI(api_key=KEY, base_url=base_url).responses.connect() as connection:
            connection.response.create(model="gpt-4", input="hi")
            return [connection.recv().type, connection.recv().type]

    async with proxy_before(up) as proxy:
        heard = await asyncio.to_thread(converse, proxy.base_url)
    assert heard == ["response.created", "response.completed"]


# Our own handshake.


async def test_the_handshake_is_ours_and_has_no_extensions(up: SocketUpstream) -> None:
    request = upgrade(
        PATH, "Sec-WebSocket-Extensions: permessage-deflate", "Sec-WebSocket-Protocol: x, realtime, openai-project.p"
    )
    async with proxy_before(up) as proxy:
        head, reader, writer = await raw_session(proxy, request)
        assert head.startswith(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + ACCEPT
        )
        assert b"\r\nSec-WebSocket-Protocol: realtime\r\nx-passthrough-id: pt-" in head
        assert b"xtensions" not in head
        assert not up.requests
        writer.write(b"\x89\x82\x00\x00\x00\x00hi\x8a\x80\x00\x00\x00\x00")  # a ping, and a pong that nobody asked for
        async with asyncio.timeout(PATIENCE):
            assert await reader.readexactly(4) == b"\x8a\x02hi"
        writer.write(b"\x88\x82\x00\x00\x00\x00\x03\xe8")
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b"\x88\x02\x03\xe8"
        writer.close()
        record = await told(proxy)
    assert (record.status, record.outcome, record.attempts) == (101, "ok", [])


async def test_what_the_upstream_is_asked(up: SocketUpstream, model: Model) -> None:
    async with proxy_before(up) as proxy:
        fields = {"OpenAI-Beta": "responses_websockets=2026-02-06"}
        async with session_with(proxy, PATH + "?a=1", fields=fields) as session:
            assert "Sec-WebSocket-Extensions" not in answer_of(session).headers
            await event(session, {"type": "response.create", "model": "gpt-4", "input": "x" * 100_000})
            assert (await hear(session))["type"] == "response.created"
    (request,) = up.requests
    assert request.path == "/v1/responses?a=1"
    assert request.headers["Authorization"] == "Bearer sk-upstream-a"
    assert request.headers["OpenAI-Beta"] == "responses_websockets=2026-02-06"
    assert "Sec-WebSocket-Extensions" not in request.headers
    assert len(model.heard) == 1


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ("Version: 13", "Version: 8", 426),
        ("Key: dGhlIHNhbXBsZSBub25jZQ==", "Key: c2hvcnQ=", 400),
        ("Key: dGhlIHNhbXBsZSBub25jZQ==", "Key: ***", 400),
        (f"Bearer {KEY}", "Bearer no", 401),
    ],
)
async def test_a_handshake_that_is_wrong_is_answered_as_a_request(
    up: SocketUpstream, old: str, new: str, status: int
) -> None:
    async with proxy_before(up) as proxy:
        answer = await proxy.exchange(upgrade(PATH).replace(old.encode(), new.encode()))
    assert answer.startswith(b"HTTP/1.1 %d " % status)


async def test_a_plain_get_of_responses_is_none_of_this(scripted: ScriptedUpstream) -> None:
    scripted.says(OK)
    async with proxy_before(scripted) as proxy:
        request = upgrade(PATH).replace(b"Upgrade: websocket\r\n", b"")
        assert (await proxy.exchange(request)).startswith(b"HTTP/1.1 200 ")


# The choice.


async def test_the_first_message_chooses_the_group(up: SocketUpstream, second: SocketUpstream) -> None:
    config = config_over(
        deployment("a", up.port), deployment("b", second.port, group="other", model="other-up", scope="b")
    )
    async with proxy_over(config) as proxy:
        async with session_with(proxy, PATH) as session:
            await event(session, {"type": "response.create", "model": "other"})
            assert (await hear(session))["response"]["model"] == "other-up"
            await event(
                session, {"type": "response.create", "model": "gpt-4"}
            )  # of the other group, but in this session
            await hear(session)
            assert (await hear(session))["response"]["model"] == "gpt-4"
        assert (await told(proxy)).group == "other"
    assert (len(up.requests), len(second.requests)) == (0, 1)


async def test_what_a_session_shows_is_known_before_the_client_knows_it(
    up: SocketUpstream, second: SocketUpstream
) -> None:
    members = [deployment(name, one.port, order=n) for n, (name, one) in enumerate({"a": up, "b": second}.items())]
    async with proxy_over(config_over(*members)) as proxy:
        up.refusals = [LIMITED]
        async with session_with(proxy, PATH) as session:
            await event(session, {"type": "response.create", "model": "gpt-4"})
            shown = (await hear(session))["response"]["id"]
            async with session_with(proxy, PATH) as later:
                await event(later, {"type": "response.create", "model": "gpt-4", "previous_response_id": shown})
                await hear(later)
        await told(proxy, 2)
        assert {(record.scope, record.reason) for record in proxy.records} == {("b", "model"), ("b", "resource")}  # type: ignore[attr-defined]
    assert (len(up.requests), len(second.requests)) == (1, 2)


async def test_an_id_that_nobody_has_seen_is_looked_for_before_the_session_is_opened(
    up: SocketUpstream, second: SocketUpstream
) -> None:
    missing = HTTPStatus.NOT_FOUND, '{"error":{"code":"not_found","message":"no such response"}}'
    up.refusals, second.refusals = [missing], [(HTTPStatus.OK, '{"id":"resp_of_before1"}')]
    async with proxy_before(up, second) as proxy:
        async with session_with(proxy, PATH) as session:
            create = {"type": "response.create", "model": "gpt-4", "previous_response_id": "resp_of_before1"}
            await event(session, create)
            assert (await hear(session))["type"] == "response.created"
        record = await told(proxy)
    assert (record.scope, record.deployment) == ("b", "b")
    looked = "/v1/responses/resp_of_before1"
    assert [one.path for one in up.requests] == [looked]
    assert [one.path for one in second.requests] == [looked, "/v1/responses"]


async def test_only_what_has_to_changes(up: SocketUpstream, model: Model) -> None:
    said = [
        '{ "input":"\\u00e9\\n", "model" :\t"gpt-4","type":"response.create" }',
        '{"type":"response.steer","model":"gpt-4"}',
    ]
    async with proxy_before(up, settings={"model": "m2"}) as proxy, session_with(proxy, PATH) as session:
        await session.send([said[0][:20], said[0][20:]])
        await hear(session)
        await session.send(said[1])
        await until(lambda: len(model.heard) == 2)
    assert model.heard == [said[0].replace('"gpt-4"', '"m2"'), said[1]]


async def test_a_message_that_is_longer_than_what_is_held_goes_on_in_fragments(
    up: SocketUpstream, model: Model
) -> None:
    message = json.dumps({"type": "response.create", "model": "gpt-4", "input": "x" * 300_000})
    limits = with_limits(inspection_bytes=1000)
    settings = {"model": "a-longer-name"}
    async with proxy_before(up, settings=settings, limits=limits) as proxy, session_with(proxy, PATH) as session:
        for _ in range(2):
            await session.send(message)
            await hear(session)
            await hear(session)
    assert model.heard == [message.replace("gpt-4", "a-longer-name")] * 2


# Refusals.


async def test_a_refusal_is_tried_elsewhere_first(up: SocketUpstream, second: SocketUpstream) -> None:
    up.refusals = [LIMITED]
    async with proxy_before(up, second) as proxy:
        async with session_with(proxy, PATH) as session:
            await event(session, {"type": "response.create", "model": "gpt-4"})
            assert (await hear(session))["type"] == "response.created"
        assert [one["status"] for one in (await told(proxy)).attempts] == [429, 101]


REFUSALS = [("429", LIMITED, 1013), ("404", NO_MODEL, 1008), ("503", (HTTPStatus.SERVICE_UNAVAILABLE, "oh"), 1013)]


@pytest.mark.parametrize(("answer", "code"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS])
async def test_the_upstreams_refusal_comes_as_an_event(
    up: SocketUpstream, answer: tuple[HTTPStatus, str], code: int
) -> None:
    up.refusals = [answer]
    async with proxy_before(up) as proxy:
        async with session_with(proxy, PATH) as session:
            await event(session, {"type": "response.create", "model": "gpt-4", "stream_id": "lane_1"})
            said, closed, _ = await refusal(session)
        record = await told(proxy)
    own = json.loads(answer[1])["error"] if answer[1] != "oh" else said["error"]
    assert said == {"status": answer[0], "error": own, "stream_id": "lane_1"}
    assert set(said["error"]) >= {"message", "type", "code"}
    assert closed == code
    assert (record.status, record.attempts[0]["status"]) == (answer[0], answer[0])


async def test_what_is_no_session_is_a_502(scripted: ScriptedUpstream) -> None:
    for answer in (OK, SWITCH.replace(b"s3p", b"xxx") + b"\r\n", SWITCH + b"Sec-WebSocket-Extensions: x\r\n\r\n"):
        scripted.script = [answer]
        async with proxy_before(scripted) as proxy, session_with(proxy, PATH) as session:
            await event(session, {"type": "response.create", "model": "gpt-4"})
            said, closed, _ = await refusal(session)
        assert (said["status"], said["error"]["code"], closed) == (502, "upstream_error", 1013)


OWN = [
    ("a model twice", '{"type":"response.create","model":"gpt-4","model":"gpt-5"}', 400, "ambiguous_body"),
    ("an unknown model", '{"type":"response.create","model":"nobody"}', 404, "model_not_found"),
]


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(("message", "status", "code"), [case[1:] for case in OWN], ids=[case[0] for case in OWN])
async def test_our_own_refusals_come_as_events_too(
    up: SocketUpstream, message: str, status: int, code: str, later: bool
) -> None:
    async with proxy_before(up, router=RouterSettings(unknown_model="reject")) as proxy:
        async with session_with(proxy, PATH) as session:
            if later:
                await event(session, {"type": "response.create", "model": "gpt-4"})
                await hear(session)
                await hear(session)
            await session.send(message)
            said, closed, reason = await refusal(session)
        record = await told(proxy)
        await until(lambda: up.over == int(later))
    assert (said["status"], said["error"]["code"], closed) == (status, code, 1008)
    assert reason.startswith(said["error"]["message"][:50])
    assert (record.status, record.outcome) == (status, code)


async def test_an_upstream_that_is_not_there(scripted: ScriptedUpstream) -> None:
    await scripted.close()
    async with proxy_before(scripted) as proxy, session_with(proxy, PATH) as session:
        await event(session, {"type": "response.create", "model": "gpt-4"})
        said, closed, _ = await refusal(session)
    assert (said["status"], closed) == (502, 1013)


@pytest.mark.parametrize("later", [False, True])
async def test_frames_that_break_the_protocol_close_the_session(up: SocketUpstream, later: bool) -> None:
    async with proxy_before(up) as proxy:
        _, reader, writer = await raw_session(proxy, upgrade(PATH))
        if later:
            writer.write(b"\x81\x9a\x00\x00\x00\x00" + b'{"type":"response.create"}')
            async with asyncio.timeout(PATIENCE):
                await reader.readuntil(b"completed")
                await reader.readuntil(b"}}}")
        writer.write(b"\x81\x02hi")  # not masked
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b"\x88\x20\x03\xeaa client's frame is not masked"
        writer.close()
        record = await told(proxy)
    assert (record.status, record.outcome) == (101, "protocol_error")


async def test_a_client_that_never_says_what_it_wants(up: SocketUpstream) -> None:
    async with proxy_before(up, timeouts=with_timeouts(stream_idle=0.1)) as proxy:
        async with session_with(proxy, PATH, ping_interval=None) as session:
            said, closed, _ = await refusal(session)
        record = await told(proxy)
    assert (said["status"], said["error"]["code"], closed) == (408, "request_timeout", 1013)
    assert (record.status, record.outcome) == (408, "request_timeout")


async def test_a_refusal_never_stands_within_what_the_upstream_says(scripted: ScriptedUpstream) -> None:
    async def begins(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCH + b"\r\n" + said)
        await asyncio.sleep(PATIENCE)

    scripted.says(begins)
    async with proxy_before(scripted) as proxy:
        for said, heard in ((b"\x01\x02hi", b"\x01\x02hi\x88\x4f\x03\xf0"), (b"\x81\x05hi", b"\x81\x05hi")):
            _, reader, writer = await raw_session(proxy, upgrade(PATH))
            frame = b"\x81\x82\x00\x00\x00\x00{}"
            writer.write(frame)
            async with asyncio.timeout(PATIENCE):
                first = await reader.readexactly(len(said))
                twice = b'{"model":"a","model":"b"}'
                writer.write(b"\x81%c\x00\x00\x00\x00" % (0x80 | len(twice)) + twice)
                rest = await reader.read()
            assert first + rest[: len(heard) - len(said)] == heard
            assert b"error" not in rest
            assert len(rest) in (0, 0x51)
            writer.close()


async def test_early_hints_have_no_place_in_a_session(scripted: ScriptedUpstream) -> None:
    scripted.says(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + SWITCH + b"\r\n\x81\x02hi")
    async with proxy_before(scripted) as proxy:
        _, reader, writer = await raw_session(proxy, upgrade(PATH))
        writer.write(b"\x81\x82\x00\x00\x00\x00{}")
        async with asyncio.timeout(PATIENCE):
            assert await reader.readexactly(4) == b"\x81\x02hi"
        writer.close()


# How it ends.


@pytest.mark.parametrize("said", [b"", b"\x81\xff"])
async def test_a_client_that_leaves_before_it_says_what_it_wants(up: SocketUpstream, said: bytes) -> None:
    async with proxy_before(up) as proxy:
        _, _, writer = await raw_session(proxy, upgrade(PATH))
        writer.write(said)
        writer.close()
        assert (await told(proxy)).outcome == "client_gone"
    assert not up.requests


async def test_both_sides_end_together(up: SocketUpstream, model: Model) -> None:
    async with proxy_before(up) as proxy:
        for end in ("client", "upstream"):
            async with session_with(proxy, PATH) as session:
                await event(session, {"type": "response.create", "model": "gpt-4"})
                await hear(session)
                await hear(session)
                ends = session if end == "client" else up.sessions[-1]
                ends.transport.abort()
                with pytest.raises(ConnectionClosedError):
                    await asyncio.wait_for(session.recv(), PATIENCE)
            await until(lambda: up.over == len(up.sessions))
        assert (await told(proxy, 2)).status == 101


async def test_a_drain_lets_the_session_finish_and_cuts_it_in_the_end(up: SocketUpstream) -> None:
    async with proxy_before(up, timeouts=Timeouts(drain=0.5)) as proxy:
        async with session_with(proxy, PATH) as session:
            await event(session, {"type": "response.create", "model": "gpt-4"})
            await hear(session)
            draining = asyncio.create_task(proxy.worker.drain())
            await until(lambda: proxy.worker.draining)
            await event(session, {"type": "response.create", "model": "gpt-4"})
            assert (await hear(session))["type"] == "response.completed"
            assert (await hear(session))["type"] == "response.created"
            await asyncio.wait_for(draining, PATIENCE)
            with pytest.raises(ConnectionClosedError):
                await hear_all(session)
        assert (await told(proxy)).outcome == "drained"


async def test_a_key_of_no_use_is_refused_before_the_101(up: SocketUpstream) -> None:
    async with proxy_before(up) as proxy:
        with pytest.raises(InvalidStatus) as caught:
            async with session_with(proxy, PATH, fields={"Authorization": "Bearer ek_1"}):
                pass
    assert caught.value.response.status_code == 401
