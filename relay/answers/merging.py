"""Lists of several scopes as one (SPEC §5 "Merged lists", ``affinity.merge_lists``).

The union over all scopes in the API's own order: by creation, those of one moment by the name of their scope. A page
ends with an id, and that is all that a client keeps; so the next page's place is found by that id alone. In the scope
that the id lives in the API knows it; in the others it is where what was made later ends, which is read up to, unless
the page before left word of how far it had come (in memory: after a restart it is read again).

A list is whole or an error: a scope that does not answer makes it a 503.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ..bounded import Bounded
from ..choosing.outcomes import Kind
from ..errors import AllOut, Unavailable, UpstreamFailure
from ..record.inflate import CODINGS, Inflater
from ..requests.classification import Request, find_model_in_target
from ..requests.targets import Target
from ..scopes.learning import Learner
from ..subjects.resources import retrieve_path
from ..values import Value
from .listings import Item, Listing, Wish, moment_of, read_listing, write_listing
from .pages import JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from ..choosing.route import Route
    from ..config import Client
    from ..reach.upstream import UpstreamResponse
    from ..requests.downstream import Exchange
    from ..scopes.affinity import AffinityStore
    from ..scopes.naming import Naming
    from ..scopes.pinning import Pinning
    from ..subjects.subject import Resource
    from ..wire.heads import ResponseHead

MOST_PLACES = 4096  # pages whose end is remembered
LARGEST_PAGE = 64 << 20  # bytes; 10,000 files are some 3 MB
PAGE_SECONDS = 60.0
FAILURES = frozenset({401, 403, 429})  # of a key: the list of its scope cannot be had
NOT_THERE = frozenset({404, 405, 501})  # of a list without a cursor: an upstream that does not have it
SMALL_PAGE = 64 << 10  # bytes; larger ones are taken apart beside the loop
TURN = 500  # items that are put together in one turn of the loop
PLAIN = frozenset({b"", b"identity"})


class Refused(Exception):
    """The API itself has something to say about this request: an error that is the client's."""


class NotThere(Exception):
    """An upstream does not have what was asked for."""


class Asked(Protocol):
    """What a client asks for: ``passthrough.Passage``."""

    exchange: Exchange
    request: Request
    client: Client
    naming: Naming
    route: Route


# Sends a request to one scope; the response lasts as long as the context. Raises UpstreamFailure and AllOut.
Asker: TypeAlias = "Callable[[str, Request], AbstractAsyncContextManager[UpstreamResponse]]"


class Place(Value):
    """Where a page begins or ends: at which item, and how far each scope had been read by then."""

    id: str
    scope: str
    moment: float
    read: Mapping[str, str]  # scope -> the last item that stands before the place; not all may be there


