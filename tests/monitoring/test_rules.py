"""The rules: Prometheus takes them, each alert is tested and has a runbook, all series exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.metrics.declaring import Kind
from proxy.metrics.series import DECLARED
from tests.support.monitoring import (
    PROMETHEUS,
    ROOT,
    RULE_TESTS,
    RULES,
    Expression,
    alerts,
    panel_expressions,
    recorded,
    rule_expressions,
    rules,
)
from tests.support.prometheus import run_promtool

RUNBOOK = (PROMETHEUS / "RUNBOOK.md").read_text(encoding="utf-8")
# Of a section: its heading and its text up to the next.
SECTION = re.compile(r"^## (\S+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"\b([a-zA-Z_][\w:]*)(?![\w:])(?!\s*\()(?:\{([^}]*)\})?")
MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left)\s*\(([^)]*)\)")
# Labels that a scrape adds; prometheus.yml says what rules and dashboards expect of it.
OF_TARGETS = {"job", "instance", "namespace"}
# Labels of the series that a server makes of alerts.
OF_ALERTS = {"alertname", "alertstate", "severity"}
WORDS = {"by", "without", "on", "ignoring", "and", "or", "unless", "bool", "Inf", "group_left"}
EXPRESSIONS = [*rule_expressions(), *panel_expressions()]


def labels_by_series() -> dict[str, set[str]]:
    """Return the labels of every series that is there to be queried."""
    found: dict[str, set[str]] = {"up": set(), "ALERTS": OF_ALERTS}
    for series in DECLARED:
        names = [series.name]
        if series.kind is Kind.HISTOGRAM:
            names = [f"{series.name}_{suffix}" for suffix in ("bucket", "sum", "count")]
        for name in names:
            found[name] = {*series.labels, *({"le"} if name.endswith("_bucket") else ())}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found |= {name: set() for name in re.findall(r"^\| `(process_\w+)`", readme, re.MULTILINE)}
    every = set().union(*found.values())
    return found | dict.fromkeys(recorded(), every)


LABELS = labels_by_series()


def series_of(expression: Expression) -> dict[str, set[str]]:
    """Return the series that an expression names, and the labels that select among them."""
    text = GROUPING.sub(" ", re.sub(r'"[^"]*"', '""', expression.text))
    text = re.sub(r"\[[^\]]*\]", "", text)
    found: dict[str, set[str]] = {}
    for name, matchers in NAME.findall(text):
        if name not in WORDS:
            found.setdefault(name, set()).update(MATCHER.findall(matchers))
    return found


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=lambda one: one.where)
def test_series_and_labels_are_those_that_nodes_export(expression: Expression) -> None:
    found = series_of(expression)
    assert found
    known = set(OF_TARGETS)
    for name, labels in found.items():
        assert name in LABELS
        assert labels <= LABELS[name] | OF_TARGETS
        known |= LABELS[name]
    for grouping in GROUPING.findall(expression.text):
        assert {label.strip() for label in grouping.split(",")} <= known


def test_a_series_that_nobody_exports_is_found() -> None:
    text = 'sum by (rpc) (rate(a_total{code="x", b=~"y"}[5m])) / on (job) c:d:e > 2 or up == 0'
    assert series_of(Expression("", text)) == {
        "a_total": {"code", "b"},
        "c:d:e": set(),
        "up": set(),
    }


def test_the_quickwit_rules_do_not_hang_on_a_label_that_kubernetes_hides() -> None:
    """A ServiceMonitor's target has a label `service` of its own, which wins."""
    assert not [one.where for one in EXPRESSIONS if "service" in _selecting(one)]


def _selecting(expression: Expression) -> set[str]:
    return set().union(*series_of(expression).values())


async def test_promtool_takes_the_configuration_and_its_rules() -> None:
    status, said = await run_promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))
    assert status == 0, said
    assert said.count("SUCCESS") == 2 + len(RULES)
    status, said = await run_promtool("check", "rules", "--lint-fatal", *map(str, RULES))
    assert status == 0, said


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
async def test_promtool_tests_the_rules(path: Path) -> None:
    status, said = await run_promtool("test", "rules", str(path))
    assert status == 0, said


@cache
def cases() -> list[tuple[str, dict[str, Any] | None]]:
    """Return each expectation of the unit tests: an alert's labels, None where it must not fire."""
    found: list[tuple[str, dict[str, Any] | None]] = []
    for path in RULE_TESTS:
        for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for one in case["alert_rule_test"]:
                expected = [fires["exp_labels"] for fires in one["exp_alerts"]] or [None]
                found += [(one["alertname"], labels) for labels in expected]
    return found


@pytest.mark.parametrize(
    "rule", alerts(), ids=lambda rule: "-".join((rule["alert"], *rule["labels"].values()))
)
class TestAlert:
    def test_a_case_fires_and_one_that_comes_close_does_not(self, rule: dict[str, Any]) -> None:
        found = [labels for name, labels in cases() if name == rule["alert"]]
        assert None in found
        fired = [labels for labels in found if labels is not None]
        assert any(rule["labels"].items() <= labels.items() for labels in fired)

    def test_it_says_who_and_how_much_and_where_to_read_on(self, rule: dict[str, Any]) -> None:
        assert set(rule["labels"]) <= {"severity", "window"}
        assert rule["labels"]["severity"] in {"critical", "warning"}
        notes = rule["annotations"]
        assert set(notes) == {"summary", "description", "runbook_url"}
        assert "{{ $labels." in notes["summary"]
        section = rule["alert"].lower()
        assert notes["runbook_url"] == f"config/prometheus/RUNBOOK.md#{section}"


def test_each_alert_has_a_section_of_the_runbook_and_each_section_an_alert() -> None:
    sections = dict(SECTION.findall(RUNBOOK))
    general = {name for name in sections if not name.startswith("MetastoreProxy")}
    assert general == {"Alerts"}
    assert sections.keys() - general == {rule["alert"] for rule in alerts()}
    for name in sections.keys() - general:
        for part in ("**Means**", "**Check**", "**Do**"):
            assert sections[name].count(part) == 1, (name, part)
    severity = {rule["alert"]: rule["labels"]["severity"] for rule in reversed(alerts())}
    listed = dict(re.findall(r"^\| \[`(\w+)`\]\(#\w+\) \| (\w+)", sections["Alerts"], re.MULTILINE))
    assert listed.keys() == severity.keys()


def test_the_runbook_names_series_and_keys_that_exist() -> None:
    keys = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "config").glob("*.yaml"))
    for key in set(re.findall(r"`(?:proxy|metastore\.postgres)\.(\w+)", RUNBOOK)):
        assert f"{key}:" in keys, key
    for name in set(re.findall(r"`((?:metastore_proxy|quickwit)_\w+)", RUNBOOK)) - {
        "metastore_proxy"
    }:
        assert name in LABELS, name


def test_recorded_names_are_recorded_once() -> None:
    names = [rule["record"] for rule in rules() if "record" in rule]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("suffix", ["requests_total", "request_duration_seconds_bucket"])
def test_the_names_of_quickwits_dashboards_are_recorded_with_their_labels(suffix: str) -> None:
    """Facts: its panels group by `rpc` and `le`, and select by `kind`, `status` and `instance`."""
    rule = next(one for one in rules() if one.get("record") == f"quickwit_metastore_grpc_{suffix}")
    (name,) = series_of(Expression("", rule["expr"]))
    assert {"rpc", "kind", "status"} <= LABELS[name]
    assert "sum" not in rule["expr"]
