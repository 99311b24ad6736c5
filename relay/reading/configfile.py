"""LiteLLM's YAML file, and our own sections in it, read into ``relay.config``'s frozen values (SPEC §3).

What can be served is served, what has no effect is said once, and only what is wrong, dangerous or ours stops the
start: with every problem of the file at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import Client, Config, Secret, UpstreamTLS
from ..errors import ConfigError
from ..values import Value, replace
from . import litellm
from .document import Report, Scalar, Table, plain
from .entry import PARAMS, Surroundings, read_verify
from .includes import load
from .kinds import FIELD_NAME, FLAG, SECONDS, TEXT
from .modellist import ModelList
from .references import References
from .routersettings import ROUTER, Defaults, read_defaults, read_router
from .section import Section, name_of, nearest, suggest
from .settings import read_affinity, read_limits, read_listener, read_logging, read_timeouts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..config import Listener
    from .document import Node, Place

#: The sections that have an effect.
SECTIONS = (
    "model_list",
    "router_settings",
    "general_settings",
    "litellm_settings",
    "environment_variables",
    "include",
    "credential_list",
    "server",
    "timeouts",
    "limits",
    "affinity",
    "logging",
)
#: The keys of ``general_settings`` that have an effect.
GENERAL = (
    "master_key",
    "litellm_key_header_name",
    "dangerously_permit_weak_or_unset_master_key",
    "pass_through_request_timeout",
)
#: The keys of ``litellm_settings`` that have an effect.
LITELLM = (
    "request_timeout",
    "num_retries",
    "json_logs",
    "ssl_verify",
    "fallbacks",
    "default_fallbacks",
    "allowed_fails",
    "cooldown_time",
)
#: Where a key belongs that stands in another section.
_HOMES = {
    **dict.fromkeys(PARAMS, "an entry's litellm_params"),
    **dict.fromkeys(LITELLM, "litellm_settings"),
    **dict.fromkeys(ROUTER, "router_settings"),
    **dict.fromkeys(GENERAL, "general_settings"),
}
#: A key that is shorter can be guessed (SPEC §12).
_SHORT_KEY = 16
ANYONE = Client("anyone", None)
LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"  # noqa: S104 - only with a master key


def parse_config(text: str, source: str, environ: Mapping[str, str], read_file: Callable[[str], str]) -> Config:
    """Read a whole configuration.

    ``source`` is the file's path: it opens every message, and relative ``include`` and ``file/`` paths start from its
    folder. ``read_file`` takes a path and gives its text, or raises ``OSError``. Raises ``ConfigError`` with every
    problem of the file, each as ``file:line:column: message``, in the order of the file.
    """
    report = Report()
    references = References(report, environ, read_file)
    references.files.append(source)
    table = load(text, source, references)
    config = None if table is None else _read(Section(table, "", references))
    if report.problems or config is None:
        raise ConfigError(report.lines(report.problems))
    return replace(config, warnings=report.lines(report.warnings), files=tuple(references.files))


class _Modules(Value):
    """``litellm_settings``: defaults for other sections."""

    request_timeout: float | None
    json_logs: bool | None
    tls: UpstreamTLS
    router: Defaults


def _read(root: Section) -> Config:
    """Every section, in an order in which each finds what it needs. With problems reported the values mean nothing."""
    root.references.variables = _variables(root)
    modules = _modules(root.take_section("litellm_settings"))
    general, router = root.take_section("general_settings"), root.take_section("router_settings")
    timeouts = (
        router.take("timeout", SECONDS, None),
        general.take("pass_through_request_timeout", SECONDS, None),
        modules.request_timeout,
    )
    response_head = next((seconds for seconds in timeouts if seconds is not None), None)
    models = _models(root, router, modules)
    settings, refused = read_router(router, modules.router, models.groups, models.unserved)
    permits_anyone = general.take("dangerously_permit_weak_or_unset_master_key", FLAG, default=False)
    key_header = general.take("litellm_key_header_name", FIELD_NAME, None)
    clients = _clients(general)
    _leftovers(general, litellm.KNOWN_GENERAL, GENERAL)
    _leftovers(router, litellm.KNOWN_ROUTER, ROUTER)
    config = Config(
        groups=models.groups,
        unserved={**models.unserved, **refused},
        clients=clients,
        permits_anyone=permits_anyone,
        key_header=key_header.lower() if key_header else None,
        listener=_listener(root, clients, permits_anyone=permits_anyone),
        timeouts=read_timeouts(root.take_section("timeouts"), response_head),
        limits=read_limits(root.take_section("limits")),
        router=settings,
        affinity=read_affinity(root.take_section("affinity"), root.references.variable("STATE_DIRECTORY")),
        logging=read_logging(root.take_section("logging"), json_logs=modules.json_logs),
    )
    _unknown_sections(root)
    return config


def _variables(root: Section) -> dict[str, Scalar]:
    """``environment_variables``: looked at only when something refers to one."""
    section = root.take_section("environment_variables")
    for key, (_, node) in section.entries.items():
        if not isinstance(node, Scalar):
            section.problem(node.place, f"{key}: expected a single value, found {name_of(node)}")
    return {key: node for key, (_, node) in section.entries.items() if isinstance(node, Scalar)}


def _modules(section: Section) -> _Modules:
    """``litellm_settings``. A base for all entries is not honoured, and ignoring it would send keys elsewhere."""
    if section.has("api_base"):
        section.problem(
            section.place_of("api_base"), "api_base: is not read here; write it into each entry's litellm_params"
        )
    modules = _Modules(
        request_timeout=section.take("request_timeout", SECONDS, None),
        json_logs=section.take("json_logs", FLAG, None),
        tls=read_verify(section, UpstreamTLS()),
        router=read_defaults(section),
    )
    _leftovers(section, litellm.KNOWN_LITELLM, LITELLM)
    return modules


def _models(root: Section, router: Section, modules: _Modules) -> ModelList:
    """``model_list`` with what other sections say about its entries."""
    around = Surroundings(
        root.references, _credentials(root), router.take("stream_timeout", SECONDS, None), modules.tls
    )
    models = ModelList(around)
    models.read(root)
    return models


def _credentials(root: Section) -> dict[str, Table]:
    """``credential_list``: LiteLLM's named sets of ``litellm_params`` that entries share."""
    found: dict[str, Table] = {}
    for node in root.take_items("credential_list", "a list of credentials"):
        if not isinstance(node, Table):
            root.problem(
                node.place, f"credential_list: expected credentials with a credential_name, found {name_of(node)}"
            )
            continue
        section = Section(node, "", root.references)
        place = section.place_of("credential_name")
        name = section.take("credential_name", TEXT, "")
        values = section.take_section("credential_values")
        if not name:
            section.problem(place, "credential_name is missing")
        elif name in found:
            section.problem(place, f"credential_name: {name!r} is given twice")
        found.setdefault(name, Table(values.place, values.entries))
    return found


