"""An OpenAI pass-through proxy over a pool of keys: ``python passthrough.py config.yaml``.

The front door: the command line, one worker's life, and the story of one exchange (``Worker.handle_exchange``). Who
gets a request is decided in ``router``; everything that touches bytes, sockets and files lives in ``relay``.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # until `start`: what is imported stays, and sixty looks for garbage in it were a twentieth of a start

import asyncio
import logging
import random
import time
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from relay.answers import pages
from relay.answers.delivery import deliver, pass_interim
from relay.answers.ephemeral import admit
from relay.answers.outgoing import check_switch, request_lines
from relay.answers.recording import Recorder
from relay.answers.relaying import BrokenResponse
from relay.choosing.outcomes import LONGEST_BODY, WORDS, Kind, Outcome, judge_answer, of_client_key, signals_in
from relay.errors import (
    AllOut,
    ClientGone,
    ProxyError,
    Unavailable,
    UpstreamFailure,
    UpstreamTimeout,
)
from relay.process.clients import Clients
from relay.process.command import make_parser
from relay.process.starting import start
from relay.reach.outbound import OutboundProxies
from relay.reach.upstream import MalformedAnswer, StaleConnection, UpstreamResponse, open_pool
from relay.record.gauges import alone, snapshot
from relay.record.metrics import exposition
from relay.requests.classification import Request, classify
from relay.requests.downstream import Exchange
from relay.requests.targets import target_of
from relay.scopes.affinity import AffinityStore
from relay.scopes.pinning import Errand, Pinning
from relay.values import Value
from relay.wire.handshake import SWITCHING
from router import FAIL, OK, REDIAL, RELAY, Attempt, Route, Router, Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence

    from relay.answers.merging import Merger
    from relay.answers.responses_socket import ResponsesSocket
    from relay.config import Client, Config
    from relay.record.lines import Attempt as Row
    from relay.scopes.naming import Naming
    from relay.subjects.subject import Subject
    from relay.wire.http1 import HTTP1Connection

SERVER_LOG = logging.getLogger("passthrough.server")
UPSTREAM_LOG = logging.getLogger("passthrough.upstream")
ERROR_SECONDS = 5.0  # how long the content of an error may take; its status is known already
ERRORS_WITH_A_CODE = frozenset({401, 403, 429})  # of which the code decides what they mean (SPEC §7)
ERRORS = 400  # from here on nobody wants the rest of the request
SERVER_ERRORS = 500  # from here on an answer may be kept while another deployment is asked


class Brain(Value):
    """What decides, by one configuration: an exchange ends with the one that it began with (SPEC §14)."""

    router: Router
    pinning: Pinning


class Passage:
    """One exchange on its way: what was asked, where it may go, which answers came."""

    def __init__(
        self, exchange: Exchange, request: Request, client: Client, brain: Brain, naming: Naming, route: Route
    ) -> None:
        self.exchange = exchange
        self.request = request
        self.client = client
        self.brain = brain
        self.naming = naming
        self.route = route
        self.routes: list[Route] = []  # that were asked along: more than one where ids are looked for
        self.responses: dict[Attempt, UpstreamResponse] = {}
        self.rows: dict[Attempt, Row] = {}  # of the record
        self.socket: ResponsesSocket | None = None  # where the client has heard our own 101 already
        self.error: UpstreamFailure | None = None  # why the last attempt had no answer


class Worker:
    """One process's share of the proxy: a loop, a pool, a router, and the exchanges under way."""

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        self.config = config
        self.draining = False
        self._environ = environ
        self.recorder = Recorder(config.logging)
        self.pool = open_pool(config, environ)
        self.affinity = AffinityStore.open(config.affinity, time.time())
        self._merger: Merger | None = None
        router = Router(config, random.Random())  # noqa: S311 - it spreads load, it keeps no secret
        self.brain = Brain(router, Pinning(router, self.affinity, self.pool, config.deployments))
        self.in_flight: dict[str, int] = {}
        self.gather: Callable[[dict[str, Any]], Awaitable[list[dict[str, Any]]]] = alone
        self.dropped: Callable[[], int] = int  # records of the log
        self._clients = Clients(self)

    # The story of one exchange.

    async def handle_exchange(self, exchange: Exchange) -> None:
        """Carry one request to a deployment and its response back; whatever happens, leave one record."""
        self.recorder.begin(exchange)
        try:
            with exchange.leaving:
                await self._carry(exchange)
        except ClientGone:
            self.recorder.client_gone(exchange)
            exchange.connection.abort()
        except ProxyError as error:
            self._answer_error(exchange, error)
        except asyncio.CancelledError:
            self.recorder.drained(exchange)
            exchange.connection.cut()
            raise
        except Exception:  # noqa: BLE001
            SERVER_LOG.exception("exchange %s failed by a fault of the proxy", exchange.id)
            self._answer_error(exchange, ProxyError("The proxy itself failed; its log says why."))
        finally:
            exchange.record.bytes_in = exchange.body.count
            self.recorder.settle(exchange)

    async def _carry(self, exchange: Exchange) -> None:
        head, config, brain = exchange.head, exchange.config, self.brain
        target = target_of(head, allow_admin=config.listener.allow_admin)
        if target is None:
            await pages.serve(exchange, self._is_ready, self._metrics)
            return
        client, key = admit(head, target, config, brain.pinning.maker_of)
        exchange.record.client = client.name
        exchange.body.check_size(exchange.body.length or 0)
        request = await classify(head, target, exchange.body, config)
        if key is not None:
            request.secret, request.subject.scope = key
        if request.in_first_frame:
            from relay.answers.responses_socket import (
                converse,  # loaded with the first such session, not at every start
            )

            await converse(exchange, request, partial(self._answer, exchange, request, client, brain))
        else:
            await self._answer(exchange, request, client, brain)

    async def _answer(
        self, exchange: Exchange, request: Request, client: Client, brain: Brain, socket: ResponsesSocket | None = None
    ) -> None:
        """Find out where a classified request may go, and bring the answer back."""
        naming, route = await self._resolve(exchange, request.subject, client, brain)
        passage = Passage(exchange, request, client, brain, naming, route)
        passage.socket = socket
        group = passage.route.group.name
        self.in_flight[group] = self.in_flight.get(group, 0) + 1
        try:
            if not (exchange.config.affinity.merge_lists and await self._merge(passage)):
                await self._relay(passage, await self._open_response(passage))
        finally:
            self.in_flight[group] -= 1
            self._release(passage)

    async def _merge(self, passage: Passage) -> bool:
        """Answer a list with the union of all scopes, where the request asks for one; whether that was done."""
        if self._merger is None:
            from relay.answers.merging import Merger  # loaded where the file asks for merged lists, not at every start

            self._merger = Merger(self.affinity)
        return await self._merger.answer(passage, passage.brain.pinning, partial(self._asked, passage))

    async def _resolve(
        self, exchange: Exchange, subject: Subject, client: Client, brain: Brain
    ) -> tuple[Naming, Route]:
        """Names decide the group, resources restrict the scope; a scope that has to be asked first is asked."""
        naming = brain.pinning.read(subject)
        route = self._route(exchange, subject, client, naming.scope, brain.router)
        if naming.is_open():
            await brain.pinning.locate(naming, route, client.name)
            route = self._route(exchange, subject, client, naming.scope, brain.router)
        return naming, route

    def _route(self, exchange: Exchange, subject: Subject, client: Client, scope: str | None, router: Router) -> Route:
        record = exchange.record
        record.endpoint, record.model = subject.endpoint.template, subject.model
        router.unite(self.affinity.unions)
        homed = subject.endpoint.stored and self.affinity.has_workspace(client.name, subject.session, time.time())
        since = exchange.body.waits_since(exchange.started)
        route = router.resolve(subject, client.name, scope=scope, started=since, homed=homed)
        record.group, record.reason, record.scope = route.group.name, route.reason, route.scope
        return route

    async def _open_response(self, passage: Passage) -> UpstreamResponse:
        """Ask where the request belongs, and the other scopes too where what it names is not known."""
        if passage.naming.has_ids():
            errand = Errand(partial(self._ask_along, passage), lambda: passage.exchange.body.replayable)
            pinning, client = passage.brain.pinning, passage.client.name
            passage.route = await pinning.pursue(passage.naming, passage.route, client, errand)
            passage.exchange.record.reason = passage.route.reason
        else:
            await self._ask_along(passage, passage.route)
        answer = passage.route.answer
        assert answer is not None
        if len(passage.rows) > 1:
            self._release(passage, answer)  # the others are not held for as long as a stream may take
        return passage.responses[answer]

    @asynccontextmanager
    async def _asked(self, passage: Passage, scope: str, request: Request) -> AsyncIterator[UpstreamResponse]:
        """The answer of one scope to a request beside that of the client."""
        beside = Passage(passage.exchange, request, passage.client, passage.brain, passage.naming, passage.route)
        try:
            await self._ask_along(beside, passage.brain.router.within(passage.route, scope))
            assert beside.route.answer is not None
            yield beside.responses[beside.route.answer]
        finally:
            self._release(beside)

    async def _ask_along(self, passage: Passage, route: Route) -> None:
        """Ask one deployment after the other until an answer is worth relaying: ``route.answer``."""
        router = passage.brain.router
        passage.route = route
        passage.routes.append(route)
        while True:
            now = monotonic()
            try:
                attempt = router.begin(route, router.select(route, now), now)
            except AllOut:
                if router.give_up(route) is RELAY:  # somebody took the last place since the RETRY
                    return
                raise
            verdict = await self._attempt(passage, attempt, fresh=False)
            while verdict is REDIAL:
                verdict = await self._attempt(passage, attempt, fresh=True)
            if verdict is RELAY:
                return
            if verdict is FAIL:
                raise passage.error or Unavailable("No deployment answered.")
            router.end(attempt)

    async def _attempt(self, passage: Passage, attempt: Attempt, *, fresh: bool) -> Verdict:
        """One try at one deployment, and what to do about its outcome."""
        began = monotonic() if fresh else attempt.started
        passage.error = None
        row = passage.rows[attempt] = self.recorder.attempt(passage.exchange, attempt.deployment.id)
        try:
            outcome = await self._ask(passage, attempt, fresh=fresh)
        except UpstreamFailure as error:
            passage.error = error
            outcome = self._outcome_of(error, passage, attempt)
            UPSTREAM_LOG.warning("deployment %s: %s", attempt.deployment.id, error.detail)
        finally:
            now = monotonic()
            row["ms"] = (now - began) * 1000
        row["outcome"], row["status"] = WORDS[outcome.kind], outcome.status
        passage.brain.router.record(attempt, outcome, now)
        body = passage.exchange.body
        if outcome.kind is not OK:  # there may be another attempt, within what is left of the client's patience
            attempt.route.wait_since(body.waits_since(passage.exchange.started))
        return passage.brain.router.judge(attempt, now, replayable=body.replayable)

    def _outcome_of(self, error: UpstreamFailure, passage: Passage, attempt: Attempt) -> Outcome:
        """What an attempt without an answer counts as."""
        if isinstance(error, StaleConnection):
            return Outcome(Kind.STALE, sent=error.sent)
        if isinstance(error, UpstreamTimeout):
            return passage.brain.router.late(attempt, monotonic(), sent=error.sent)
        if not error.sent:
            return Outcome(Kind.CONNECT_FAILED, sent=False)
        return Outcome(Kind.BAD_ANSWER if isinstance(error, MalformedAnswer) else Kind.RESET)

    async def _ask(self, passage: Passage, attempt: Attempt, *, fresh: bool) -> Outcome:
        """Send the request to the attempt's deployment and wait for the head of its answer. Raises UpstreamFailure."""
        exchange, request, deployment = passage.exchange, passage.request, attempt.deployment
        upstream = await self.pool.lease(deployment, fresh=fresh, until=attempt.route.deadline)
        try:
            model = passage.route.upstream_model(deployment)
            request.rewrite_body(model)
            lines = request_lines(upstream.approach, exchange, request)
            target = request.target_for(deployment.base.path, model)
            upstream.send_request(exchange.head, target, exchange.body, lines)
            asked = attempt.started if upstream.reused else monotonic()  # a dial has taken its time
            timeout = passage.brain.router.head_timeout(attempt, asked)
            head = await upstream.response_head(timeout, lambda interim: pass_interim(exchange, interim))
            if head.status == SWITCHING:
                check_switch(exchange, request, head)
        except BaseException:
            upstream.release()
            raise
        response = passage.responses[attempt] = UpstreamResponse(head, upstream)
        if head.status >= ERRORS:
            await upstream.stop_upload()
        content = None
        status = head.status
        if status in ERRORS_WITH_A_CODE or status >= SERVER_ERRORS or passage.naming.is_read(status):
            content = await response.read_content(LONGEST_BODY, ERROR_SECONDS)
        signals = signals_in(head.layout.names, head.values, head.layout.memo)
        outcome = judge_answer(status, signals, content, time.time() if signals else 0.0)
        return outcome if request.secret is None else of_client_key(outcome)

    async def _relay(self, passage: Passage, response: UpstreamResponse) -> None:
        """Commit, and move the content while it is watched."""
        exchange, attempt = passage.exchange, passage.route.answer
        assert attempt is not None
        self.recorder.answered(exchange, attempt.deployment, attempt.outcome, response.head)
        try:
            await deliver(passage, response, self.affinity, passage.brain.router, self.recorder.used)
        except BrokenResponse as error:
            self._note_break(passage, attempt, error)

    def _note_break(self, passage: Passage, attempt: Attempt, error: BrokenResponse) -> None:
        """A response broke off after its first byte. Whose fault that was is told by ``error.cause``."""
        if error.cause is not None:
            self.recorder.failed(passage.exchange, error.cause)
            return
        passage.brain.router.record(attempt, Outcome(Kind.BROKEN), monotonic())
        self.recorder.broken(passage.exchange, passage.rows[attempt], error)
        UPSTREAM_LOG.warning("deployment %s: %s", attempt.deployment.id, error.detail)

    def _release(self, passage: Passage, but: Attempt | None = None) -> None:
        """Give back every connection and end every attempt: on every path, and earlier all ``but`` the answer's."""
        for attempt, response in passage.responses.items():
            if attempt is not but:
                response.upstream.release()
        for route in passage.routes:
            passage.brain.router.close(route, but)
        passage.error = None  # its traceback knows the passage: nothing is left for the collector

    def _answer_error(self, exchange: Exchange, error: ProxyError) -> None:
        """Our own answer, unless a response has begun already: then only its connection can say that it is broken."""
        self.recorder.failed(exchange, error)
        if exchange.committed:
            exchange.connection.cut()
        else:
            exchange.answer(error)

    def refuse(self, exchange: Exchange, error: ProxyError) -> None:
        """Answer a head that could not be read."""
        self._answer_error(exchange, error)
        self.recorder.settle(exchange)

    def _is_ready(self) -> bool:
        return not self.draining and self.brain.router.available(monotonic())

    async def _metrics(self) -> bytes:
        """The text of all workers' metrics."""
        return exposition(await self.gather(self.snapshot()))

    def snapshot(self) -> dict[str, Any]:
        """The metrics of this worker, its gauges brought up to date."""
        self.recorder.flush()
        counts = self.affinity.count(), self.dropped()
        return snapshot(self.recorder.metrics, self.brain.router, self.in_flight, *counts, monotonic())

    # Life.

    def accept(self, connection: HTTP1Connection) -> None:
        """Serve a connection in a task of its own, or turn it away where there are too many."""
        if len(self._clients) < self.config.limits.connections:
            self._clients.serve(connection)
            return
        exchange = Exchange(connection, self)
        exchange.is_last = True
        self.refuse(exchange, Unavailable("Too many connections; try again in a moment."))
        connection.close()

    def reload(self, config: Config) -> None:
        """Go on with another configuration; what has not changed keeps its health and its connections.

        Raises ConfigError for files that cannot be used; then nothing has changed.
        """
        open_pool(config, self._environ).close()  # all that the new one will need is there
        self.pool.reconfigure(config, OutboundProxies(self._environ))
        router = self.brain.router.reloaded(config)
        self.brain = Brain(router, Pinning(router, self.affinity, self.pool, config.deployments))
        self.config = config

    async def drain(self, welcoming: Collection[asyncio.Task[None]] = ()) -> None:
        """Let exchanges under way finish, for as long as ``timeouts.drain`` says; then cut what is left."""
        self.draining = True
        await self._clients.drain(self.config.timeouts.drain, welcoming)
        self.pool.close()
        self.affinity.close()
        self.recorder.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status of SPEC §2."""
    return start(make_parser().parse_args(argv), Worker, lambda config: Router(config, random.Random()))  # noqa: S311


if __name__ == "__main__":
    raise SystemExit(main())
