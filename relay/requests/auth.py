"""The key that a request carries, and the client that it stands for. Compared in constant time, over hashes."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from ..errors import InvalidKey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config import Client, Config
    from ..wire.heads import Head

KEY_FIELDS = (b"authorization", b"x-litellm-api-key", b"api-key", b"x-api-key")  # SPEC §4
SUBPROTOCOL_KEY = b"openai-insecure-api-key."  # how a browser's WebSocket carries its key


def authenticate(head: Head, config: Config) -> Client:
    """The client whose key the request carries. Raises InvalidKey; the text never repeats what was sent.

    What was found is remembered with the head. (Which heads are known is decided by a hash of all their bytes, so the
    time that takes tells nobody how near a guess is.)
    """
    known = head.memo.get(authenticate)
    if known is None or known[0] is not config:
        known = head.memo[authenticate] = config, find_client(head, config)
    client: Client = known[1]
    return client


def find_client(head: Head, config: Config) -> Client:
    """The client of the key that the head carries. Raises InvalidKey."""
    for client in config.clients:
        if client.digest is None:
            return client
    found = None
    carried = False
    for key in carried_keys(head, config):
        carried = True
        digest = hashlib.sha256(key).digest()
        for client in config.clients:  # all of them, so that the time taken says nothing
            if hmac.compare_digest(digest, client.digest or b""):
                found = client
    if found is not None:
        return found
    if carried:
        raise InvalidKey("Incorrect API key provided. This proxy wants its own key (master_key), not an upstream's.")
    raise InvalidKey("No API key provided. Send this proxy's key (master_key) as 'Authorization: Bearer KEY'.")


def carried_keys(head: Head, config: Config) -> Iterator[bytes]:
    """Every key that the request carries, in whichever field; ``Bearer`` in any case is taken off."""
    names = KEY_FIELDS if config.key_header is None else (*KEY_FIELDS, config.key_header.encode())
    for name in names:
        value = head.get(name)
        if value:
            scheme, space, key = value.partition(b" ")
            yield key.strip() if space and scheme.lower() == b"bearer" else value
    protocols = head.get(b"sec-websocket-protocol")
    if protocols:
        for protocol in protocols.split(b","):
            if protocol.strip().startswith(SUBPROTOCOL_KEY):
                yield protocol.strip()[len(SUBPROTOCOL_KEY) :]