def _clients(general: Section) -> tuple[Client, ...]:
    """Who may use the proxy: whoever holds ``master_key``, else ``LITELLM_MASTER_KEY``; without one, anybody."""
    place, given = general.place_of("master_key"), general.has("master_key")
    key = general.take_key("master_key")
    if not given:
        key = general.references.key_of("LITELLM_MASTER_KEY", place)
    if not key:
        return (ANYONE,)
    if len(key) < _SHORT_KEY:
        message = f"general_settings.master_key: shorter than {_SHORT_KEY} characters, so it can be guessed"
        general.report.warn(place, message)
    return (Client("master", Secret(key).digest),)


def _listener(root: Section, clients: tuple[Client, ...], *, permits_anyone: bool) -> Listener:
    """``server``, and the security default: loopback unless there is a key (SPEC §3)."""
    server = root.take_section("server")
    place = server.place_of("host")
    listener = read_listener(server, LOOPBACK if ANYONE in clients else EVERYWHERE)
    refusal = _refusal(listener.host, clients, permits_anyone=permits_anyone)
    if refusal:
        root.problem(place, f"server.host: {refusal}")
    return listener


def check_listener(config: Config, host: str) -> str | None:
    """SPEC §3's security default: why ``config`` must not be served on ``host``, or None if it may be.

    ``host`` is what ``--host`` says; that of the file has been looked at when the file was read.
    """
    return _refusal(host, config.clients, permits_anyone=config.permits_anyone)


