"""What a request names and what its answer shows, for every operation of the API (SPEC §5, §7, §13).

The tables are data and stand in :mod:`.operations` (one line an operation) and :mod:`.resources` (kinds of ids, and the
places in JSON that operations share). This room reads them: a path in, an :class:`Endpoint` out.

A path that the tables do not know still passes through. Its endpoint has the template ``other``, is a workspace
endpoint (what it makes may be named later, so it belongs in the home scope), and every segment, query value, form part
or known JSON field of it counts where the value itself says what it is: a known prefix and the look of an id.
"""

from __future__ import annotations

from enum import Enum
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from ..values import NOTHING, Value
from .operations import ADMINISTRATION, FAMILIES, OPERATIONS
from .pointers import compile_pointers
from .resources import BY_PREFIX, ENCRYPTED, PATHS, SECRET, as_resource

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .pointers import Node
    from .subject import Resource, Subject

OTHER = "other"  # the template of every path that no table knows
ANY_SEGMENT = "{}"  # in the tree of paths: what a parameter stands for
METHODS = "/"  # in the tree of paths: the operations that end here; no segment holds a slash
PLACES = ("query", "body", "form", "shows", "unstored")  # the clauses of an operation that hold places
SECRET_FIELDS = {"authorization": SECRET, "sec-websocket-protocol": SECRET}
IDEMPOTENT = frozenset({"GET", "HEAD", "DELETE", "PUT", "OPTIONS", "TRACE"})  # RFC 9110 §9.2.2
REPEATABLE = frozenset({"GET", "HEAD", "DELETE"})  # SPEC §7


class Harmless(Enum):
    """When a POST may be sent twice, since its effect is only an answer (SPEC §7, §12)."""

    NEVER = "never"
    ALWAYS = "always"
    UNLESS_STORED = "unless-stored"  # chat, completions: not with ``store: true``
    IF_NOT_STORED = "if-not-stored"  # responses: only with ``store: false``, and not with ``background``


UNLESS_STORED = Harmless.UNLESS_STORED  # by name, as ``framing`` has its members


class Endpoint(Value):
    """An API path with a method, and where its ids stand. One operation, one object."""

    __eq__, __hash__ = object.__eq__, object.__hash__

    method: str  # GET also stands for HEAD
    template: str  # "/threads/{thread_id}/runs", or OTHER
    body: Node  # of a JSON request, or of a ``response.create`` frame
    form: Node  # ``/video/id`` is the part ``video[id]``, or a member of a JSON part ``video``
    response: Node  # of a JSON answer, of the JSON in SSE ``data``, of frames that come from upstream
    unstored: Node  # the same where the answer is not stored: what it shows all the same
    answer: bool = False  # balanced over the whole group; False: a workspace endpoint, which has a home scope
    stored: bool = False  # stands between (SPEC §5 "Stored responses"), unless the body says ``store: false``
    harmless: Harmless = Harmless.NEVER
    lists: str | None = None  # the kind that this list shows, for the 13 lists that may be merged
    path_ids: tuple[tuple[int, str], ...] = ()  # index in ``path.split("/")``, 1 for the first segment -> kind
    path_model: int | None = None  # index of the segment that begins the model's name; it may hold raw slashes
    query_ids: Mapping[str, str] = NOTHING  # parameter, without a final ``[]`` -> kind
    header_ids: Mapping[str, str] = NOTHING  # lower-case field name -> kind: the keys that are resources (SPEC §13)
    location: str | None = None  # kind of the id in the last segment of ``Location``
    metered: bool = False  # answers say what was used
    first_frame: bool = False  # its WebSocket names model and ids in the first frame (SPEC §13)


def match_endpoint(method: str, path: str) -> Endpoint:
    """The endpoint of a path without mount, ``v1/`` and query: ``/files/file-abc``. HEAD behaves as GET."""
    if method == "HEAD":
        method = "GET"
    return _walk(method, path.split("/")) or _match_oddity(method, path)


def _walk(method: str, segments: list[str]) -> Endpoint | None:
    node = _TREE
    for segment in segments:
        child = node.get(segment)
        if child is None:
            child = node.get(ANY_SEGMENT)
            if child is None or not segment:
                return None
        node = child
    found = node.get(METHODS, NOTHING).get(method)
    return found if found is None or found.__class__ is Endpoint else _make_endpoint(*found)


