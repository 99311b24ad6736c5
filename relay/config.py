"""What a configuration says, as frozen values.

``relay.reading.configfile`` makes them from YAML; nothing in here reads a file, the environment or a clock. Equal
values mean "unchanged" on reload. Times are seconds, sizes are bytes.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from .values import NOTHING, Value

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

MIB = 1 << 20


class Secret:
    """A key that does not show itself: ``repr`` and ``str`` give its last four characters at most."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key itself, for the one line that puts it on the wire."""
        return self._value

    @property
    def masked(self) -> str:
        """``...abcd``; keys too short to spare four characters show none."""
        return "..." + self._value[-4:] if len(self._value) >= 12 else "..."  # noqa: PLR2004 - a third at most

    @property
    def digest(self) -> bytes:
        """SHA-256 of the key: what is compared and stored in its place."""
        return hashlib.sha256(self._value.encode("utf-8", "surrogateescape")).digest()

    def __repr__(self) -> str:
        return f"Secret({self.masked!r})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class BaseURL(Value):
    """Where an upstream listens. ``path`` has no trailing slash; ``unix`` names a socket instead of host and port."""

    scheme: str
    host: str
    port: int
    path: str
    unix: str | None = None

    @property
    def authority(self) -> bytes:
        """The ``Host`` field's value: the port only where it is not the scheme's own (RFC 9110 §7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"http": 80, "https": 443}[self.scheme]
        return (host if self.port == default else f"{host}:{self.port}").encode()


class UpstreamTLS(Value):
    """How an upstream's certificate is checked, and what we show it. Paths, not contents."""

    verify: bool = True
    ca_file: str | None = None
    certificate: str | None = None
    key: str | None = None


class ListenerTLS(Value):
    """The proxy's own certificate; with ``client_ca`` clients must show one that it signed."""

    certificate: str
    key: str | None = None
    client_ca: str | None = None


class Deployment(Value):
    """One base URL, one key, one upstream model name."""

    _hidden = ("extra_headers", "proxy")  # they may hold keys and passwords

    id: str
    group: str
    base: BaseURL
    model: str  # what the upstream is asked for; "*" in it stands for what the group's pattern caught
    key: Secret | None
    scope: str
    quota_group: str
    scope_is_named: bool = False  # by the file (model_info.scope, organization, project), not by its key
    organization: str | None = None
    project: str | None = None
    weight: float | None = None
    rpm: float | None = None
    tpm: float | None = None
    order: int = 0
    timeout: float | None = None
    stream_timeout: float | None = None
    max_parallel_requests: int | None = None
    cooldown_time: float | None = None
    extra_headers: tuple[tuple[str, str], ...] = ()
    tls: UpstreamTLS = UpstreamTLS()
    proxy: str | None = None  # a URL; "none"; None: the environment's
    prices: tuple[tuple[str, Decimal], ...] = ()  # LiteLLM's names, per token (or per second, image, ...)


class ModelGroup(Value):
    """The name clients ask for, and the deployments that can answer. A trailing ``*`` makes it a pattern."""

    name: str
    deployments: tuple[Deployment, ...]


class Timeouts(Value):
    """Seconds, by SPEC §9's names."""

    head: float = 15
    keep_alive: float = 75
    body: float = 60
    connect: float = 5
    response_head: float = 600
    stream_idle: float = 600
    upstream_keep_alive: float = 50
    drain: float = 30


class Limits(Value):
    """Bytes and counts, by SPEC §9's names."""

    head_bytes: int = 64 << 10
    head_fields: int = 100
    target_bytes: int = 16 << 10
    request_bytes: int = 8 << 30
    inspection_bytes: int = MIB
    replay_bytes: int = 80 * MIB
    connections: int = 10_000


class Listener(Value):
    """Where and how we listen (``server`` in the file)."""

    host: str = "127.0.0.1"
    port: int = 4000
    unix: str | None = None
    unix_mode: int = 0o660
    workers: int = 1  # 0: as many as there are cores
    backlog: int = 2048
    allow_admin: bool = False
    public_metrics: bool = False
    uvloop: bool = False
    tls: ListenerTLS | None = None


class Client(Value):
    """Somebody who may use the proxy. ``digest`` is the SHA-256 of the key; None lets anybody in."""

    name: str
    digest: bytes | None


class RouterSettings(Value):
    """``router_settings``: how a deployment is chosen and left."""

    routing_strategy: str = "simple-shuffle"
    num_retries: int = 2
    allowed_fails: int = 3
    cooldown_time: float = 5
    disable_cooldowns: bool = False
    retry_after: float = 0
    model_group_alias: Mapping[str, str] = NOTHING
    fallbacks: Mapping[str, tuple[str, ...]] = NOTHING
    default_fallbacks: tuple[str, ...] = ()
    default_model: str | None = None
    unknown_model: str = "forward"  # or "reject"


class AffinitySettings(Value):
    """``affinity``: where resource ids are remembered. ``path`` None means nowhere but in memory."""

    path: str | None = "passthrough.db"
    merge_lists: bool = False
    responses: str = "auto"  # or "spread", "home"
    max_entries: int = 10_000_000
    cache_entries: int = 65_536


class LoggingSettings(Value):
    """``logging``: a ``dictConfig`` mapping that replaces the default, or None. ``otel`` asks for spans."""

    _hidden = ("dict_config",)  # it may hold a handler's credentials

    dict_config: Mapping[str, Any] | None = None
    json_logs: bool | None = None  # None: JSON unless stdout is a terminal
    otel: bool = False


class Config(Value):
    """Everything that the file decides. ``groups`` are in the order of the file."""

    groups: Mapping[str, ModelGroup]
    unserved: Mapping[str, str] = NOTHING  # group -> why it cannot be served
    clients: tuple[Client, ...] = (Client("anyone", None),)
    permits_anyone: bool = False  # general_settings.dangerously_permit_weak_or_unset_master_key
    key_header: str | None = None  # general_settings.litellm_key_header_name, lower case
    listener: Listener = Listener()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    router: RouterSettings = RouterSettings()
    affinity: AffinitySettings = AffinitySettings()
    logging: LoggingSettings = LoggingSettings()
    warnings: tuple[str, ...] = ()  # "file:line:column: message", said once at start
    files: tuple[str, ...] = ()  # every file that was read: the configuration, includes, keys; what --watch watches

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """All deployments, in the order of the file."""
        return tuple(deployment for group in self.groups.values() for deployment in group.deployments)
