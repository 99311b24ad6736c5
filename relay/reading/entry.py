"""One entry of ``model_list`` → its deployments, or why it is not served (SPEC §3)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ..config import BaseURL, Deployment, Secret, UpstreamTLS
from ..patterns import late
from ..values import Value, replace
from . import litellm
from .bases import parse_base, show_base
from .document import Scalar
from .kinds import (
    AT_LEAST_ONE,
    FIELD_NAME,
    INTEGER,
    LABEL,
    PRICE,
    PROXY,
    SECONDS,
    SECONDS_OR_NONE,
    SECRET_TEXT,
    SHARE,
    TEXT,
    VERIFY,
)
from .providers import AZURE_PATH, OPENAI, OTHERS, PROVIDERS, Provider, advice, split_model
from .section import nearest, suggest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    from .document import Place, Table
    from .references import References
    from .section import Section

#: Keys of ``litellm_params`` that have an effect, but for the prices.
PARAMS = (
    "model",
    "api_key",
    "api_base",
    "base_url",
    "organization",
    "project",
    "weight",
    "rpm",
    "tpm",
    "order",
    "timeout",
    "stream_timeout",
    "max_parallel_requests",
    "cooldown_time",
    "extra_headers",
    "ssl_verify",
    "client_certificate",
    "client_key",
    "proxy",
    "custom_llm_provider",
    "litellm_credential_name",
)
_HONOURED = (*PARAMS, *litellm.PRICES)
#: Keys of ``model_info`` that have an effect, but for the prices; the rest of it is free.
INFO = ("id", "scope", "quota_group")

_FIELD_VALUE = late("[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?")
#: Fields that are the proxy's own to write: framing, hops, and those that other keys of the entry set.
_OUR_FIELDS = frozenset(
    {
        "authorization",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "openai-organization",
        "openai-project",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class Skipped(Value):
    """Why an entry is not served, and what to write instead (or nothing)."""

    reason: str
    advice: str = ""


class Surroundings:
    """What the rest of the file says about every entry; ``without_effect`` collects keys that do nothing here."""

    def __init__(
        self, references: References, credentials: Mapping[str, Table], stream_timeout: float | None, tls: UpstreamTLS
    ) -> None:
        self.references = references
        self.credentials = credentials
        self.stream_timeout = stream_timeout
        self.tls = tls
        self.without_effect: set[str] = set()


def read_entry(group: str, params: Section, info: Section, around: Surroundings) -> list[Deployment] | Skipped:
    """The deployments of one entry, several where ``organization`` is a list; none if it has no ``model``.

    An ``id`` is empty where it is to be derived. What is wrong goes to the report; the values then mean nothing.
    """
    _add_credential(params, around)
    meant = _misspelt(params)
    if not params.has("model"):
        if "model" not in meant:
            params.problem(params.place_of("model"), "model is missing; it is what the upstream is asked for")
        return []
    provider = _provider(params, around.references)
    if isinstance(provider, Skipped):
        return provider
    place = params.place_of("model")
    name = _model(params, provider)
    base, own = _base(params, provider, place) if not {"api_base", "base_url"} & meant else (_NOWHERE, True)
    key = _key(params, provider, place, own=own or "api_key" in meant)
    organizations = _organizations(params)
    template = _template(group, params, info, around)
    template = replace(template, base=base, model=name, key=Secret(key) if key else None)
    scope, quota_group = info.take("scope", LABEL, None), info.take("quota_group", LABEL, None)
    _leftovers(params, around)
    return [
        _finish(template, organization, scope, quota_group, several=len(organizations) > 1)
        for organization in organizations
    ]


def _add_credential(params: Section, around: Surroundings) -> None:
    """``litellm_credential_name``: what ``credential_list`` has under that name, unless the entry says it."""
    place = params.place_of("litellm_credential_name")
    name = params.take("litellm_credential_name", TEXT, None)
    if name is None:
        return
    credential = around.credentials.get(name)
    if credential is None:
        more = suggest(name, around.credentials)
        params.problem(place, f"litellm_credential_name: credential_list has no {name!r}{more}")
    else:
        params.put_defaults(credential.entries)


def _peek(params: Section, key: str, references: References) -> str:
    """A text before it is known whether the entry is served: blanks and unset variables are not held against it."""
    entry = params.entries.get(key)
    found = references.peek(entry.node) if entry and isinstance(entry.node, Scalar) else None
    return (found or "").strip()


def _has_base(params: Section) -> bool:
    return params.has("api_base") or params.has("base_url")


def _provider(params: Section, references: References) -> Provider | Skipped:
    """Whose API the entry means; a ``Skipped`` if that is not spoken here."""
    model = _peek(params, "model", references)
    custom = _peek(params, "custom_llm_provider", references) or None
    base = _peek(params, "api_base", references) or _peek(params, "base_url", references)
    prefix, name = split_model(model, custom, has_base=_has_base(params))
    if prefix in PROVIDERS:
        return PROVIDERS[prefix]
    if prefix == "azure" and base.rstrip("/").endswith(AZURE_PATH):
        return Provider("azure", "", "")
    if prefix not in OTHERS:
        more = suggest(prefix, (*PROVIDERS, *OTHERS))
        place = params.place_of("custom_llm_provider")
        params.problem(place, f"custom_llm_provider: LiteLLM has no provider {prefix!r}{more}")
        return PROVIDERS["openai"]
    return Skipped(f"the provider {prefix} is not served here", advice(prefix, name, base or None))


def _model(params: Section, provider: Provider) -> str:
    """The upstream's model name; of ``vendor/name`` only a provider's word goes."""
    place = params.place_of("model")
    custom = params.take("custom_llm_provider", TEXT, None)
    model = params.take("model", TEXT, "")
    name = split_model(model, custom, has_base=True)[1]
    vendor, slash, _ = model.partition("/")
    if slash and name == model and custom is None and not _has_base(params):
        what = f"{vendor}/ is no provider of LiteLLM's and so part of the name, which is asked for at OpenAI's base"
        params.report.warn(place, f"model: {what}; a server of your own needs an api_base")
    if name.count("*") > 1:
        params.problem(place, "model: one * stands for what the group's pattern caught; here are more")
    if model and not name:
        params.problem(place, f"model: a name must follow {provider.prefix}/")
    return name


_NOWHERE = BaseURL("http", "", 80, "")  # stands in for a base that could not be read


def _base(params: Section, provider: Provider, place: Place) -> tuple[BaseURL, bool]:
    """The base, and whether it is the entry's own."""
    given = [(key, params.pop(key)) for key in ("api_base", "base_url") if params.has(key)]
    texts = []
    for key, node in given:
        found = params.read(node, key, SECRET_TEXT) if node else None
        if node and found is not None:
            texts.append((key, node.place, found))
    if len({text for _, _, text in texts}) > 1:
        params.problem(texts[1][1], "base_url: api_base says otherwise; one of the two is enough")
    if given:
        return (_parse(params, *texts[0], root=provider.root) if texts else _NOWHERE), True
    if provider.prefix in OPENAI:
        for variable in ("OPENAI_BASE_URL", "OPENAI_API_BASE"):
            text = params.references.variable(variable)
            if text:
                return _parse(params, variable, place, text, root=False), False
    if not provider.base:
        params.problem(place, f"api_base is missing; {provider.prefix}/ has no base of its own")
        return _NOWHERE, True
    return parse_base(provider.base, root=provider.root), False


