"""What an answer teaches: ids, which are stored before the bytes that show them leave, and what was used."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..record.finders import USAGE, IdFinder, UsageFinder
from ..record.tap import ResponseTap
from ..record.usage import UNMETERED, total
from ..subjects.endpoints import location_resource, shown_by
from ..subjects.pointers import NOWHERE
from ..subjects.resources import HINT, as_resource
from ..wire.handshake import SWITCHING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..record.finders import Pairs
    from ..record.usage import Usage
    from ..subjects.subject import Resource, Subject
    from ..wire.heads import RequestHead, ResponseHead
    from .affinity import AffinityStore


class Learner:
    """Watches one answer that comes from ``scope``."""

    __slots__ = ("_affinity", "_metered", "_scope", "_tap")

    def __init__(self, affinity: AffinityStore, subject: Subject, head: ResponseHead, scope: str) -> None:
        good = 200 <= head.status < 300  # noqa: PLR2004 - errors make nothing and cost nothing
        endpoint = subject.endpoint
        self._affinity = affinity
        self._scope = scope
        self._metered = good and endpoint.metered
        self._tap = ResponseTap(
            head.get(b"content-type"),
            head.get(b"content-encoding"),
            shown_by(subject) if good else NOWHERE,
            self._metered,
            endpoint.template.startswith("/images/"),
        )

    @property
    def watch(self) -> Callable[[bytes], None] | None:
        """What to show every piece of content, before it leaves; None where there is nothing to be learnt from it."""
        return self._watch if self._tap.watching else None

    def _watch(self, data: bytes) -> None:
        """See bytes that are about to leave."""
        pairs = self._tap.feed(data)
        if pairs:
            store_pairs(self._affinity, pairs, self._scope)

    def finish(self) -> None:
        """The answer is over."""
        pairs = self._tap.finish()
        if pairs:
            store_pairs(self._affinity, pairs, self._scope)

    @property
    def usage(self) -> Usage | str | None:
        """What it used, ``UNMETERED`` where it should have said so, None where it uses nothing."""
        return (self._tap.usage or UNMETERED) if self._metered else None


class SessionLearner:
    """Watches one session of the Responses API over a WebSocket, with ``scope``: its events are those of streams."""

    __slots__ = ("_affinity", "_finder", "_metered", "_scope", "_subject", "_usage")

    def __init__(self, affinity: AffinityStore, subject: Subject, scope: str) -> None:
        self._affinity = affinity
        self._scope = scope
        self._subject = subject
        self._finder = IdFinder(subject.endpoint.unstored)
        self._metered = subject.endpoint.metered
        self._usage: Usage | None = None

    def expect(self, *, stored: bool) -> None:
        """A response is asked for. Once one is ``stored``, all that is shown counts: it does not say whose it is."""
        if stored:
            self._finder = IdFinder(self._subject.endpoint.response)

    def learn(self, message: bytes) -> None:
        """See a message that is about to reach the client. Never fails."""
        try:
            pairs = self._finder.event(message)
            if pairs:
                store_pairs(self._affinity, pairs, self._scope)
            if self._metered and USAGE.search(message) is not None:
                finder = UsageFinder()
                finder.feed(message)
                if finder.usage is not None:
                    finder.usage.service_tier = finder.tier
                    self._usage = total(self._usage, finder.usage)
        except Exception:  # noqa: BLE001 - watching never fails a session
            self._metered = False

    def finish(self) -> None:
        """The session is over."""

    @property
    def usage(self) -> Usage | str:
        """What all its responses used."""
        return self._usage or UNMETERED


def store_pairs(affinity: AffinityStore, pairs: Pairs, scope: str) -> None:
    """Remember the ids that an answer shows."""
    shown = [as_resource(kind, value, "response") for kind, value in pairs]
    affinity.remember([(one.kind, one.id) for one in shown if one is not None], scope, time.time())


def learn_from_head(
    affinity: AffinityStore, request: RequestHead, subject: Subject, head: ResponseHead, client: str, scope: str
) -> None:
    """What a successful answer's head shows: a ``Location``, a deletion, ids that live here, a client at work."""
    endpoint = subject.endpoint
    joined = head.status == SWITCHING and not endpoint.first_frame  # there is a session with what was named
    if not (200 <= head.status < 300 or joined):  # noqa: PLR2004 - success
        return
    location = head.get(b"location")
    if endpoint.answer and not subject.resources and not location:
        return
    now = time.time()
    gone = deleted_by(subject) if request.method == b"DELETE" else None
    pairs = [(one.kind, one.id) for one in subject.resources if one.place != HINT and one is not gone]
    made = location_resource(endpoint, location.decode("latin-1")) if location else None
    if made is not None:
        pairs.append((made.kind, made.id))
    if pairs:
        affinity.remember(pairs, scope, now)
    if gone is not None:
        affinity.forget(gone.kind, gone.id, now)
    elif request.method == b"POST" and not endpoint.answer:
        affinity.note_workspace(client, subject.session, now)


def deleted_by(subject: Subject) -> Resource | None:
    """What a successful DELETE has deleted: the one id of a path that ends with it.

    Below a parent it may be no resource of its own (a message of a thread), or one that lives on (a file that was
    taken out of a vector store).
    """
    template = subject.endpoint.template
    paths = [resource for resource in subject.resources if resource.place == "path"]
    return paths[0] if paths and template.endswith("}") and template.count("{") == 1 else None
