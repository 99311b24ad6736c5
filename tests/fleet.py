"""Deployments and configurations for the tests of routing."""

from __future__ import annotations

from typing import Any

from relay.config import BaseURL, Config, Deployment, ModelGroup, RouterSettings, Secret

BASE = BaseURL("https", "api.openai.com", 443, "/v1")


def deployment(name: str, group: str = "gpt-4", **given: Any) -> Deployment:
    """A deployment with a key, a scope and a quota group of its own, unless said otherwise."""
    given.setdefault("model", group)
    given.setdefault("scope", name)
    given.setdefault("quota_group", given["scope"])
    return Deployment(id=name, group=group, base=BASE, key=Secret(f"sk-{given['scope']}"), **given)


def config(*deployments: Deployment, settings: RouterSettings | None = None, **given: Any) -> Config:
    """A configuration with these deployments, grouped in order."""
    groups: dict[str, ModelGroup] = {}
    for one in deployments:
        known = groups.get(one.group, ModelGroup(one.group, ()))
        groups[one.group] = ModelGroup(one.group, (*known.deployments, one))
    return Config(groups=groups, router=settings or RouterSettings(), **given)
