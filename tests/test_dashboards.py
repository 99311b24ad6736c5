"""The dashboard and the alert rules: they load, and every metric and label that they name is one of ours."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from relay.record.metrics import Histogram, ProxyMetrics
from tests.harness import POST_CHAT, config_over, deployment, get, proxy_over
from tests.scripted import ScriptedUpstream

DASHBOARDS = Path(__file__).parent.parent / "docs" / "dashboards"
METRICS = ProxyMetrics("1")
# `name{labels}` or `name`; `by (...)` and `on (...)` name labels too.
NAME = re.compile(r"\b((?:passthrough|process)_\w+)(?:\{([^}]*)\})?")
GROUPED = re.compile(r"\b(?:by|on|without) \(([^)]*)\)")
ADDED_BY_SCRAPING = {"job", "instance"}


def names_and_labels(expression: str) -> tuple[dict[str, set[str]], set[str]]:
    """The metrics of an expression with the labels that they are asked for, and the labels that it groups by."""
    matched = {
        name: set(re.findall(r"(\w+)(?:=|!)", labels or ""))
        for name, labels in NAME.findall(expression.replace("$", ""))
    }
    grouped = {label.strip() for labels in GROUPED.findall(expression) for label in labels.split(",")}
    return matched, grouped


def known() -> dict[str, set[str]]:
    """Every sample name that the proxy exposes, with its labels."""
    found: dict[str, set[str]] = {}
    for name, family in METRICS._families.items():
        labels = set(family.label_names) | ADDED_BY_SCRAPING
        if isinstance(family, Histogram):
            found |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
        else:
            found[name] = labels
    return found


def check(expression: str) -> set[str]:
    """Assert that an expression can find something; the metrics that it names."""
    matched, grouped = names_and_labels(expression)
    assert matched, expression
    for name, labels in matched.items():
        assert name in known(), expression
        assert labels <= known()[name], expression
        assert grouped <= known()[name], expression
    return set(matched)


def dashboard() -> Any:
    return json.loads((DASHBOARDS / "grafana.json").read_text(encoding="utf-8"))


def test_every_panel_asks_for_metrics_that_there_are() -> None:
    expressions = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    asked = set().union(*map(check, expressions))
    shown = {name.removesuffix("_bucket") for name in asked}
    ours = {name for name in METRICS._families if name.startswith("passthrough_")}
    assert ours - shown == {"passthrough_build_info"}  # it fills the variable


def test_the_panels_have_names_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (panel["gridPos"]["x"] + across, panel["gridPos"]["y"] + down)
        for panel in panels
        for across in range(panel["gridPos"]["w"])
        for down in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(across for across, _ in cells) == 23


def test_every_alert_asks_for_metrics_that_there_are() -> None:
    (group,) = yaml.safe_load((DASHBOARDS / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    assert len(group["rules"]) == 10
    for rule in group["rules"]:
        check(rule["expr"])
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
        _, grouped = names_and_labels(rule["expr"])
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            assert label in grouped | known()[next(iter(names_and_labels(rule["expr"])[0]))]


def test_a_wrong_name_would_be_noticed() -> None:
    for wrong in (
        "passthrough_exchange_total",
        'passthrough_in_flight{model="x"}',
        "sum by (model) (passthrough_in_flight)",
    ):
        try:
            check(wrong)
        except AssertionError:
            continue
        raise AssertionError(wrong)


async def test_what_they_ask_for_comes_out_of_a_running_proxy() -> None:
    """Each metric that a panel or a rule names has a sample with the labels that it is matched and grouped by."""
    upstream = ScriptedUpstream()
    await upstream.start()
    upstream.says(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-ratelimit-limit-tokens: 1000\r\n"
        b"x-ratelimit-remaining-tokens: 900\r\nx-ratelimit-reset-tokens: 6s\r\nContent-Length: 54\r\n\r\n"
        b'{"usage":{"prompt_tokens":1000,"completion_tokens":7}}'
    )
    prices = (("input_cost_per_token", Decimal("0.001")),)
    async with proxy_over(config_over(deployment("a", upstream.port, prices=prices))) as proxy:
        await proxy.exchange(POST_CHAT)
        await proxy.record()
        text = (await proxy.exchange(get("/metrics"))).partition(b"\r\n\r\n")[2].decode()
    await upstream.close()
    shown: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            shown.setdefault(sample.name, set()).update(sample.labels, ADDED_BY_SCRAPING)
    expressions = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    (group,) = yaml.safe_load((DASHBOARDS / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for expression in [*expressions, *(rule["expr"] for rule in group["rules"])]:
        matched, grouped = names_and_labels(expression)
        for name, labels in matched.items():
            assert labels | grouped <= shown[name], expression
