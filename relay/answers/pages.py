"""The few pages that are ours: what this is, and how it is (SPEC §4). All below the mounts belongs to the API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..errors import NotFound
from ..requests.auth import authenticate
from ..version import VERSION

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..requests.downstream import Exchange

TEXT = b"text/plain; charset=utf-8"
JSON = b"application/json"
METRICS = b"text/plain; version=0.0.4; charset=utf-8"

HOME = f"""passthrough {VERSION}: an OpenAI pass-through proxy over a pool of keys.

Point an OpenAI SDK's base_url at this address with /openai or /v1 behind it, and use this proxy's key as api_key.

    /openai/...  /openai/v1/...  /v1/...   every endpoint of the API
    /health/liveliness                     200 while the process lives
    /health/readiness                      200 while a deployment can be used, else 503
    /metrics                               Prometheus text, with the proxy's key
""".encode()

ALIVE = json.dumps("I'm alive!").encode()  # LiteLLM's own words, which probes may compare
LIVE_PATHS = frozenset({b"/health/liveliness", b"/health/liveness"})
READY_PATH = b"/health/readiness"
METRICS_PATH = b"/metrics"


def readiness(*, ready: bool) -> bytes:
    """What the readiness page says."""
    return json.dumps({"status": "healthy" if ready else "no deployment can be used", "version": VERSION}).encode()


async def serve(exchange: Exchange, is_ready: Callable[[], bool], metrics: Callable[[], Awaitable[bytes]]) -> None:
    """Answer a target outside the mounts, without a deployment. Raises NotFound, and InvalidKey for the metrics."""
    path = exchange.head.target.partition(b"?")[0]
    if exchange.head.method not in (b"GET", b"HEAD"):
        path = b""
    if path == b"/":
        respond(exchange, 200, TEXT, HOME)
    elif path in LIVE_PATHS:
        respond(exchange, 200, JSON, ALIVE)
    elif path == READY_PATH:
        ready = is_ready()
        respond(exchange, 200 if ready else 503, JSON, readiness(ready=ready))
    elif path == METRICS_PATH:
        if not exchange.config.listener.public_metrics:
            authenticate(exchange.head, exchange.config)
        exchange.is_local = True
        respond(exchange, 200, METRICS, await metrics())
    else:
        raise NotFound("Unknown path. The API is below /openai/ and /v1/; set the SDK's base_url accordingly.")


def respond(exchange: Exchange, status: int, content_type: bytes, content: bytes) -> None:
    """A page of ours, which leaves no record."""
    exchange.is_local = True
    exchange.respond(status, content_type, content, [])
