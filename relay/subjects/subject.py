"""What a request is about: the models and the resources it names. The rooms that look make it, the router reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..values import Struct

if TYPE_CHECKING:
    from .endpoints import Endpoint


class Resource(NamedTuple):
    """An id that a request refers to, or that a response shows: ``Resource("file", "file-abc", "path")``."""

    kind: str
    id: str
    place: str  # "path", "query", "body", "header", "response", or "hint" (resources.HINT): pins if nothing else does


class Subject(Struct):
    """Everything in a request that can decide who answers it, and how often it may be sent."""

    endpoint: Endpoint
    header_model: str | None = None  # X-LiteLLM-Target-Model
    names: tuple[str, ...] = ()  # target_model_names, in order
    model: str | None = None  # the client's model, wherever it stood: body, form, query or path
    stream: bool = False
    resources: tuple[Resource, ...] = ()
    scope: str | None = None  # x-passthrough-scope
    session: str | None = None  # x-passthrough-session
    cache_key: str | None = None  # prompt_cache_key
    store: bool | None = None  # None: not said
    background: bool = False
    idempotency_key: bool = False
    retry_count: int = 0  # x-stainless-retry-count
    patience: float | None = None  # seconds the client will wait for the response head

    def copied(self) -> Subject:
        """Another one that says the same: what a head says is a pattern for all requests that come with it."""
        other = object.__new__(Subject)  # field by field: quicker than all of them together
        other.endpoint = self.endpoint
        other.header_model = self.header_model
        other.names = self.names
        other.model = self.model
        other.stream = self.stream
        other.resources = self.resources
        other.scope = self.scope
        other.session = self.session
        other.cache_key = self.cache_key
        other.store = self.store
        other.background = self.background
        other.idempotency_key = self.idempotency_key
        other.retry_count = self.retry_count
        other.patience = self.patience
        return other