def _match_oddity(method: str, path: str) -> Endpoint:
    """Endpoints of paths that no table holds as they are written: escapes, a last slash, slashes in a model's name."""
    segments = [decode(segment) for segment in path.split("/")]
    if not segments[-1]:
        segments.pop()
    if segments[1:2] == ["models"]:
        del segments[3:]
    return _walk(method, segments) or _make_other(method, segments[1:2] == ["realtime"])


def path_resources(endpoint: Endpoint, path: str) -> tuple[Resource, ...]:
    """The resources that the segments of ``path`` name, percent-decoded."""
    places: Iterator[tuple[str, str]]
    if endpoint.template == OTHER:
        places = ((BY_PREFIX, segment) for segment in path.split("/"))
    elif not endpoint.path_ids:
        return ()
    elif endpoint.path_model is not None:
        places = iter([("model", path.rstrip("/").split("/", endpoint.path_model)[-1])])
    else:
        segments = path.split("/")
        places = ((kind, segments[index]) for index, kind in endpoint.path_ids)
    found = (as_resource(kind, decode(value), "path") for kind, value in places)
    return tuple(resource for resource in found if resource is not None)


def query_resources(endpoint: Endpoint, query: str) -> tuple[Resource, ...]:
    """The resources that the parameters of a raw ``query`` name, percent-decoded."""
    kinds = endpoint.query_ids
    if not kinds or not query:
        return ()
    found = []
    for parameter in query.split("&"):
        name, _, value = parameter.partition("=")
        kind = kinds.get(decode(name).removesuffix("[]"))
        resource = as_resource(kind, decode(value), "query") if kind else None
        if resource is not None:
            found.append(resource)
    return tuple(found)


def find_path_model(endpoint: Endpoint, path: str) -> tuple[str, int, int] | None:
    """The model that a path names: decoded, with the span of ``path`` that a splice replaces."""
    if endpoint.path_model is None:
        return None
    stop = len(path.rstrip("/"))
    name = path[:stop].split("/", endpoint.path_model)[-1]
    return decode(name), stop - len(name), stop


def find_query_value(query: str, name: str) -> tuple[str, int, int] | None:
    """The first value of a parameter of a raw ``query``: decoded, with the span that a splice replaces."""
    start = 0
    for parameter in query.split("&"):
        stop = start + len(parameter)
        key, equals, value = parameter.partition("=")
        if equals and decode(key) == name:
            return decode(value), stop - len(value), stop
        start = stop + 1
    return None


def location_resource(endpoint: Endpoint, location: str) -> Resource | None:
    """The resource that an answer's ``Location`` field value shows."""
    if endpoint.location is None:
        return None
    return as_resource(endpoint.location, decode(location.partition("?")[0].rpartition("/")[2]), "response")


def shown_by(subject: Subject) -> Node:
    """Where the answer to this request shows ids worth keeping (``endpoint.response`` or ``endpoint.unstored``).

    The id of an answer that is not stored names nothing: chat completions store when asked to, responses unless asked
    not to.
    """
    endpoint = subject.endpoint
    if endpoint.harmless is UNLESS_STORED:
        return endpoint.response if subject.store else endpoint.unstored
    return endpoint.unstored if subject.store is False else endpoint.response


def is_harmless(subject: Subject) -> bool:
    """Whether a request that may have been acted on may be sent again, by SPEC §7's row of 500 502 504.

    GET, HEAD, DELETE, requests with ``Idempotency-Key``, and POSTs whose effect is only an answer.
    """
    endpoint = subject.endpoint
    if endpoint.method in REPEATABLE or subject.idempotency_key:
        return True
    match endpoint.harmless:
        case Harmless.ALWAYS:
            return True
        case Harmless.UNLESS_STORED:
            return subject.store is not True
        case Harmless.IF_NOT_STORED:
            return subject.store is False and not subject.background
    return False


def is_resendable(subject: Subject) -> bool:
    """Whether a request may be sent again when a reused connection dies before an answer (SPEC §12).

    Harmless ones, and every method that RFC 9110 §9.2.2 calls idempotent.
    """
    return subject.endpoint.method in IDEMPOTENT or is_harmless(subject)


def decode(text: str) -> str:
    """Percent-decode one segment, name or value."""
    if "%" not in text:
        return text
    from urllib.parse import unquote  # rare, and slow to import

    return unquote(text)


# The tables become a tree of path segments at import, and an endpoint when it is first asked for.


