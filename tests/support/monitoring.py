"""What config/prometheus and config/grafana hold: rules, panels and their expressions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
PROMETHEUS: Final = ROOT / "config/prometheus"
DASHBOARDS: Final = ROOT / "config/grafana/dashboards"
RULES: Final = sorted((PROMETHEUS / "rules").glob("*.yml"))
RULE_TESTS: Final = sorted((PROMETHEUS / "tests").glob("*.yml"))

# `a > 1` leaves out what is not; `a > bool 1` tells for each. Between matchers there is no space.
_COMPARISON: Final = re.compile(r" (==|!=|<=|>=|<|>) (?!bool )")


@dataclass(frozen=True)
class Expression:
    """An expression that we ship; `where` is for people, `role` is that of a role's dashboard."""

    where: str
    text: str
    role: str | None = None

    def unfiltered(self) -> str:
        """Return it with comparisons that filter nothing: no data means that series are missing."""
        return _COMPARISON.sub(r" \1 bool ", self.text)


def rules() -> list[dict[str, Any]]:
    """Return all rules, recording and alerting."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """Return the alerting rules; several may have one name."""
    return [rule for rule in rules() if "alert" in rule]


def recorded() -> set[str]:
    """Return the names of recorded series."""
    return {rule["record"] for rule in rules() if "record" in rule}


def dashboards() -> dict[str, dict[str, Any]]:
    """Return the dashboards by the names of their files."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a dashboard's panels without the rows' headings."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def rule_expressions() -> Iterator[Expression]:
    """Return the expressions of all rules."""
    for rule in rules():
        yield Expression(rule.get("alert") or rule["record"], rule["expr"])


def panel_expressions() -> Iterator[Expression]:
    """Return the expressions of all panels, with Grafana's variables in them."""
    roles = {"read-replica": "metastore_read_replica", "router": "metastore_router"}
    for name, dashboard in dashboards().items():
        role = None if name == "operators" else roles.get(name, name)
        for panel in panels(dashboard):
            for target in panel.get("targets", ()):
                yield Expression(f"{name}: {panel['title']}", target["expr"], role)


def filled(expression: Expression, instances: str = ".*") -> Expression:
    """Return a panel's expression as Grafana sends it, of nodes that match `instances`."""
    values = {"$__rate_interval": "1h", "$namespace": ".*", "$job": ".+", "$instance": instances}
    text = expression.text
    for variable, value in values.items():
        text = text.replace(variable, value)
    return Expression(expression.where, text, expression.role)
