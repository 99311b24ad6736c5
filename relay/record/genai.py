"""An exchange in the words of OpenTelemetry's GenAI semantic conventions: flat names, values of plain types."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

Attributes = dict[str, str | int | float | bool]

OPERATIONS = {  # gen_ai.operation.name; the conventions have no word for what is missing here
    "/chat/completions": "chat",
    "/responses": "chat",
    "/completions": "text_completion",
    "/embeddings": "embeddings",
    "/images/generations": "generate_content",
    "/images/edits": "generate_content",
    "/images/variations": "generate_content",
    "/audio/speech": "generate_content",
    "/audio/transcriptions": "generate_content",
    "/audio/translations": "generate_content",
}
NAMES = {  # ours -> theirs; what they have no name for stands below our own
    "method": "http.request.method",
    "status": "http.response.status_code",
    "path": "url.path",
    "endpoint": "http.route",
    "model": "gen_ai.request.model",
    "id": "passthrough.id",
    "client": "passthrough.client",
    "group": "passthrough.group",
    "deployment": "passthrough.deployment",
    "scope": "passthrough.scope",
    "reason": "passthrough.reason",
    "outcome": "passthrough.outcome",
    "bytes_in": "passthrough.bytes_in",
    "bytes_out": "passthrough.bytes_out",
    "total_ms": "passthrough.total_ms",
    "upstream_request_id": "passthrough.upstream_request_id",
    "error": "passthrough.error",
}
USAGE_NAMES = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_write_tokens": "gen_ai.usage.cache_creation.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
    "audio_tokens": "passthrough.usage.audio_tokens",
    "seconds": "passthrough.usage.seconds",
    "images": "passthrough.usage.images",
    "service_tier": "openai.response.service_tier",
}
LEAST_ERROR = 400


def genai_attributes(values: Mapping[str, Any]) -> Attributes:
    """The attributes of one exchange. ``values`` has SPEC §11's names, as a log record does."""
    found: Attributes = {"gen_ai.provider.name": "openai"}
    operation = OPERATIONS.get(values["endpoint"])
    if operation:
        found["gen_ai.operation.name"] = operation
    for ours, theirs in NAMES.items():
        _add(found, theirs, values[ours])
    usage = values["usage"]
    if isinstance(usage, dict):
        for ours, theirs in USAGE_NAMES.items():
            _add(found, theirs, usage.get(ours))
    elif usage is not None:
        found["passthrough.unmetered"] = True
    if values["first_byte_ms"] is not None:
        found["gen_ai.response.time_to_first_chunk"] = values["first_byte_ms"] / 1000
    _add(found, "passthrough.cost_usd", values["cost"])
    found["passthrough.attempts"] = len(values["attempts"])
    if (values["status"] or LEAST_ERROR) >= LEAST_ERROR:
        found["error.type"] = values["outcome"] or str(values["status"])
    return found


def _add(found: Attributes, name: str, value: Any) -> None:
    if isinstance(value, Decimal):
        value = float(value)
    elif isinstance(value, str) and not value.isascii():
        value = value.encode("utf-8", "replace").decode()  # a lone surrogate would cost the exporter its whole batch
    if value is not None:
        found[name] = value