def _parse(params: Section, key: str, place: Place, text: str, *, root: bool) -> BaseURL:
    try:
        return parse_base(text, root=root)
    except ValueError as error:
        params.problem(place, f"{key}: {error}")
        return _NOWHERE


def _key(params: Section, provider: Provider, place: Place, *, own: bool) -> str | None:
    """The key: the entry's; without one, that of the provider's variable, but never for a base of the entry's own."""
    entry = params.entries.get("api_key")
    if params.has("api_key") and not (entry and isinstance(entry.node, Scalar) and not entry.node.text.strip()):
        return params.take_key("api_key")
    params.pop("api_key")
    if own or not provider.key_variable:
        return None
    found = params.references.key_of(provider.key_variable, place)
    if not params.references.variable(provider.key_variable):
        params.problem(place, f"api_key is missing, and the environment variable {provider.key_variable} is not set")
    return found


def _organizations(params: Section) -> list[str | None]:
    """``organization``, which may be a list: one deployment for each."""
    items = params.take_items("organization", "an organization or a list of them")
    found = [params.read(item, "organization", LABEL) for item in items]
    return list(found) or [None]


def _template(group: str, params: Section, info: Section, around: Surroundings) -> Deployment:
    """The deployment but for what depends on its base and its organization."""
    return Deployment(
        id=info.take("id", LABEL, ""),
        group=group,
        base=_NOWHERE,
        model="",
        key=None,
        scope="",
        quota_group="",
        project=params.take("project", LABEL, None),
        weight=params.take("weight", SHARE, None),
        rpm=params.take("rpm", SHARE, None),
        tpm=params.take("tpm", SHARE, None),
        order=params.take("order", INTEGER, 0),
        timeout=params.take("timeout", SECONDS, None),
        stream_timeout=params.take("stream_timeout", SECONDS, around.stream_timeout),
        max_parallel_requests=params.take("max_parallel_requests", AT_LEAST_ONE, None),
        cooldown_time=params.take("cooldown_time", SECONDS_OR_NONE, None),
        extra_headers=_extra_headers(params),
        tls=_tls(params, around.tls),
        proxy=params.take("proxy", PROXY, None),
        prices=_prices(params, info),
    )