class Merger:
    """Merges lists, for one worker."""

    def __init__(self, store: AffinityStore) -> None:
        self._store = store
        self._places: Bounded[tuple[object, ...], Place] = Bounded(MOST_PLACES)

    async def answer(self, asked: Asked, pinning: Pinning, ask: Asker) -> bool:
        """Answer with the lists of all scopes as one; False where the API's own answer is the right one.

        Raises Unavailable, which names the scope that is down.
        """
        exchange = asked.exchange
        if exchange.head.method != b"GET" or not self._concerns(asked.naming, pinning):
            return False
        query = (asked.request.target.query or b"").decode("latin-1")
        wish = Wish.read(asked.naming.subject.endpoint.template, query)
        if wish is None:
            return False
        try:
            content = await self._merge(Page(self._store, pinning, asked, wish, ask))
        except Refused:
            return False
        if content is not None:
            record = exchange.record
            record.reason, record.scope, record.outcome = "merged", None, Kind.OK.value
            fields = [(b"x-passthrough-attempts", b"%d" % len(record.attempts))]
            exchange.respond(200, JSON, content, fields)
        return content is not None

    @staticmethod
    def _concerns(naming: Naming, pinning: Pinning) -> bool:
        """Whether a request asks for a list that nothing but a cursor could pin."""
        subject = naming.subject
        kind = subject.endpoint.lists
        if kind is None or naming.asked is not None or len(pinning.projects) == 1:
            return False
        return all(one.kind == kind and one.place == "query" for one in subject.resources)

    async def _merge(self, page: Page) -> bytes | None:
        """The page, None where no scope has such a list. Raises Refused where a cursor is not there any more."""
        after = await self._place(page, page.wish.after)
        before = await self._place(page, page.wish.before)
        return await self._write(page, after, before)

    async def _place(self, page: Page, id: str | None) -> Place | None:  # noqa: A002
        """Where a cursor stands, None for none. Raises Refused for one that is not there."""
        known = None if id is None else self._places.get(page.key(id))
        if known is not None or id is None:
            return known
        asked, pinning = page.asked, page.pinning
        resource = next((one for one in asked.naming.subject.resources if one.id == id), None)
        if resource is None or retrieve_path(resource.kind, resource.id) is None:
            raise Refused
        scope = pinning.scope_of(resource)
        if scope is None and resource in asked.naming.unknown:
            scope = await pinning.find(asked.naming, resource, asked.route, asked.client.name)
        if scope is None:
            raise Refused
        return Place(id, scope, await page.moment(scope, resource), {scope: id})

    async def _write(self, page: Page, after: Place | None, before: Place | None) -> bytes | None:
        """Read from all scopes, and write what comes first.

        What stands before an item is read backwards, from there.
        """
        wish = page.wish
        sources = [
            Source(scope, rank, page, descending=wish.descending is not bool(before))
            for rank, scope in enumerate(sorted(page.pinning.projects, reverse=bool(before)))
        ]
        ranks = {source.scope: source.rank for source in sources}
        start, stop = (before, after) if before else (after, None)
        await each(source.open(start, ranks) for source in sources)
        others = next((source.others for source in sources if source.others), None)
        if others is None:
            return None
        taken, has_more = await self._take(page, distinct(page, sources), start, stop)
        if taken and not before:
            scope, last = taken[-1]
            read = {source.scope: source.read for source in sources if source.read is not None}
            self._places.made(page.key(last.id), lambda: Place(last.id, scope, last.moment, read))
        items = [item for _, item in taken]
        return write_listing(others, items[::-1] if before else items, has_more=has_more)

    async def _take(
        self, page: Page, sources: Sequence[Source], start: Place | None, stop: Place | None
    ) -> tuple[list[tuple[str, Item]], bool]:
        """What comes first of all sources, each once, with its scope; and whether more follow."""
        size = page.wish.size
        taken: list[tuple[str, Item]] = []
        seen = {start.id} if start else set()
        while True:
            dry = [source for source in sources if source.is_dry]
            full = len(taken) == size
            if dry and full:
                return taken, True
            if dry:
                await each(source.fill() for source in dry)
            elif len(taken) % TURN == TURN - 1:
                await asyncio.sleep(0)  # the loop is not held for as long as a large page takes
            ready = [source for source in sources if source.items]
            if not ready:
                return taken, False
            source = min(ready, key=Source.key)
            item = source.items[0]
            if stop and item.id == stop.id:
                return taken, False
            if full and item.id not in seen:
                return taken, True
            source.take()
            if item.id not in seen:
                seen.add(item.id)
                taken.append((source.scope, item))


class Page:
    """One page that a client asked for, and how it is asked for in each scope."""

    def __init__(self, store: AffinityStore, pinning: Pinning, asked: Asked, wish: Wish, ask: Asker) -> None:
        self._store = store
        self._subject = asked.naming.subject
        self._ask = ask
        self.pinning = pinning
        self.asked = asked
        self.wish = wish

    def key(self, id: str) -> tuple[object, ...]:  # noqa: A002
        """What a place in this list is remembered by."""
        return (self._subject.endpoint.template, self.wish.rest, self.wish.descending, id)

    async def moment(self, scope: str, resource: Resource) -> float:
        """When a cursor's item was made. Raises Refused where it is not there any more."""
        path = retrieve_path(resource.kind, resource.id) or ""
        try:
            head, content = await self._read(scope, path.encode(), None)
            return moment_of(json.loads(decoded(head, content)), self.wish.times)
        except NotThere:
            raise Refused from None
        except (ValueError, AttributeError):
            raise down(scope) from None

    async def listing(self, scope: str, after: str | None, size: int | None, *, descending: bool) -> Listing | None:
        """A scope's items behind ``after``; None where it has no such list."""
        query = self.wish.query(after=after, size=size, descending=descending) or None
        path = self.asked.request.target.path
        try:
            head, content = await self._read(scope, path, query)
            learner = Learner(self._store, self._subject, head, scope)
            if learner.watch is not None:
                learner.watch(content)
            learner.finish()
            if len(content) <= SMALL_PAGE:
                return read_listing(decoded(head, content), self.wish.times)
            return await asyncio.to_thread(lambda: read_listing(decoded(head, content), self.wish.times))
        except ValueError:
            raise down(scope) from None
        except NotThere:
            if after is None:
                return None
            raise Refused from None

    async def _read(self, scope: str, path: bytes, query: bytes | None) -> tuple[ResponseHead, bytes]:
        """A successful answer, as it came. Raises Unavailable, NotThere, Refused."""
        try:
            async with self._ask(scope, retarget(self.asked.request, path, query)) as response:
                status = response.head.status
                if status in FAILURES or status >= 500:  # noqa: PLR2004 - server errors
                    raise down(scope)
                if not 200 <= status < 300:  # noqa: PLR2004 - success
                    raise (NotThere if status in NOT_THERE else Refused)
                content = await response.read_content(LARGEST_PAGE, PAGE_SECONDS)
                if not response.complete:
                    raise down(scope)
                return response.head, content
        except (UpstreamFailure, AllOut):
            raise down(scope) from None


