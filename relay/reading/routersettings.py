"""``router_settings``: how a deployment is chosen and left; which names lead where (SPEC §3, §7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import RouterSettings
from ..values import Value
from .document import Items, Scalar, Table
from .kinds import COUNT, FLAG, SECONDS_OR_NONE, TEXT, choice
from .litellm import OTHER_STRATEGIES, STRATEGIES
from .section import name_of, suggest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .document import Node, Place, Report
    from .section import Section

#: The keys of ``router_settings`` that have an effect.
ROUTER = (
    "routing_strategy",
    "num_retries",
    "allowed_fails",
    "cooldown_time",
    "disable_cooldowns",
    "retry_after",
    "timeout",
    "stream_timeout",
    "model_group_alias",
    "fallbacks",
    "default_fallbacks",
    "default_model",
    "unknown_model",
)
_STANDARD = RouterSettings()
_FALLBACKS = "a list such as [{gpt-4: [gpt-4o]}]"


class Named(Value):
    """A model group's name and where it was written."""

    place: Place
    name: str


class Defaults(Value):
    """What ``litellm_settings`` says of the same keys; ``router_settings`` wins."""

    num_retries: int
    allowed_fails: int
    cooldown_time: float
    fallbacks: dict[str, tuple[Named, list[Named]]]
    default_fallbacks: list[Named]


def read_defaults(section: Section) -> Defaults:
    """Take from ``litellm_settings`` what LiteLLM documents there."""
    last = section.take_items("default_fallbacks", "a list of names")
    return Defaults(
        num_retries=section.take("num_retries", COUNT, _STANDARD.num_retries),
        allowed_fails=section.take("allowed_fails", COUNT, _STANDARD.allowed_fails),
        cooldown_time=section.take("cooldown_time", SECONDS_OR_NONE, _STANDARD.cooldown_time),
        fallbacks=_fallbacks(section),
        default_fallbacks=_names(last, "default_fallbacks", section),
    )


def read_router(
    section: Section, defaults: Defaults, groups: Iterable[str], unserved: Mapping[str, str]
) -> tuple[RouterSettings, dict[str, str]]:
    """The settings, and the aliases that lead to a group that is not served, with the reason."""
    served: dict[str, str] = {}
    given = {key: section.has(key) for key in ("fallbacks", "default_fallbacks")}
    aliases = _aliases(section)
    names = _Names(section.report, tuple(groups), unserved, {alias: target.name for alias, target in aliases.items()})
    for alias, target in aliases.items():
        reason = names.check(target, f"{section.path}model_group_alias.{alias}", "this alias answers 404")
        names.refused |= {alias: reason} if reason is not None else {}
        served |= {alias: target.name} if reason is None else {}
    fallbacks = _fallbacks(section) if given["fallbacks"] else defaults.fallbacks
    items = section.take_items("default_fallbacks", "a list of names")
    last = _names(items, "default_fallbacks", section) if given["default_fallbacks"] else defaults.default_fallbacks
    settings = RouterSettings(
        routing_strategy=_strategy(section),
        num_retries=section.take("num_retries", COUNT, defaults.num_retries),
        allowed_fails=section.take("allowed_fails", COUNT, defaults.allowed_fails),
        cooldown_time=section.take("cooldown_time", SECONDS_OR_NONE, defaults.cooldown_time),
        disable_cooldowns=section.take("disable_cooldowns", FLAG, default=False),
        retry_after=section.take("retry_after", SECONDS_OR_NONE, 0.0),
        model_group_alias=served,
        fallbacks=names.check_fallbacks(fallbacks),
        default_fallbacks=names.check_all(last, "default_fallbacks"),
        default_model=_default_model(section, names),
        unknown_model=section.take("unknown_model", choice("forward", "reject"), "forward"),
    )
    return settings, names.refused


def _strategy(section: Section) -> str:
    place = section.place_of("routing_strategy")
    name = section.take("routing_strategy", TEXT, STRATEGIES[0])
    if name in OTHER_STRATEGIES:
        message = f"{section.path}routing_strategy: {name} is not served here; {STRATEGIES[0]} is used"
        section.report.warn(place, message)
    elif name not in STRATEGIES:
        more = suggest(name, (*STRATEGIES, *OTHER_STRATEGIES)) or f"; there are {', '.join(STRATEGIES)}"
        section.problem(place, f"routing_strategy: there is no strategy {name!r}{more}")
    return name if name in STRATEGIES else STRATEGIES[0]


def _default_model(section: Section, names: _Names) -> str | None:
    node = section.pop("default_model")
    name = None if node is None else section.read(node, "default_model", TEXT)
    if node is None or name is None:
        return None
    reason = names.look_up(name)
    if reason is None:
        section.problem(node.place, f"default_model: there is no model group {name!r}{names.suggest(name)}")
    elif reason:
        section.problem(node.place, f"default_model: {name} cannot be the home group: {reason}")
    return name


