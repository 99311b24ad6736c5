"""The few pages that are ours: what this is, and how it is (SPEC §4). All below the mounts belongs to the API."""

from __future__ import annotations

import json

from .version import VERSION

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
