"""Log handlers that ``logging:`` in the configuration may name, for where the standard library has none.

Nothing imports this room but a configuration. All of them run on the log thread, where waiting is allowed.
"""

from __future__ import annotations

import logging
import socket
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .genai import genai_attributes
from .lines import EXCHANGE, FIELDS, JSONFormatter, encode
from .logqueue import BatchHandler

if TYPE_CHECKING:
    from collections.abc import Mapping

# syslog(3); journald uses the same numbers
PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
LEAST_FAILURE = 500
SUCCESS = range(200, 300)


class Failures(logging.Filter):
    """Lets exchanges pass that ended in a 5xx or in no answer, and events of the process from WARNING on."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record tells of a failure."""
        if record.name != EXCHANGE:
            return record.levelno >= logging.WARNING
        status = record.__dict__["status"]
        return status is None or status >= LEAST_FAILURE


class JournalHandler(logging.Handler):
    """Send records to systemd's journal in its native protocol, each field of an exchange as a field of its own.

    ``journalctl PASSTHROUGH_DEPLOYMENT=eu-1`` then finds what went there.
    """

    def __init__(self, identifier: str = "passthrough", address: str = "/run/systemd/journal/socket") -> None:
        super().__init__()
        self.identifier = identifier
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one datagram."""
        fields = {
            "MESSAGE": record.getMessage(),
            "PRIORITY": str(PRIORITIES.get(record.levelno, 6)),
            "SYSLOG_IDENTIFIER": self.identifier,
            "LOGGER": record.name,
        }
        if record.name == EXCHANGE:
            for name in FIELDS:
                value = record.__dict__[name]
                if value is not None:
                    fields[f"PASSTHROUGH_{name.upper()}"] = value if isinstance(value, str) else encode(value)
        try:
            self._socket.sendto(b"".join(map(journal_field, fields, fields.values())), self.address)
        except OSError:
            self.handleError(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def journal_field(name: str, value: str) -> bytes:
    """One field: systemd's native journal protocol gives those with line ends in them a length."""
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" not in data:
        return b"%s=%s\n" % (name.encode(), data)
    return b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)


class WebhookHandler(BatchHandler):
    """POST records to an HTTP address, as lines of JSON, a batch at a time over one kept connection."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, timeout: float = 5.0) -> None:
        super().__init__()
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"a webhook's url begins with http:// or https://, not {url!r}")
        self.formatter = JSONFormatter()
        self.headers = {"Content-Type": "application/x-ndjson", **(headers or {})}
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._connection = connection(parts.hostname, parts.port, timeout=timeout)

    def write_out(self) -> None:
        """Post the lines of this batch. A kept connection may have been closed meanwhile, so it is tried twice.

        Raises ConnectionError where the address does not take them.
        """
        lines, self.lines = self.lines, []
        content = "".join(f"{line}\n" for line in lines).encode()
        try:
            status = self._post(content)
        except (OSError, HTTPException):
            self._connection.close()
            status = self._post(content)
        if status not in SUCCESS:
            raise ConnectionError(f"the webhook answered {status}")

    def _post(self, content: bytes) -> int:
        self._connection.request("POST", self._target, content, self.headers)
        response = self._connection.getresponse()
        response.read()
        return response.status

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
        super().close()


class GenAIHandler(logging.Handler):
    """Give another handler records whose attributes have OpenTelemetry's GenAI names and plain types."""

    def __init__(self, inner: logging.Handler, provider: Any = None) -> None:
        super().__init__()
        self.inner = inner
        self.provider = provider

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on a record of the same place, time and message; others are passed on as they are."""
        if record.name == EXCHANGE:
            plain = {name: value for name, value in record.__dict__.items() if name not in FIELDS}
            record = logging.makeLogRecord(plain | genai_attributes(record.__dict__))
        self.inner.handle(record)

    def close(self) -> None:
        """Close the inner handler and send what its exporter still holds."""
        if self.provider is not None:
            self.provider.shutdown()
        self.inner.close()
        super().close()


def otlp(
    endpoint: str, headers: Mapping[str, str] | None = None, service: str = "passthrough", timeout: float = 10.0
) -> logging.Handler:
    """OpenTelemetry's own logging handler, sending to an OTLP collector over HTTP.

    Needs ``opentelemetry-exporter-otlp-proto-http`` and ``opentelemetry-instrumentation-logging``.
    """
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.instrumentation.logging.handler import LoggingHandler
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.resources import Resource

    provider = LoggerProvider(Resource.create({"service.name": service}), shutdown_on_exit=False)
    exporter = OTLPLogExporter(endpoint, headers=dict(headers or {}), timeout=timeout)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    return GenAIHandler(LoggingHandler(logger_provider=provider), provider)


def sentry(dsn: str, **options: Any) -> logging.Handler:
    """Sentry's own handler: each record that it is given becomes an event. Needs ``sentry-sdk``.

    ``options`` are those of ``sentry_sdk.init``. The SDK's integrations stay off: they would patch what is not theirs.
    """
    import sentry_sdk
    from sentry_sdk.integrations.logging import EventHandler

    sentry_sdk.init(dsn=dsn, **{"default_integrations": False, "auto_enabling_integrations": False, **options})
    return EventHandler(level=logging.INFO)
