"""Which scope owns what a request names: known ids, conflicts, and the search for ids that nobody has seen (SPEC §5).

The story asks three times: ``read`` looks up what is known and waits for nothing; ``locate`` asks scopes before the
request is sent, where that has to be; ``pursue`` sends it, and to the other scopes too where the first does not know
what it names. Whom a scope's requests go to is the router's to say.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..bounded import Bounded
from ..errors import AllOut, ProxyError, Unavailable, UpstreamFailure
from ..subjects.resources import HINT, SECRET, retrieve_path
from .looking import LOOK_SECONDS, Allowance, Sighting, doubt_about, look, sighting_of
from .naming import Naming, conflict, is_miss
from .projects import Projects

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from ..choosing.route import Route
    from ..choosing.tally import Brake
    from ..config import Deployment
    from ..reach.upstream import UpstreamPool
    from ..subjects.subject import Resource, Subject
    from .affinity import AffinityStore
    from .looking import Search

MINUTE = 60.0  # what a look has shown holds that long, as a miss does
MOST_LOOKS = 4096
MOST_SOUGHT = 8  # ids of one body that are looked for one after the other, while the client waits


class Chooser(Protocol):
    """What this room asks of the router."""

    brake: Brake
    scopes: tuple[str, ...]

    def home_scopes(self, client: str, session: str | None) -> tuple[str, ...]: ...  # noqa: D102 - as there
    def within(self, route: Route, scope: str) -> Route: ...  # noqa: D102
    def select(self, route: Route, now: float) -> Deployment: ...  # noqa: D102


class Errand(NamedTuple):
    """A request that can be sent along a route."""

    ask: Callable[[Route], Awaitable[None]]  # leaves its answer in ``route.answer``; raises ProxyError where none comes
    can_repeat: Callable[[], bool]


class Pinning:
    """Finds the scope of requests, for one worker."""

    def __init__(
        self, router: Chooser, store: AffinityStore, pool: UpstreamPool, deployments: Sequence[Deployment]
    ) -> None:
        self._router = router
        self._store = store
        self._pool = pool
        self._projects = Projects(store, deployments)
        self._allowance = Allowance(router.brake)
        self._apart: Bounded[tuple[str, str], float] = Bounded(MOST_LOOKS)  # pairs of scopes, and when they were asked
        self._present: Bounded[tuple[str, str], float] = Bounded(MOST_LOOKS)  # ids that were seen to be there

    # What is known.

    def read(self, subject: Subject) -> Naming:
        """Look up what a request names. Waits for nothing."""
        naming = Naming(subject)
        if not subject.resources and naming.asked is None:
            return naming
        now = time.time()
        several = len(self._projects.in_file) > 1
        hinted = None
        for resource in dict.fromkeys(subject.resources):
            scope = self.scope_of(resource)
            if scope is None:
                if (
                    several
                    and resource.place != "header"
                    and not self._store.is_missed(resource.kind, resource.id, now)
                ):
                    naming.unknown.append(resource)
            elif resource.place == HINT:
                hinted = hinted or (scope, resource)
            else:
                naming.known.setdefault(scope, resource)
        if hinted and not naming.known and naming.asked is None:
            naming.known[hinted[0]] = hinted[1]
        self._settle(naming)
        return naming

    def maker_of(self, secret: str) -> str | None:
        """The scope of the file in which an ephemeral key was minted; None where it was not, or not here."""
        return self._projects.owner(SECRET, secret)

    def _settle(self, naming: Naming) -> None:
        """Take the scope that all agree on."""
        asked = naming.asked
        if asked is not None and asked in self._projects and naming.known.keys() == {self._projects.name(asked)}:
            naming.known = {asked: naming.known.popitem()[1]}  # by the name that the client used
        if not naming.is_open() or asked is not None:
            naming.scope = asked if asked is not None else next(iter(naming.known), None)

    # For lists of several scopes.

    @property
    def projects(self) -> tuple[str, ...]:
        """The scopes of the file, those that are one project under one name."""
        return tuple(self._projects.in_file.values())

    def scope_of(self, resource: Resource) -> str | None:
        """The scope of the file that a resource is known to live in."""
        return self._projects.owner(resource.kind, resource.id)

    async def find(self, naming: Naming, resource: Resource, route: Route, client: str) -> str | None:
        """Where an unknown resource lives, or might: a scope that could not be asked. None where it is nowhere."""
        return await self._find(naming, resource, route, self._order(route, client))

    def note_same(self, one: str, other: str) -> bool:
        """One id was seen in both scopes: where only their keys tell them apart, they are one project."""
        if not self._projects.only_keys_differ(one, other):
            return False
        self._projects.unite(one, other)
        return True

    # Before the request is sent.

    async def locate(self, naming: Naming, route: Route, client: str) -> None:
        """Ask scopes where ``naming.is_open()``: about a conflict, or for what nobody has seen.

        ``route``: where the request would go otherwise. Leaves what was found in ``naming``. Raises
        ScopeConflict, and Unavailable where a scope that has to be asked does not answer.
        """
        if naming.known:
            await self._reconcile(naming, route)
        else:
            naming.scope = await self._seek(naming, route, client)

    async def _reconcile(self, naming: Naming, route: Route) -> None:
        """Several scopes are named. They may be one project under several keys (SPEC §5 "Conflict").

        A scope that is asked for is one of the file's: the router has let it pass.
        """
        voices: list[tuple[str, Resource | None]] = list(naming.known.items())
        asked = naming.asked
        if asked is not None and asked not in naming.known:
            voices.insert(0, (asked, None))
        first = voices[0]
        for other in voices[1:]:
            if not await self._are_one(first, other, route):
                raise conflict(first, other)
            self._projects.unite(first[0], other[0])
        naming.scope = first[0]

    async def _are_one(
        self, one: tuple[str, Resource | None], other: tuple[str, Resource | None], route: Route
    ) -> bool:
        """Whether a resource of one of the scopes is seen from the other, where only their keys tell them apart."""
        pair = (one[0], other[0])
        now = time.time()
        if not self._projects.only_keys_differ(*pair) or now - self._apart.get(pair, 0.0) < MINUTE:
            return False
        for (_, resource), (scope, _) in ((other, one), (one, other)):
            if resource is not None and retrieve_path(resource.kind, resource.id):
                sighting = await self._look(resource, scope, route)
                if sighting is Sighting.UNSURE:
                    raise Unavailable(f"Whether two scopes are one cannot be asked: '{scope}' does not answer now.")
                if sighting is not Sighting.FOUND:
                    self._apart.made(pair, lambda: 0.0)
                    self._apart[pair] = now
                return sighting is Sighting.FOUND
        return False

    async def _seek(self, naming: Naming, route: Route, client: str) -> str | None:
        """Look for what the body names: for one, and where that is nowhere for the next, which may be alive."""
        scopes = self._order(route, client)
        for resource in naming.fetched[:MOST_SOUGHT]:
            scope = await self._find(naming, resource, route, scopes)
            if scope is not None or resource in naming.unknown:
                return scope  # that is where the request belongs, or no more may be looked for
        return None

    async def _find(self, naming: Naming, resource: Resource, route: Route, scopes: Sequence[str]) -> str | None:
        """Look for a resource of the body in each scope.

        Where it is; else a scope that could not be asked, since the request's own answer from there invites a retry;
        None where it is nowhere, which is remembered, or where too much was looked for in vain.
        """
        search = await self._allowance.begin(len(scopes))
        if search is None:
            return None
        with search:
            sightings = await self._look_around(resource, scopes, route, search)
        if search.found:
            found = next(reversed(sightings))
            self._store.remember([(resource.kind, resource.id)], found, time.time())
            self._note_present(resource)
            naming.known[found] = resource
            naming.unknown.remove(resource)
            return found
        if self._all_missed(sightings.values()):
            self._miss(naming, [resource])
        return first_of(sightings, Sighting.UNSURE) or first_of(sightings, Sighting.DENIED)

    async def _look_around(
        self, resource: Resource, scopes: Iterable[str], route: Route, search: Search
    ) -> dict[str, Sighting]:
        """What each scope says, up to the one that has it."""
        sightings: dict[str, Sighting] = {}
        for scope in scopes:
            sightings[scope] = await self._look(resource, scope, route)
            if sightings[scope] is Sighting.FOUND:
                search.found = True
                break
            search.missed += 1
        return sightings

    async def _look(self, resource: Resource, scope: str, route: Route) -> Sighting:
        """GET a resource in a scope."""
        now = asyncio.get_running_loop().time()
        try:
            deployment = self._router.select(self._router.within(route, scope), now)
        except AllOut:
            return Sighting.UNSURE
        left = LOOK_SECONDS if route.deadline is None else min(LOOK_SECONDS, route.deadline - now)
        return await look(self._pool, deployment, resource, max(left, 0.0))

    def _order(self, route: Route, client: str) -> list[str]:
        """All scopes, each under one name: those first that the request would go to, then the client's home scopes."""
        named = [deployment.scope for deployment in route.candidates]
        homes = self._router.home_scopes(client, route.subject.session)
        return list(dict.fromkeys(map(self._projects.name, (*named, *homes))))

    @staticmethod
    def _all_missed(sightings: Iterable[Sighting]) -> bool:
        return all(sighting is Sighting.MISSED for sighting in sightings)

    def _miss(self, naming: Naming, resources: Iterable[Resource]) -> None:
        """Remember that no scope has these."""
        now = time.time()
        for resource in resources:
            self._store.miss(resource.kind, resource.id, now)
            if resource in naming.unknown:
                naming.unknown.remove(resource)

    # When the request is sent.

    async def pursue(self, naming: Naming, route: Route, client: str, errand: Errand) -> Route:
        """Send a request, and to the other scopes too where the first does not know what it names.

        Gives the route whose answer is the client's; raises ProxyError where there is none.
        """
        await errand.ask(route)
        if len(self._projects.in_file) < 2 or not naming.has_ids() or not is_miss(naming.subject, route.answer):  # noqa: PLR2004
            return route
        if naming.asked is not None or not errand.can_repeat() or not await self._is_lost(naming, route):
            return route
        asked = {self._projects.name(attempt.deployment.scope) for attempt in route.attempts}
        others = [scope for scope in self._order(route, client) if scope not in asked]
        if naming.scope is not None and naming.fetched:
            found = await self._find(naming, naming.fetched[0], route, others) or await self._seek(
                naming, route, client
            )
            return route if found is None or found in asked else await self._go(errand, route, found)
        search = await self._allowance.begin(len(others)) if naming.elsewhere else None
        if search is None:
            return route
        with search:
            return await self._tour(naming, route, others, search, errand)

    async def _go(self, errand: Errand, first: Route, scope: str) -> Route:
        """Send the request to another scope."""
        route = self._router.within(first, scope)
        await errand.ask(route)
        return route

    async def _tour(self, naming: Naming, first: Route, scopes: Iterable[str], search: Search, errand: Errand) -> Route:
        """Send the request to each scope in turn, until one knows what it names."""
        doubts: list[Route | ProxyError] = list(doubt_about(first))
        sightings = []
        for scope in scopes:
            try:
                route = await self._go(errand, first, scope)
            except (UpstreamFailure, AllOut) as error:
                doubts.append(error)
                continue
            sighting = sighting_of(route.answer.outcome if route.answer else None)
            if sighting is Sighting.FOUND:
                search.found = True
                self._learn_hints(naming, scope)
            if sighting is Sighting.FOUND or (
                sighting is Sighting.MISSED and not is_miss(naming.subject, route.answer)
            ):
                return route  # it may refuse the request, but it knows what it names
            if sighting is Sighting.UNSURE:
                doubts.append(route)
            search.missed += 1
            sightings.append(sighting)
        return self._conclude(naming, first, doubts, sightings)

    def _conclude(
        self, naming: Naming, first: Route, doubts: Sequence[Route | ProxyError], sightings: Iterable[Sighting]
    ) -> Route:
        """Nobody knows what was named. An answer that invites a retry goes before a 404 (SPEC §5 "Discovery")."""
        for doubt in doubts:
            if isinstance(doubt, ProxyError):
                raise doubt
            return doubt
        if naming.is_plain and self._all_missed(sightings):
            self._miss(naming, naming.elsewhere)
        return first

    def _learn_hints(self, naming: Naming, scope: str) -> None:
        """A scope knows what the first did not: so the items that may have been references live there."""
        hints = [(one.kind, one.id) for one in naming.unknown if one.place == HINT]
        if hints:
            self._store.remember(hints, scope, time.time())

    async def _is_lost(self, naming: Naming, route: Route) -> bool:
        """Whether the other scopes are worth asking: nobody has seen what is named, or it is no longer where it was.

        What is not there any more is forgotten: somebody deleted it, or the store was wrong.
        """
        if not naming.known:
            return True
        (scope, resource), *more = naming.known.items()
        if more:
            return False
        fetched = retrieve_path(resource.kind, resource.id) is not None
        if fetched and not naming.is_plain and not await self._is_gone(resource, scope, route):
            return False
        if fetched or naming.is_plain:
            self._store.forget(resource.kind, resource.id, time.time(), scope)
        naming.known.clear()
        naming.unknown.insert(0, resource)
        return len(naming.unknown) == len(
            set(naming.subject.resources)
        )  # else another one keeps the request where it is

    async def _is_gone(self, resource: Resource, scope: str, route: Route) -> bool:
        """Whether a scope that answered 404 means this resource: it may have missed something below it."""
        key, now = (resource.kind, resource.id), time.time()
        search = await self._allowance.begin(1) if now - self._present.get(key, 0.0) >= MINUTE else None
        if search is None:
            return False
        with search:
            sighting = await self._look(resource, scope, route)
            search.missed = int(sighting is Sighting.MISSED)
        if sighting is Sighting.FOUND:
            self._note_present(resource)
        return sighting is Sighting.MISSED

    def _note_present(self, resource: Resource) -> None:
        self._present.made((resource.kind, resource.id), lambda: 0.0)
        self._present[resource.kind, resource.id] = time.time()


def first_of(sightings: Mapping[str, Sighting], wanted: Sighting) -> str | None:
    """The first scope that was seen so."""
    return next((scope for scope, sighting in sightings.items() if sighting is wanted), None)