def _extra_headers(params: Section) -> tuple[tuple[str, str], ...]:
    """Field lines to add; their values may be secrets and are never shown."""
    headers = params.take_section("extra_headers")
    found = []
    for name, (place, node) in list(headers.entries.items()):
        if not _is_field_name(name):
            headers.problem(place, f"{name}: expected {FIELD_NAME.expected}")
        elif name.lower() in _OUR_FIELDS:
            headers.problem(place, f"{name}: this field is the proxy's own to write")
        else:
            value = headers.read(node, name, SECRET_TEXT)
            if value is not None and not _FIELD_VALUE.fullmatch(value):
                headers.problem(node.place, f"{name}: the value cannot stand in a header")
            found.append((name, value or ""))
    return tuple(found)


def _is_field_name(name: str) -> bool:
    try:
        return FIELD_NAME.read(name) == name
    except ValueError:
        return False


def read_verify(section: Section, default: UpstreamTLS) -> UpstreamTLS:
    """``ssl_verify`` of an entry, or of all entries (``litellm_settings``)."""
    found = section.take("ssl_verify", VERIFY, None)
    if found is None:
        return default
    if isinstance(found, bool):
        return replace(default, verify=found, ca_file=None)
    return replace(default, verify=True, ca_file=found)


def _tls(params: Section, default: UpstreamTLS) -> UpstreamTLS:
    place = params.place_of("client_key")
    certificate, key = params.take("client_certificate", TEXT, None), params.take("client_key", TEXT, None)
    if key and not certificate:
        params.problem(place, "client_key: needs a client_certificate beside it")
    return replace(read_verify(params, default), certificate=certificate, key=key)


def _prices(params: Section, info: Section) -> tuple[tuple[str, Decimal], ...]:
    """Prices of both places; ``litellm_params`` wins, as in LiteLLM."""
    found = {}
    for section in (info, params):
        for name in [name for name in section.entries if litellm.is_price(name)]:
            price = section.take(name, PRICE, None)
            if price is not None:
                found[name] = price
    return tuple(found.items())


def _is_known(key: str) -> bool:
    """Whether LiteLLM or we know a key of ``litellm_params``, whatever it does."""
    if key in PARAMS or key in litellm.KNOWN_PARAMS or key in litellm.REQUEST_DEFAULTS or key in litellm.MOCKS:
        return True
    return litellm.is_price(key) or key.startswith("x-")


def _misspelt(params: Section) -> set[str]:
    """The keys that were meant by near misses of them, which are problems and are taken out."""
    meant = {key: near for key in params.entries if not _is_known(key) and (near := nearest(key, _HONOURED))}
    for key, near in meant.items():
        params.problem(params.place_of(key), f"{key}: unknown key; did you mean {near}?")
        params.pop(key)
    return set(meant.values())


def _leftovers(params: Section, around: Surroundings) -> None:
    """What nobody took: defaults for requests, LiteLLM's other keys, unknown ones."""
    defaults = []
    for key, (place, _) in params.entries.items():
        if key in litellm.REQUEST_DEFAULTS:
            defaults.append((place, key))
        elif key in litellm.MOCKS:
            params.report.warn(place, f"{key}: has no effect here; real calls are made")
        elif key in litellm.KNOWN_PARAMS or litellm.OTHER_PRICE.fullmatch(key):
            around.without_effect.add(key)
        elif not key.startswith("x-"):
            params.report.warn(place, f"{key}: unknown key, ignored{suggest(key, litellm.KNOWN_PARAMS)}")
    if defaults:
        names = ", ".join(key for _, key in defaults)
        message = (
            f"{names}: defaults for requests have no effect here; bodies pass untouched, so clients must send them"
        )
        params.report.warn(min(defaults)[0], message)


def _finish(
    template: Deployment, organization: str | None, scope: str | None, quota_group: str | None, *, several: bool
) -> Deployment:
    """One deployment of the entry: its organization, scope and quota group (SPEC §3)."""
    named = scope is not None or organization is not None or template.project is not None
    scope = scope or _default_scope(template, organization)
    return replace(
        template,
        id=f"{template.id}/{organization}" if template.id and several else template.id,
        organization=organization,
        scope=scope,
        quota_group=quota_group or scope,
        scope_is_named=named,
    )


def _default_scope(deployment: Deployment, organization: str | None) -> str:
    """Organization and project at this base; else the key at this base, by a hash that is too short to find a key by.

    The base is part of both: a key that stands at two servers (``none``, say) makes no project of them.
    """
    base = show_base(deployment.base).partition("://")[2]
    if organization or deployment.project:
        project = f"/{deployment.project}" if deployment.project else ""
        return f"{organization or ''}{project}@{base}"
    if deployment.key is None:
        return f"keyless@{base}"
    text = f"{base}\n{deployment.key.digest.hex()}"
    return f"key-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