class Source:
    """One scope's list, read page by page in one direction."""

    def __init__(self, scope: str, rank: int, page: Page, *, descending: bool) -> None:
        self.scope = scope
        self.rank = rank  # among items of one moment
        self._page = page
        self._descending = descending
        self._sign = 0 if page.wish.size is None else -1 if descending else 1  # a list without pages has no order
        self._cursor: str | None = None  # the last item that was fetched
        self._moment = float("-inf")  # of the last item that was taken: times never run backwards
        self._more = True
        self.items: deque[Item] = deque()
        self.others: dict[str, str] | None = None
        self.read: str | None = None  # the last item that was taken

    @property
    def is_dry(self) -> bool:
        """Whether the next item has to be fetched."""
        return self._more and not self.items

    def key(self) -> tuple[float, int]:
        """Where the next item stands among those of all sources."""
        return max(self._sign * self.items[0].moment, self._moment), self.rank

    def take(self) -> Item:
        """The next item."""
        self._moment = self.key()[0]
        item = self.items.popleft()
        self.read = item.id
        return item

    async def open(self, place: Place | None, ranks: Mapping[str, int]) -> None:
        """Go to the first item behind ``place``, or of all."""
        size = self._page.wish.size
        if place is not None:
            self._cursor = self.read = place.read.get(self.scope)
            size = size if self._cursor else self._page.wish.habits.most
        try:
            await self.fill(size)
        except Refused:
            if place is None or self.scope == place.scope or self._cursor is None:
                raise
            self._cursor = self.read = None  # what had been read last was deleted since
            await self.fill(self._page.wish.habits.most)
        if place is not None:
            await self._skip((self._sign * place.moment, ranks.get(place.scope, -1)))

    async def _skip(self, until: tuple[float, int]) -> None:
        """Leave out what stands before ``until``, reading on where that is more than was fetched."""
        while self.items:
            while self.items and self.key() < until:
                self.take()
            if not self.is_dry:
                return
            await self.fill(self._page.wish.habits.most)

    async def fill(self, size: int | None = None) -> None:
        """Fetch what comes next."""
        wanted = size or self._page.wish.size
        listing = await self._page.listing(self.scope, self._cursor, wanted, descending=self._descending)
        if listing is None:
            self._more = False
            return
        self.others = self.others or listing.others
        self._more = listing.has_more and bool(listing.items) and listing.items[-1].id != self._cursor
        self.items.extend(listing.items)
        if listing.items:
            self._cursor = listing.items[-1].id


def distinct(page: Page, sources: Iterable[Source]) -> list[Source]:
    """The sources without those that show what another one shows: two keys of one project, as it turns out."""
    owners: dict[str, str] = {}
    kept = []
    for source in sources:
        twin = next((owners[item.id] for item in source.items if item.id in owners), None)
        if twin is None or page.wish.size is None or not page.pinning.note_same(twin, source.scope):
            kept.append(source)
            owners.update((item.id, source.scope) for item in source.items)
    return kept


async def each(steps: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Take all steps at once; the first error ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step, name="a scope's list")
    except BaseExceptionGroup as errors:
        raise next((one for one in errors.exceptions if isinstance(one, Unavailable)), errors.exceptions[0]) from None


def down(scope: str) -> Unavailable:
    """The error for a scope whose list cannot be had."""
    return Unavailable(f"The list cannot be whole: the scope '{scope}' does not answer as it should. Try again soon.")


def decoded(head: ResponseHead, content: bytes) -> bytes:
    """An answer's content without its coding. Raises ValueError where it cannot be read."""
    coding = head.get(b"content-encoding").strip().lower()
    if coding in PLAIN:
        return content
    if coding not in CODINGS:
        raise ValueError("a coding that nobody asked for")
    import zlib  # as the inflater itself: rare

    try:
        return b"".join(Inflater().feed(content))
    except zlib.error as error:
        raise ValueError("not what its coding says") from error


def retarget(request: Request, path: bytes, query: bytes | None) -> Request:
    """The same request for another target: a model that the query names is found again where it stands now."""
    text = (path.decode("latin-1"), (query or b"").decode("latin-1"))
    _, place = find_model_in_target(request.subject.endpoint, *text)
    return Request(Target(path, query), request.body, request.subject, place)