def _aliases(section: Section) -> dict[str, Named]:
    """``alias: group`` or, as LiteLLM also has it, ``alias: {model: group, hidden: true}``."""
    aliases = section.take_section("model_group_alias")
    found = {}
    for alias, (_, written) in aliases.entries.items():
        node = written
        if isinstance(node, Table) and "model" in node.entries:
            node = node.entries["model"].node
        name = aliases.read(node, alias, TEXT)
        if name is not None:
            found[alias] = Named(node.place, name)
    return found


def _fallbacks(section: Section) -> dict[str, tuple[Named, list[Named]]]:
    """LiteLLM's list of mappings with one key each; one mapping of all is taken too."""
    node = section.pop("fallbacks")
    found: dict[str, tuple[Named, list[Named]]] = {}
    tables = node.items if isinstance(node, Items) else []
    for table in [node] if isinstance(node, Scalar | Table) else tables:
        if not isinstance(table, Table):
            section.problem(table.place, f"fallbacks: expected {_FALLBACKS}, found {name_of(table)}")
            continue
        for name, (place, value) in table.entries.items():
            if name in found:
                section.problem(place, f"fallbacks: {name!r} is given twice; write one list")
            items: list[Node] = value.items if isinstance(value, Items) else [value]
            found[name] = Named(place, name), _names(items, f"fallbacks.{name}", section)
    return found


def _names(items: list[Node], key: str, section: Section) -> list[Named]:
    """Names of groups; LiteLLM also has mappings with a ``model`` and parameters for it."""
    found = []
    for item in items:
        node = item
        if isinstance(node, Table) and "model" in node.entries:
            section.report.warn(node.place, f"{section.path}{key}: only model has an effect here")
            node = node.entries["model"].node
        if not isinstance(node, Scalar) or node.value is None:
            section.problem(node.place, f"{key}: expected the name of a model group, found {name_of(node)}")
            continue
        name = section.read(node, key, TEXT)
        if name is not None:
            found.append(Named(node.place, name))
    return found


class _Names:
    """Knows where a name leads: to a group, or to the reason why not."""

    def __init__(
        self, report: Report, groups: tuple[str, ...], unserved: Mapping[str, str], aliases: Mapping[str, str]
    ) -> None:
        self.report = report
        self.refused: dict[str, str] = {}  # aliases that lead to an unserved group
        self._groups = groups
        self._unserved = unserved
        self._aliases = aliases

    def look_up(self, name: str, *, aliases: bool = True) -> str | None:
        """Empty if something serves ``name``; why it is not served; None if nothing in the file is called so."""
        for reasons in (self._unserved, self.refused if aliases else {}):
            if name in reasons:
                return reasons[name]
        if name in self._groups or (aliases and name in self._aliases):
            return ""
        patterns = [pattern for pattern in (*self._groups, *self._unserved) if pattern.endswith("*")]
        caught = [pattern for pattern in patterns if name.startswith(pattern[:-1])]
        return self._unserved.get(max(caught, key=len), "") if caught else None

    def suggest(self, name: str) -> str:
        """The nearest name, or all of them if they are few."""
        names = (*self._groups, *self._aliases)
        few = 5
        return suggest(name, names) or (f"; there are {', '.join(names)}" if 0 < len(names) <= few else "")

    def check(self, named: Named, key: str, consequence: str, *, aliases: bool = False) -> str | None:
        """Why ``named`` is not served, which is warned about with the ``consequence``; None if it is served.

        A name that nothing in the file has is a problem.
        """
        reason = self.look_up(named.name, aliases=aliases)
        if reason is None:
            what = f"there is no model group {named.name!r}{self.suggest(named.name)}"
            if named.name in self._aliases:
                what = f"{named.name!r} is itself an alias; name a model group"
            self.report.problem(named.place, f"{key}: {what}")
            return ""
        if not reason:
            return None
        self.report.warn(named.place, f"{key}: {named.name} is not served ({reason}); {consequence}")
        return reason

    def check_all(self, targets: list[Named], key: str) -> tuple[str, ...]:
        """The targets that are served."""
        checked = [(self.check(target, key, "this step is left out", aliases=True), target.name) for target in targets]
        return tuple(name for reason, name in checked if reason is None)

    def check_fallbacks(self, fallbacks: Mapping[str, tuple[Named, list[Named]]]) -> dict[str, tuple[str, ...]]:
        """Fallbacks whose groups exist, but for steps that are not served."""
        found = {}
        for name, (source, targets) in fallbacks.items():
            if name != "*" and self.look_up(name) is None:
                message = f"fallbacks: there is no model group {name!r}{self.suggest(name)}"
                self.report.problem(source.place, message)
            found[name] = self.check_all(targets, f"fallbacks.{name}")
        return found
