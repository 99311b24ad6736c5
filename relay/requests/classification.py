"""From a request to its :class:`Subject`: what head, target and body name, and where the model stands."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..errors import BadRequest
from ..subjects.endpoints import find_path_model, find_query_value, match_endpoint, path_resources, query_resources
from ..subjects.inspection import JSONPeek
from ..subjects.resources import ASKED_MODEL, as_resource
from ..subjects.subject import Subject
from ..values import Value
from ..wire.handshake import asks_for_websocket
from .body import Peek, is_json, is_multipart

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config import Config
    from ..subjects.endpoints import Endpoint
    from ..subjects.inspection import Found
    from ..wire.heads import RequestHead
    from .body import RequestBody
    from .targets import Target

LONGEST_NAME = 1024  # characters; the router keeps something for thousands of names, and a body has room for a MiB
# What a body sets, if at all, to true or false or a text, and the subject's name for it.
SCALARS = {"stream": "stream", "store": "store", "background": "background", "prompt_cache_key": "cache_key"}
MOST_RESOURCES = 10_000  # a vector store's file batch takes 2,000; beyond this somebody only wants us to look things up


class Place(Value):
    """Where the client's model stands, so that it can be replaced there and nowhere else."""

    where: str  # "path", "query", "body"
    start: int = 0
    stop: int = 0
    found: Found | None = None  # in a body: the string that stands for the top-level model where there is none


IN_BODY = Place("body")


class Request:
    """A classified request: its subject, and how to write it for one deployment."""

    __slots__ = ("body", "in_first_frame", "place", "secret", "subject", "target", "websocket")

    def __init__(self, target: Target, body: RequestBody, subject: Subject, place: Place | None = None) -> None:
        self.target = target
        self.body = body
        self.subject = subject
        self.place = place
        self.websocket = False  # it asks for an upgrade to WebSocket
        self.in_first_frame = False  # and names model and resources in its first message only (SPEC §13)
        self.secret: str | None = None  # an ephemeral key of the client's own, which goes upstream as itself

    def target_for(self, base_path: str, model: str | None) -> bytes:
        """The target below a deployment's base, the model in path or query replaced."""
        raw = self.target.joined(base_path)
        if model is None or self.place is None or self.place.where == "body":
            return raw
        offset = len(base_path.encode())
        if self.place.where == "query":
            offset += len(self.target.path) + 1
        return raw[: offset + self.place.start] + quote(model) + raw[offset + self.place.stop :]

    def rewrite_body(self, model: str | None) -> None:
        """Make the body ask for ``model``, where it is the body that names one."""
        place = self.place
        if place is not None and place.where == "body":
            self.body.rewrite(model, place.found)
        else:
            self.body.rewrite(None)


def quote(text: str) -> bytes:
    """A model's name as one piece of a target (RFC 3986 §2.3: what is unreserved stays)."""
    from urllib.parse import quote as percent_encode  # only where a target names a model that is called otherwise

    return percent_encode(text, safe="-._~").encode()


async def classify(head: RequestHead, target: Target, body: RequestBody, config: Config) -> Request:
    """Read what a request is about, from its head and as much of its body as the choice needs.

    Raises BadRequest and AmbiguousBody, and what reading the body raises.
    """
    known: HeadFinds | None = head.memo.get(classify)
    if known is None:
        known = head.memo[classify] = read_head(head, target)
    pattern, place, websocket, make_peek = known
    subject = pattern.copied()
    request = Request(target, body, subject, place)
    if body.is_empty:
        request.websocket = websocket
        request.in_first_frame = websocket and subject.endpoint.first_frame
    elif make_peek is not None:
        peek = make_peek()
        await body.inspect(peek, lambda: is_decided(config, subject, peek))
        take_finds(request, peek)
    return request


class HeadFinds(NamedTuple):
    """What a head alone says. The subject is a pattern: each request gets a copy of its own."""

    subject: Subject
    place: Place | None
    websocket: bool
    peek: Callable[[], Peek] | None  # makes what can look into the body; None for content that names nothing