def _gather_operations(table: str) -> Iterator[tuple[list[str], str, list[str]]]:
    """Methods, path and clauses of every operation."""
    for line in filter(None, table.replace("\n|", " |").replace("\n;", ";").splitlines()):
        head, *clauses = line.split(" | ")
        *methods, paths = head.split()
        parent, _, names = paths.rpartition("/")
        for name in names.split(","):
            yield methods, f"{parent}/{name}", clauses


def _grow_tree() -> dict[str, Any]:
    root: dict[str, Any] = {}
    for methods, template, clauses in _gather_operations(OPERATIONS + ADMINISTRATION):
        node = root
        for segment in template.split("/"):
            node = node.setdefault(ANY_SEGMENT if segment[:1] == "{" else segment, {})
        found = node.setdefault(METHODS, {})
        for method in methods:
            found[method] = (method, template, clauses, found)
    return root


_TREE = _grow_tree()


def _gather_places(text: str, parent: str = "") -> Iterator[tuple[str, str]]:
    """The ``(pointer, kind)`` rows of a clause, its families unfolded."""
    for place in text.split(";"):
        pointer, _, kind = place.strip().rpartition(" ")
        if kind in FAMILIES:
            yield from _gather_places(FAMILIES[kind], parent + pointer)
        else:
            yield parent + pointer, kind


def _gather_clauses(clauses: list[str]) -> dict[str, list[tuple[str, str]]]:
    """The places that clauses name, under ``query``, ``body``, ``form``, ``shows`` and ``unstored``."""
    places: dict[str, list[tuple[str, str]]] = {name: [] for name in PLACES}
    for clause in clauses:
        name, _, text = clause.partition(" ")
        if name == "list":
            places["shows"].append(("/data/*/id", text))
            places["query"] += [("/after", text), ("/before", text)]
        for target in ("body", "form") if name == "both" else (name,):
            if target in PLACES:
                places[target] += _gather_places(text)
    return places


def _make_endpoint(method: str, template: str, clauses: list[str], found: dict[str, Any]) -> Endpoint:
    """The endpoint of one operation; put where the tree has ``found`` its makings, so that it is made once."""
    places = _gather_clauses(clauses)
    words = dict(clause.partition(" ")[::2] for clause in clauses)
    segments = template.split("/")
    paths = ((index, PATHS.get("/".join(segments[: index + 1]))) for index in range(1, len(segments)))
    trees = {name: compile_pointers(rows) for name, rows in places.items()}
    endpoint = found[method] = Endpoint(
        method,
        template,
        answer="answer" in words,
        stored="stored" in words,
        harmless=Harmless(words.get("harmless", "never")),
        lists=None if template.startswith("/organization/") else words.get("list"),
        path_ids=tuple((index, kind) for index, kind in paths if kind is not None),
        path_model=2 if template == "/models/{model}" else None,
        query_ids={pointer[1:]: kind for pointer, kind in places["query"]},
        header_ids=SECRET_FIELDS if "secret" in words else {},
        body=trees["body"],
        form=trees["form"],
        response=trees["shows"],
        unstored=trees["unstored" if "unstored" in words else "shows"],
        location=words.get("location"),
        metered="metered" in words,
        first_frame="first-frame" in words,
    )
    return endpoint


@cache
def _gather_everywhere() -> dict[str, list[tuple[str, str]]]:
    """Every place that any operation has. An id counts there by its own prefix; ciphertext has none."""
    everywhere: dict[str, list[tuple[str, str]]] = {name: [] for name in PLACES}
    for _, _, clauses in _gather_operations(OPERATIONS):
        for name, rows in _gather_clauses(clauses).items():
            everywhere[name] += [(pointer, kind if kind == ENCRYPTED else BY_PREFIX) for pointer, kind in rows]
    return everywhere


@lru_cache(maxsize=64)  # any token may be a method
def _make_other(method: str, realtime: bool) -> Endpoint:
    """The endpoint of paths that no table knows. Sessions are answers, whatever their paths will be."""
    places = _gather_everywhere()
    return Endpoint(
        method,
        OTHER,
        answer=realtime,
        query_ids={pointer[1:]: kind for pointer, kind in places["query"]},
        header_ids=SECRET_FIELDS if realtime else {},
        body=compile_pointers(places["body"]),
        form=compile_pointers(places["form"]),
        response=compile_pointers(places["shows"]),
        unstored=compile_pointers(places["shows"]),
    )
