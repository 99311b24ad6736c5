"""What one request names: known and unknown ids, the conflict between two scopes, and what a 404 means. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..choosing.outcomes import Kind
from ..errors import ScopeConflict
from ..subjects.resources import HASHED, HINT, retrieve_path

if TYPE_CHECKING:
    from ..choosing.route import Attempt
    from ..subjects.subject import Resource, Subject

LONGEST_NAME = 80  # of an id in a message

# Errors other than a 404 that say that an id is not known.
MISS_CODES = frozenset({"invalid_encrypted_content", "previous_response_not_found"})
MISS_STATUSES = frozenset({404, 405})  # an upstream that does not have the path has nothing that lives there
TELLING = frozenset({400, 404})  # statuses whose error codes count
PLACES = ("path", "query")  # where an unknown id is looked for by asking for what the request asks for
READING = frozenset({"GET", "DELETE"})  # whose 404 can be about nothing but what the path names


class Naming:
    """What one request names, and what is known of where that lives."""

    __slots__ = ("asked", "known", "scope", "subject", "unknown")

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.asked = subject.scope  # by ``x-passthrough-scope``
        self.known: dict[str, Resource] = {}  # scope of the file -> the first resource that lives there
        self.unknown: list[Resource] = []  # that nobody has seen, and nobody has looked for in vain
        self.scope: str | None = None  # where the request belongs, as far as that is known

    def has_ids(self) -> bool:
        """Whether the request names anything that may be looked for, or may be lost."""
        return bool(self.known or self.unknown)

    def is_read(self, status: int) -> bool:
        """Whether an answer's content is needed to tell a miss from another error."""
        return status in TELLING and self.has_ids()

    def is_open(self) -> bool:
        """Whether a scope has to be asked before the request can be sent."""
        if not self.unknown and self.asked is None:
            return len(self.known) > 1
        if self.known or self.asked is not None:
            return len(self.known) + (self.asked is not None and self.asked not in self.known) > 1
        return bool(self.fetched)

    @property
    def fetched(self) -> list[Resource]:
        """The unknown resources of the body that a scope can be asked for; where the first is, the others will be."""
        return [one for one in self.unknown if one.place == "body" and retrieve_path(one.kind, one.id)]

    @property
    def elsewhere(self) -> list[Resource]:
        """The unknown resources that are looked for by trying: in a path or a query, or of kinds without a GET."""
        return [
            one
            for one in self.unknown
            if one.place in PLACES or one.place == HINT or (one.place == "body" and not retrieve_path(one.kind, one.id))
        ]

    @property
    def is_plain(self) -> bool:
        """Whether a 404 can only be about the one resource that the request names."""
        endpoint = self.subject.endpoint
        one = self.subject.resources
        if len(one) != 1 or endpoint.template.count("{") > 1:
            return False
        return one[0].place not in PLACES or endpoint.method in READING


def is_miss(subject: Subject, answer: Attempt | None) -> bool:
    """Whether an answer says that something that the request names is not there."""
    outcome = answer.outcome if answer else None
    if outcome is None or outcome.kind is not Kind.CLIENT_ERROR:
        return False
    if outcome.code in MISS_CODES:
        return True
    if outcome.code == "model_not_found":
        return any(one.kind == "model" for one in subject.resources)
    return outcome.status in MISS_STATUSES and outcome.code != "unknown_url"


def conflict(one: tuple[str, Resource | None], other: tuple[str, Resource | None]) -> ScopeConflict:
    """The 409 for a request that names two scopes: what, and what to do."""
    said = " and ".join(f"{name_of(resource)} the scope '{scope}'" for scope, resource in (one, other))
    return ScopeConflict(
        f"One request cannot use two projects: {said}. Make what it names under one of them (x-passthrough-scope pins "
        f"a request to a scope); or, if both are one project, give both the same model_info.scope in the configuration."
    )


def name_of(resource: Resource | None) -> str:
    """A resource in a message, with a verb; None is the client's own field. What is long or secret goes by its kind."""
    if resource is None:
        return "x-passthrough-scope asks for"
    if resource.kind in HASHED:
        return f"{resource.kind.replace('_', ' ')} belongs to"
    name = resource.id if len(resource.id) <= LONGEST_NAME else resource.id[:LONGEST_NAME] + "..."
    return f"'{name}' belongs to"