def read_head(head: RequestHead, target: Target) -> HeadFinds:
    """What the request line and the field lines say."""
    path = target.path.decode("latin-1")
    query = (target.query or b"").decode("latin-1")
    endpoint = match_endpoint("GET" if head.method == b"HEAD" else head.method.decode("ascii"), path)
    resources = path_resources(endpoint, path)
    if query:
        resources += query_resources(endpoint, query)
    model, place = find_model_in_target(endpoint, path, query)
    retry_count = head.get(b"x-stainless-retry-count")
    subject = Subject(
        endpoint,
        header_model=text_of(head, b"x-litellm-target-model"),
        model=model,
        resources=resources,
        scope=text_of(head, b"x-passthrough-scope"),
        session=text_of(head, b"x-passthrough-session"),
        idempotency_key=b"idempotency-key" in head,
        retry_count=int(retry_count[:9]) if retry_count.isdigit() else 0,  # int() refuses 4,300 digits
        patience=read_patience(head),
    )
    check_name("model", subject.model)
    check_name("x-litellm-target-model", subject.header_model)
    check_name("x-passthrough-session", subject.session)
    return HeadFinds(subject, place, asks_for_websocket(head), peek_maker(head, endpoint))


def check_name(param: str, name: str | None) -> None:
    """Refuse what nobody's model or session is called. Raises BadRequest."""
    if name is not None and len(name) > LONGEST_NAME:
        raise BadRequest(f"{param} is longer than {LONGEST_NAME} characters.", param=param)


def text_of(head: RequestHead, name: bytes) -> str | None:
    """A field's value as text, None where it is missing or empty."""
    value = head.get(name)
    return value.decode("utf-8", "replace") if value else None


def read_patience(head: RequestHead) -> float | None:
    """How long the SDK waits for a response head, in seconds; None where it does not say so (SPEC §7)."""
    for name in (b"x-stainless-read-timeout", b"x-stainless-timeout"):
        value = head.get(name)
        if value:
            try:
                seconds = float(value)
            except ValueError:
                continue
            return seconds if 0 < seconds < float("inf") else None
    return None


def find_model_in_target(endpoint: Endpoint, path: str, query: str) -> tuple[str | None, Place | None]:
    """``/models/{model}`` and ``?model=``; what the body names comes later and wins."""
    named = find_path_model(endpoint, path)
    where = "path"
    if named is None and query:
        named, where = find_query_value(query, "model"), "query"
    return (None, None) if named is None else (named[0], Place(where, named[1], named[2]))


def peek_maker(head: RequestHead, endpoint: Endpoint) -> Callable[[], Peek] | None:
    """What makes a look into the body that follows; None for content that names nothing."""
    if b"content-encoding" in head:
        return None  # compressed by the client: passed on as it is
    content_type = head.get(b"content-type")
    if is_multipart(content_type):
        from ..subjects.multipart import MultipartPeek  # few requests are forms

        return partial(MultipartPeek, content_type, endpoint.form)
    if is_json(content_type) or not content_type:
        return partial(JSONPeek, endpoint.body)
    return None


def take_finds(request: Request, peek: Peek) -> None:
    """Add what was found in the body to the subject."""
    subject = request.subject
    if names := peek.target_names:
        subject.names = tuple([name for name in names if name])
        check_name("target_model_names", names[0])
    for name, value in peek.scalars.items():
        setattr(subject, SCALARS[name], value)
    found, model = peek.found, peek.model
    named = []
    for find in found:
        resource = as_resource(find.kind, find.value, "body")
        if resource is not None:
            named.append(resource)
    if model is None:
        model = next((find for find in found if find.kind == ASKED_MODEL), None)
    if model is not None:
        subject.model = model.value
        check_name("model", model.value)
        request.place = IN_BODY if model is peek.model else Place("body", found=model)
        if model not in found and (tuned := as_resource("model", model.value, "body")) is not None:
            named.append(tuned)
    if named:
        subject.resources += tuple(named)
        if len(subject.resources) > MOST_RESOURCES:
            raise BadRequest(f"The request names more than {MOST_RESOURCES} resources.")


def is_decided(config: Config, subject: Subject, peek: Peek) -> bool:
    """Whether nothing more in a body can change who is asked, and for what.

    One deployment, a header or an id in the path say who. But a model is often a body's last word (some SDKs write the
    messages first), and where it may have to be replaced it is waited for.
    """
    by_head = subject.header_model is not None or any(found.place == "path" for found in subject.resources)
    if not by_head and len(config.deployments) != 1:
        return False
    return peek.model is not None or not (names_a_model(subject.endpoint) and renames(config))


def names_a_model(endpoint: Endpoint) -> bool:
    """Whether a body at this endpoint may have a top-level ``model``: those of files and of their parts have none."""
    return "model" in endpoint.body.children or "model" in endpoint.form.children


def renames(config: Config) -> bool:
    """Whether any name that clients use is called otherwise upstream."""
    return bool(config.router.model_group_alias) or any(one.model != one.group for one in config.deployments)
