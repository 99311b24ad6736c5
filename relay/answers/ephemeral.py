"""Ephemeral keys: an ``ek_`` secret that was minted through the proxy lets its holder in, on realtime paths only.

It goes upstream as itself, in the scope of its maker and nowhere else (SPEC §13), so it can do there what it was minted
for and not what the deployment's own key could.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..config import Client
from ..errors import InvalidKey
from ..requests.auth import authenticate, carried_keys
from ..subjects.endpoints import match_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config import Config
    from ..requests.targets import Target
    from ..wire.heads import RequestHead

PREFIX = b"ek_"
HOLDER = Client("ephemeral", None)  # the record's word for whoever holds one: who that is, nobody told us


class EphemeralKey(NamedTuple):
    """A secret, and the scope that it is good in."""

    secret: str
    scope: str


def admit(
    head: RequestHead, target: Target, config: Config, scope_of: Callable[[str], str | None]
) -> tuple[Client, EphemeralKey | None]:
    """Who asks, and the ephemeral key that he asks with, if it is one.

    ``scope_of``: where a secret was minted, None where it was not. A key of the configuration counts first. Raises
    InvalidKey.
    """
    try:
        client = authenticate(head, config)
    except InvalidKey:
        secret = find_secret(head, target, config)
        if secret is None:
            raise
    else:
        secret = find_secret(head, target, config) if client.digest is None else None  # None lets anybody in
        if secret is None:
            return client, None
    scope = scope_of(secret)
    if scope is None:
        raise InvalidKey("This ephemeral key was not made here, or its time is over. Ask for another one.")
    return HOLDER, EphemeralKey(secret, scope)


def find_secret(head: RequestHead, target: Target, config: Config) -> str | None:
    """The ephemeral key that a request carries, where its path may be asked for with one."""
    for key in carried_keys(head, config):
        if key.startswith(PREFIX) and key.isascii():
            endpoint = match_endpoint(head.method.decode("ascii"), target.path.decode("latin-1"))
            return key.decode() if endpoint.header_ids else None
    return None
