"""The demo upstream: real sockets, real keys, and a memory of what was heard."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote

import h11

from . import routes
from .connection import Connection
from .heard import MOUNT, Heard
from .messages import MALFORMED, Answer, APIError, Call, encode, malformed
from .projects import MODELS, Project, World
from .script import KeySwitches, Script, take
from .wording import compress, date, identity, rate_limited, read_json, wrong_key

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from .bodies import Blob, Form
    from .heard import Outcome
    from .messages import JSON, Fields
    from .script import Fault, Place

REQUEST_MOST = 8 << 30  # bytes of content before a 413


class DemoUpstream:
    """A fake OpenAI. ``projects`` maps API keys to project names; two keys of one project see the same things.

    ``pace`` seconds pass between the events of a stream (0 in tests). ``gzip`` compresses answers for clients that
    accept it. ``models`` adds names that everyone may use. ``rng`` and ``clock`` (seconds, never backwards) make ids
    and times repeatable. ``heard`` is how many requests ``requests`` remembers.
    """

    def __init__(
        self,
        projects: Mapping[str, str],
        *,
        pace: float = 0.03,
        models: Iterable[str] = (),
        gzip: bool = False,
        keep_alive: float = 75.0,
        request_most: int = REQUEST_MOST,
        heard: int = 200,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.world = World(rng or random.Random(), clock, pace, frozenset(MODELS) | frozenset(models))  # noqa: S311 ids, not secrets
        self.projects = {name: Project(name, self.world) for name in projects.values()}
        self.requests: deque[Heard] = deque(maxlen=heard)
        self.scripts: list[Script] = []
        self.keep_alive = keep_alive
        self.base_url = ""
        self._keys = {key: self.projects[name] for key, name in projects.items()}
        self._switches: dict[str, KeySwitches] = {}
        self._routes = routes.all_routes()
        self._gzip = gzip
        self._request_most = request_most
        self._server: asyncio.Server | None = None
        self._unix: Path | None = None
        self._connections: set[Connection] = set()
        self._number = 0
        self._waiters: list[asyncio.Future[Heard]] = []

    @property
    def pace(self) -> float:
        """Seconds between the events of a stream; may be set at any time."""
        return self.world.pace

    @pace.setter
    def pace(self, seconds: float) -> None:
        self.world.pace = seconds

    # For whoever runs it.

    async def start(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl: tls.SSLContext | None = None,
        unix: Path | None = None,
    ) -> int:
        """Listen; gives the port (0 for a unix socket). ``base_url`` is then what an SDK wants."""
        loop = asyncio.get_running_loop()
        if unix is not None:
            self._unix = unix
            self._server = await loop.create_unix_server(self._connect, unix, ssl=ssl)
            self.base_url = f"http://unix:{unix}:{MOUNT}"
            return 0
        self._server = await loop.create_server(self._connect, host, port, ssl=ssl, backlog=2048)
        bound: int = self._server.sockets[0].getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        self.base_url = f"{'https' if ssl else 'http'}://{name}:{bound}{MOUNT}"
        return bound

    async def close(self) -> None:
        """Stop listening, cut every connection, and wait until nothing of it is left."""
        if self._server is None:
            return
        self._server.close()
        for waiter in self._waiters:
            waiter.cancel()
        tasks = [connection.task for connection in self._connections if connection.task is not None]
        for connection in list(self._connections):
            connection.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None
        if self._unix is not None:
            self._unix.unlink(missing_ok=True)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    # For tests: what happens to whom.

    def key(self, key: str) -> KeySwitches:
        """The switches of one key: ``demo.key("sk-a").limited = 2``."""
        return self._switches.setdefault(key, KeySwitches())

    def switches(self, key: str) -> KeySwitches:
        """The switches of a key that was heard, which are remembered only for keys that were given any."""
        return self._switches.get(key) or KeySwitches()

    def script(
        self,
        status: int | None = None,
        fields: Fields | None = None,
        body: bytes | JSON = b"",
        *,
        raw: bytes | None = None,
        fault: Fault | None = None,
        place: Place = "before",
        count: int = 0,
        delay: float = 0.0,
        key: str | None = None,
        method: str | None = None,
        path: str | None = None,
        times: int | None = 1,
    ) -> Script:
        """Script what the next requests get (see :class:`Script`); a mapping as ``body`` goes out as JSON."""
        content = encode(body) if isinstance(body, dict) else body
        script = Script(
            status, fields or [], content, raw, fault, place, count, delay, key, method, path, times
        )  # fmt: skip
        self.scripts.append(script)
        return script

    async def next_heard(self) -> Heard:
        """Wait for the next request whose head arrives; its ``over`` is set when its exchange is."""
        waiter: asyncio.Future[Heard] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return await waiter

    # For connections.

    def _connect(self) -> Connection:
        self._number += 1
        return Connection(self, self._number)

    def opened(self, connection: Connection) -> None:
        """A connection is there."""
        self._connections.add(connection)

    def closed(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)

    def hear(self, request: h11.Request, connection: int) -> Heard:
        """Write down a request's head, and find out who it is and what is scripted for it."""
        heard = Heard(
            request.method.decode(),
            request.target.decode("latin-1"),
            [(bytes(name), bytes(value)) for name, value in request.headers.raw_items()],
            request.http_version,
            connection,
            self.world.clock(),
        )
        scheme, _, key = heard.value(b"authorization").decode("latin-1").partition(" ")
        heard.key = key.strip() if scheme.lower() == "bearer" else ""
        project = self._keys.get(heard.key)
        heard.project = project.name if project is not None else None
        self.requests.append(heard)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(heard)
        self._waiters.clear()
        heard.script = take(self.scripts, heard.key, heard.method, heard.path)
        return heard

    def refuse(self, heard: Heard) -> Answer | None:
        """What can be refused by the head alone: a wrong key, a wrong path, too much content."""
        try:
            self._project(heard)
            if not heard.target.startswith(MOUNT + "/"):
                raise APIError(
                    404, f"Invalid URL ({heard.method} {heard.target.partition('?')[0]})", code="unknown_url"
                )
            routes.find(self._routes, heard.method, heard.path)
            self.check_size(int(heard.value(b"content-length") or 0))
        except APIError as error:
            return error.answer()
        return None

    def check_size(self, size: int) -> None:
        """Raise the 413 for more content than is taken."""
        if size > self._request_most:
            raise APIError(413, f"Maximum content size limit ({self._request_most}) exceeded.")

    def settle(self, heard: Heard, outcome: Outcome) -> None:
        """An exchange is over, one way or another; what is said first counts."""
        if heard.over.is_set():
            return
        heard.outcome, heard.ended = outcome, self.world.clock()
        heard.over.set()

    def answer(self, heard: Heard, content: tuple[Blob, Form | None]) -> Answer:
        """The answer to a request that was read whole."""
        script = heard.script
        if script is not None and script.status is not None:
            return Answer(script.status, script.body, list(script.fields))
        if script is not None and script.raw is not None:
            return Answer()
        limits: Fields = []
        try:
            call, handler = self._call(heard, *content)
            limits = self._count(heard, call)
            answer = handler(call)
        except APIError as error:
            answer = error.answer()
        except MALFORMED as error:
            answer = malformed(error).answer()
        if not isinstance(answer, Answer):
            answer = Answer(body=encode(answer))
        answer.fields += limits
        answer.fields += identity(self._keys.get(heard.key))
        if self._gzip and b"gzip" in heard.value(b"accept-encoding"):
            compress(answer)
        return answer

    def head(self, answer: Answer) -> h11.Response:
        """The head of an answer: its own field lines after those that every answer has."""
        names = {name.lower() for name, _ in answer.fields}
        fields: Fields = [(b"Date", date())]
        if b"content-type" not in names and (answer.body or answer.stream is not None):
            fields.append((b"Content-Type", answer.content_type))
        if not names & {b"content-length", b"transfer-encoding"} and answer.status not in (204, 304):
            length = answer.length if answer.stream is not None else len(answer.body)
            if length is not None:
                fields.append((b"Content-Length", b"%d" % length))
        fields.append((b"x-request-id", self.world.mint("request").encode()))
        return h11.Response(status_code=answer.status, headers=fields + answer.fields)

    # Who, what, how often.

    def _project(self, heard: Heard) -> Project:
        project = self._keys.get(heard.key)
        if project is None and "/realtime" in heard.path:
            project = self.world.secrets.get(heard.key)
        if project is None or self.switches(heard.key).dead:
            raise wrong_key(heard.key)
        return project

    def _call(self, heard: Heard, content: Blob, form: Form | None) -> tuple[Call, Callable[[Call], Answer | JSON]]:
        project = self._project(heard)
        match = routes.find(self._routes, heard.method, heard.path)
        if heard.form_error is not None or (form is not None and not form.complete):
            raise heard.form_error or APIError(400, "Could not parse multipart form")
        project.tick()
        query = parse_qs(heard.target.partition("?")[2], keep_blank_values=True)
        things = match.look_up(project)
        call = Call(
            heard.method, unquote(heard.path), match.args, things, query, heard.fields, project, self.world,
            content, read_json(heard, content) if form is None else {}, form,
        )  # fmt: skip
        return call, match.handler

    def _count(self, heard: Heard, call: Call) -> Fields:
        """Count the request against what its key may do. Gives the ``x-ratelimit-*`` field lines."""
        switches = self.switches(heard.key)
        if switches.broke:
            message = "You exceeded your current quota, please check your plan and billing details."
            raise APIError(429, message, type="insufficient_quota", code="insufficient_quota")
        model = str(call.body.get("model", ""))
        limits: Fields = []
        wait = switches.limited or 0.0
        if switches.quota is not None and model:
            tokens = heard.length // 4 + int(call.body.get("max_tokens") or 16)
            limits, refused = switches.quota.take(model, tokens, self.world.clock())
            wait = max(wait, refused)
        if wait:
            raise rate_limited(model, call.project, wait, limits)
        return limits
