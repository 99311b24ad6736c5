"""The sections that are ours: ``server``, ``timeouts``, ``limits``, ``affinity``, ``logging`` (SPEC §3, §9, §11).

Each is a table of its keys; ``docs/config.md`` and ``config.example.yaml`` say the same, and a test holds them in step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..config import AffinitySettings, Limits, Listener, ListenerTLS, LoggingSettings, Timeouts
from ..values import names_of
from .document import Items, Node, Table
from .kinds import (
    AT_LEAST_ONE,
    BYTES,
    COUNT,
    FLAG,
    LABEL,
    MODE,
    PORT,
    SECONDS,
    SECONDS_OR_NONE,
    TEXT,
    WORKERS,
    choice,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .kinds import Kind
    from .section import Section

SERVER: dict[str, Kind[Any]] = {
    "host": LABEL,
    "port": PORT,
    "workers": WORKERS,
    "backlog": AT_LEAST_ONE,
    "unix": TEXT,
    "unix_mode": MODE,
    "allow_admin": FLAG,
    "public_metrics": FLAG,
    "uvloop": FLAG,
}
TLS: dict[str, Kind[Any]] = {"certificate": TEXT, "key": TEXT, "client_ca": TEXT}
TIMEOUTS: dict[str, Kind[Any]] = dict.fromkeys(names_of(Timeouts), SECONDS) | {"drain": SECONDS_OR_NONE}
LIMITS: dict[str, Kind[Any]] = dict.fromkeys(names_of(Limits), BYTES) | {
    "head_bytes": whole("bytes (a plain whole number, 1024 or more)", least=1024),
    "target_bytes": whole("bytes (a plain whole number, 64 or more)", least=64),
    "inspection_bytes": whole("bytes (a plain whole number, 1024 or more)", least=1024),
    "head_fields": AT_LEAST_ONE,
    "connections": AT_LEAST_ONE,
}
AFFINITY: dict[str, Kind[Any]] = {
    "path": TEXT,
    "merge_lists": FLAG,
    "responses": choice("auto", "spread", "home"),
    "max_entries": AT_LEAST_ONE,
    "cache_entries": COUNT,
}


def _take_all(section: Section, table: Mapping[str, Kind[Any]], known: tuple[str, ...] = ()) -> dict[str, Any]:
    """The values of a table's keys that are given; whatever else stands in the section is a problem."""
    found = {key: section.take(key, kind, None) for key, kind in table.items()}
    section.refuse_unknown((*table, *known))
    return {key: value for key, value in found.items() if value is not None}


def read_listener(section: Section, default_host: str) -> Listener:
    """``server``."""
    has_tls, tls_place = section.has("tls"), section.place_of("tls")
    tls = _take_all(section.take_section("tls"), TLS)
    values = {"host": default_host} | _take_all(section, SERVER, ("tls",))
    values["host"] = values["host"].removeprefix("[").removesuffix("]")
    if has_tls and "certificate" not in tls:
        section.problem(tls_place, "tls: certificate is missing")
        has_tls = False
    return Listener(**values, tls=ListenerTLS(**tls) if has_tls else None)


def read_timeouts(section: Section, response_head: float | None) -> Timeouts:
    """``timeouts``; ``response_head`` is what LiteLLM's keys say, which counts where ours says nothing."""
    values = {} if response_head is None else {"response_head": response_head}
    return Timeouts(**values | _take_all(section, TIMEOUTS))


def read_limits(section: Section) -> Limits:
    """``limits``."""
    return Limits(**_take_all(section, LIMITS))


def read_affinity(section: Section, state_directory: str | None) -> AffinitySettings:
    """``affinity``. The store stands in systemd's ``$STATE_DIRECTORY`` (the first of a list) if there is one."""
    values = _take_all(section, AFFINITY)
    default = AffinitySettings().path
    if state_directory:
        default = state_directory.partition(":")[0].rstrip("/") + f"/{default}"
    path = values.pop("path", default)
    return AffinitySettings(path=None if path == ":memory:" else path, **values)


def read_logging(section: Section, *, json_logs: bool | None) -> LoggingSettings:
    """``logging``: what ``dictConfig`` takes, as it is but for references, and our one key beside it."""
    otel = section.take("otel", FLAG, default=False)
    found = {key: _plain(entry.node, key, section) for key, entry in section.entries.items()}
    return LoggingSettings(dict_config=found or None, json_logs=json_logs, otel=otel)


def _plain(node: Node, key: str, section: Section) -> Any:
    """As ``document.plain``, with ``os.environ/NAME`` in the place of texts resolved; other texts are formats."""
    if isinstance(node, Items):
        return [_plain(item, key, section) for item in node.items]
    if isinstance(node, Table):
        return {name: _plain(entry.node, f"{key}.{name}", section) for name, entry in node.entries.items()}
    if node.text.startswith("os.environ/"):
        value = section.references.resolve(node, section.path + key)
        return value.value if value else None
    return node.value
