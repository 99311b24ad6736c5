"""What the upstream remembers of a request, for tests to compare byte for byte."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from .bodies import Blob
    from .messages import APIError, Fields
    from .script import Script

MOUNT = "/v1"

Outcome: TypeAlias = Literal["open", "done", "left", "cut"]  # left: the client did; cut: by a script


@dataclass(slots=True)
class Heard:
    """One request as it arrived."""

    method: str
    target: str
    fields: Fields  # in order, names in the client's case
    version: bytes
    connection: int  # the same for requests that shared one
    at: float  # by the upstream's clock
    key: str = ""
    project: str | None = None
    script: Script | None = None
    body: bytes | None = b""  # None when longer than 1 MiB
    length: int = 0
    sha256: str = sha256().hexdigest()
    outcome: Outcome = "open"
    ended: float = 0.0  # by the upstream's clock, once over
    over: asyncio.Event = field(default_factory=asyncio.Event)
    form_error: APIError | None = None

    @property
    def path(self) -> str:
        """The target below ``/v1``, without its query."""
        return self.target.partition("?")[0].removeprefix(MOUNT)

    def value(self, name: bytes) -> bytes:
        """The value of a field, by its name in lower case; empty if it is not there."""
        return next((value for own, value in self.fields if own.lower() == name), b"")

    def took(self, content: Blob) -> None:
        """Remember the content, or only its size and hash."""
        self.length, self.sha256 = content.size, content.sha256
        self.body = content.read() if content.size <= content.memory else None
