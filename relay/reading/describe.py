"""What a configuration amounts to, in words: for ``--check`` and for the start (SPEC §2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .bases import show_base

if TYPE_CHECKING:
    from ..config import Config, Deployment, ModelGroup

_COLUMNS = ("group", "deployment", "asks for", "at", "key", "scope", "")


def describe(config: Config) -> str:
    """The effective routing table: text of several lines, keys masked to their last four characters."""
    rows = [row for group in config.groups.values() for row in _rows(group)]
    lines = [*aligned([_COLUMNS, *rows]), ""]
    lines += [f"{name}: not served: {reason}" for name, reason in config.unserved.items()]
    lines += [f"{alias} means {name}" for alias, name in config.router.model_group_alias.items()]
    lines += [f"{name} falls back to {', '.join(to)}" for name, to in config.router.fallbacks.items() if to]
    if config.router.default_fallbacks:
        lines.append(f"any other group falls back to {', '.join(config.router.default_fallbacks)}")
    lines += [_unknown_models(config), _listening(config)]
    return "\n".join(line.rstrip() for line in lines)


def _rows(group: ModelGroup) -> list[tuple[str, ...]]:
    names = [group.name] + [""] * (len(group.deployments) - 1)
    return [(name, *_cells(deployment)) for name, deployment in zip(names, group.deployments, strict=True)]


def _cells(deployment: Deployment) -> tuple[str, ...]:
    key = "none" if deployment.key is None else deployment.key.masked
    shares = ("order", "weight", "rpm", "tpm", "max_parallel_requests")
    extras = [f"{name} {value:g}" for name in shares if (value := getattr(deployment, name))]
    return deployment.id, deployment.model, show_base(deployment.base), key, deployment.scope, ", ".join(extras)


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """The rows as lines, each column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _unknown_models(config: Config) -> str:
    home = config.router.default_model or next(iter(config.groups), "none")
    what = "forwarded to it" if config.router.unknown_model == "forward" else "answered 404"
    return f"home group: {home}; unknown models are {what}"


def _listening(config: Config) -> str:
    listener = config.listener
    host = f"[{listener.host}]" if ":" in listener.host else listener.host
    where = f"unix:{listener.unix}" if listener.unix else f"{host}:{listener.port}"
    return f"listens on {where}; {security_notice(config) or 'clients need the master key'}"


def security_notice(config: Config) -> str | None:
    """What the start should say where no key protects the upstream keys; None if one does."""
    if all(client.digest is not None for client in config.clients):
        return None
    if config.permits_anyone:
        return "no master_key is set: anybody who reaches it may use the upstream keys"
    return "no master_key is set, so only loopback is served"