def _refusal(host: str, clients: tuple[Client, ...], *, permits_anyone: bool) -> str | None:
    if permits_anyone or ANYONE not in clients or _is_loopback(host):
        return None
    return (
        f"without general_settings.master_key only loopback is served, not {host}; set a key, or "
        "dangerously_permit_weak_or_unset_master_key: true"
    )


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    from ipaddress import ip_address  # 3 ms, and most files have a key

    try:
        return ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _leftovers(section: Section, known: frozenset[str], honoured: tuple[str, ...]) -> None:
    """What nobody took of one of LiteLLM's sections (SPEC §3's classes)."""
    without_effect = []
    for key, (place, node) in section.entries.items():
        if key in litellm.REFUSED:
            _refuse(section, key, place, node)
        elif key in known:
            without_effect.append(key)
        elif not key.startswith("x-"):
            _unknown(section, key, place, (*honoured, *known))
    if without_effect:
        keys = ", ".join(without_effect)
        section.report.warn(section.place, f"{section.path.rstrip('.')}: these keys have no effect here: {keys}")


def _refuse(section: Section, key: str, place: Place, node: Node) -> None:
    """A switch that decides who is let in: a problem if it is on."""
    value: object = plain(node)
    if isinstance(node, Scalar) and node.text.startswith("os.environ/"):
        found = section.references.resolve(node, section.path + key)
        value = found.value if found else None
    if value and str(value).strip().lower() not in {"false", "none"}:
        section.problem(
            place, f"{key}: is not served here, and without it others would be let in; take it out to start"
        )


def _unknown(section: Section, key: str, place: Place, known: tuple[str, ...]) -> None:
    """A key that LiteLLM does not have here: misspelt, misplaced, or not known at all."""
    honoured = tuple(name for name in known if name in _HOMES)
    near = nearest(key, honoured)
    home = _HOMES.get(key)
    if key == "master_key":
        section.problem(place, f"{key}: belongs under general_settings; here it would protect nothing")
    elif home:
        section.report.warn(place, f"{section.path}{key}: has no effect here; it belongs under {home}")
    elif near:
        section.problem(place, f"{key}: unknown key; did you mean {near}?")
    else:
        section.report.warn(place, f"{section.path}{key}: unknown key, ignored{suggest(key, known)}")


def _unknown_sections(root: Section) -> None:
    """What nobody took at the top of the file."""
    known = [key for key in root.entries if key in litellm.KNOWN_SECTIONS]
    if known:
        place = root.entries[known[0]].place
        root.report.warn(place, f"these sections have no effect here: {', '.join(known)}")
    for key, (place, node) in root.entries.items():
        near = nearest(key, SECTIONS)
        if key in litellm.KNOWN_SECTIONS or key.startswith("x-"):
            continue
        if key in litellm.REFUSED:
            _refuse(root, key, place, node)
        elif near and key not in _HOMES:
            root.problem(place, f"{key}: unknown section; did you mean {near}?")
        else:
            _unknown(root, key, place, ())


def single_key_config(environ: Mapping[str, str]) -> Config:
    """The configuration without a file (SPEC §2): ``OPENAI_API_KEY`` serves everything, as group ``*``.

    ``OPENAI_BASE_URL`` or ``OPENAI_API_BASE`` is its base; ``LITELLM_MASTER_KEY`` and ``STATE_DIRECTORY`` count as with
    a file. Raises ``ConfigError`` if the key is not there or the base is none.
    """
    text = 'model_list: [{model_name: "*", litellm_params: {model: "*"}}]'
    if not environ.get("OPENAI_API_KEY"):
        raise ConfigError(
            ["no configuration file is given, and OPENAI_API_KEY is not set: name a file, set the key, or try --demo"]
        )
    try:
        config = parse_config(text, "environment", environ, str)  # the text names no file to read
    except ConfigError as error:
        raise ConfigError([_without_place(problem) for problem in error.problems]) from None
    return replace(config, warnings=tuple(_without_place(warning) for warning in config.warnings), files=())


def _without_place(finding: str) -> str:
    """A finding about the environment, which has no lines."""
    name, _line, _column, message = finding.split(":", 3)
    return f"{name}:{message}"
