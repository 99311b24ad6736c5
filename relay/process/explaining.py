"""Who would be asked for a request, and why: ``--explain METHOD PATH --model M`` (SPEC §2).

Text for people, made from what the router itself decides; nothing is sent, and nobody is asked. A router that has just
been made knows no failures: in a running proxy the same facts stand in the record of each exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from ..errors import ProxyError
from ..reading.bases import show_base
from ..reading.describe import aligned
from ..requests.classification import Place, Request, read_head
from ..requests.targets import parse_target
from ..subjects.resources import as_resource
from ..wire.fields import parse_request_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ..choosing.pools import Pool, Ready
    from ..choosing.route import Route
    from ..config import Config, Deployment
    from ..requests.body import RequestBody
    from ..requests.classification import HeadFinds
    from ..requests.targets import Target
    from ..subjects.subject import Resource, Subject

    Lookup = Callable[[Resource], "str | None"]  # the scope of the file that a resource is known to live in

REASONS = {
    "header": "X-LiteLLM-Target-Model names it",
    "names": "target_model_names names it",
    "model": "the model names it",
    "forward": "no group has the model's name: it is forwarded as it is to the home group",
    "home": "nothing names a group: the home group",
}
HABITS = {
    "simple-shuffle": "drawn by its share",
    "least-busy": "the less busy of two drawn at random",
    "latency-based-routing": "the shortest usual first byte; one in a hundred is drawn at random",
    "headroom": "the largest share of its rate limit left",
}
OURS = "The proxy answers this path itself; only paths below /openai/ and /v1/ go to a deployment."


class Asked(NamedTuple):
    """The request in question: a method, a target as a client would write it, and the model that its body names."""

    method: str
    target: str
    model: str | None = None


class Decider(Protocol):
    """What this room asks of the router."""

    scopes: tuple[str, ...]

    def resolve(self, subject: Subject, client: str, *, scope: str | None = None) -> Route: ...  # noqa: D102 - as there
    def select(self, route: Route, now: float) -> Deployment: ...  # noqa: D102
    def explain(self, route: Route, now: float) -> list[tuple[Deployment, str | None]]: ...  # noqa: D102


def explain(router: Decider, config: Config, asked: Asked, lookup: Lookup, now: float) -> str:
    """What would become of a request: group, reason, candidates, who is out and why, and the choice. Several lines.

    ``lookup`` tells where an id is known to live. A request that would be refused is told so, as its client would be.
    """
    lines = [" ".join(filter(None, (asked.method, asked.target, asked.model and f"for the model {asked.model}")))]
    try:
        for line in _tell(router, config, asked, lookup, now):
            lines.append(line)  # noqa: PERF402 - what was told before an error stays
    except ProxyError as error:
        lines.append(f"answer      {error.status} {error.code}: {error.message}")
    return "\n".join(line.rstrip() for line in lines)


def _tell(router: Decider, config: Config, asked: Asked, lookup: Lookup, now: float) -> Iterator[str]:
    raw = f"{asked.method} {asked.target} HTTP/1.1\r\nHost: explained\r\n\r\n".encode("utf-8", "surrogateescape")
    head = parse_request_head(raw, config.limits.head_fields, config.limits.target_bytes)
    target = parse_target(head.target, allow_admin=config.listener.allow_admin)
    if target is None:
        yield OURS
        return
    request = _request_of(read_head(head, target), target, asked.model)
    subject = request.subject
    yield f"endpoint    {subject.endpoint.method} {subject.endpoint.template}: {_nature(subject)}"
    yield from (f"resource    {_seen(resource, lookup(resource))}" for resource in subject.resources)
    route = router.resolve(subject, config.clients[0].name, scope=_scope_of(subject.resources, lookup))
    yield f"group       {route.group.name}: {REASONS.get(route.reason, 'a resource keeps the request in its scope')}"
    yield f"scope       {route.scope or 'any'}"
    yield f"strategy    {config.router.routing_strategy}: {HABITS[config.router.routing_strategy]}"
    yield ""
    yield from _table(router.explain(route, now), request, route, now, shuffles=_shuffles(config))
    yield ""
    chosen = router.select(route, now)
    free = next((len(pool.ready(now).members) for pool in route.plan.pools if pool.ready(now).members), 1)
    yield f"choice      {chosen.id}" + (" (another time it may be another)" if free > 1 else "")


def _request_of(finds: HeadFinds, target: Target, model: str | None) -> Request:
    """The request, as it would be with a body that names ``model``."""
    subject, place = finds.subject, finds.place
    if model is not None:
        subject.model, place = model, Place("body")
        named = as_resource("model", model, "body")
        subject.resources += (named,) if named is not None else ()
    return Request(target, cast("RequestBody", None), subject, place)  # nobody looks at the body here


def _nature(subject: Subject) -> str:
    """What kind of call it is, and what follows for the choice of scope."""
    if subject.endpoint.stored:
        return "an answer that is stored, spread over the group or at home as affinity.responses says"
    if subject.endpoint.answer:
        return "an answer, spread over the group"
    return "workspace, at home in one scope for each client"


def _seen(resource: Resource, scope: str | None) -> str:
    kind = resource.kind.replace("_", " ")
    where = "not seen yet: each scope would be asked" if scope is None else f"lives in the scope {scope}"
    return f"{kind} {resource.id}: {where}"


def _scope_of(resources: Iterable[Resource], lookup: Lookup) -> str | None:
    """Where the first resource that is known lives; whether others agree is for the running proxy to find out."""
    return next((scope for scope in map(lookup, resources) if scope is not None), None)


def _shuffles(config: Config) -> bool:
    return config.router.routing_strategy == "simple-shuffle"


def _table(
    states: Iterable[tuple[Deployment, str | None]], request: Request, route: Route, now: float, *, shuffles: bool
) -> list[str]:
    """The candidates, in the order in which they would be asked: those of one number are chosen among."""
    why = {deployment.id: state for deployment, state in states}
    rows = [("asked", "candidate", "share", "asks for", "target", "key", "scope", "state")]
    for number, pool in enumerate(route.plan.pools, 1):
        shares = _shares(pool, pool.ready(now)) if shuffles else {}
        for member in pool.members:
            deployment = member.deployment
            row = (str(number), deployment.id, shares.get(deployment.id, ""), *_cells(request, route, deployment))
            rows.append((*row, deployment.scope, why[deployment.id] or "free"))
    kept = [at for at, name in enumerate(rows[0]) if name != "share" or shuffles]
    return aligned([tuple(row[at] for at in kept) for row in rows])


def _cells(request: Request, route: Route, deployment: Deployment) -> tuple[str, str, str]:
    """What is asked of a deployment, where, and with which key."""
    model = route.upstream_model(deployment)
    target = request.target_for(deployment.base.path, model).decode("ascii")
    base = show_base(deployment.base).removesuffix(deployment.base.path)
    key = "none" if deployment.key is None else deployment.key.masked
    return model or request.subject.model or "-", base + target, key


def _shares(pool: Pool, ready: Ready) -> dict[str, str]:
    """Of what the pool gets, the share of each that is free."""
    weights = ready.weights or [1.0] * len(ready.members)
    total = sum(weights)
    if not total:
        weights, total = [1.0] * len(weights), float(len(weights))
    found = {member.deployment.id: "-" for member in pool.members}
    for member, weight in zip(ready.members, weights, strict=True):
        found[member.deployment.id] = f"{weight / total:.0%}"
    return found
