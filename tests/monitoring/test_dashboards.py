"""The dashboards: as Grafana reads them, whole, without overlaps, and about series that exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from proxy.metrics.series import DECLARED
from tests.support.monitoring import ROOT, dashboards, filled, panel_expressions, panels
from tests.support.prometheus import run_promtool

GRAFANA = ROOT / "config/grafana"
DASHBOARDS = dashboards()
NAMES = {"operators", "metastore", "read-replica", "router"}
UNITS = {value for name, value in vars(units).items() if not name.startswith("_")}
SECTIONS = set(
    re.findall(r"^## (\S+)$", (ROOT / "config/prometheus/RUNBOOK.md").read_text(), re.MULTILINE)
)
VARIABLE = re.compile(r"\$\{?(\w+)")
# Grafana's own.
BUILT_IN = {"__rate_interval", "__all"}
# So that the options of each kind of panel are looked at as well.
register_default_plugins()
PANELS = [
    pytest.param(name, panel, id=f"{name}: {panel['title']}")
    for name, dashboard in DASHBOARDS.items()
    for panel in panels(dashboard)
]


def lost(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Return where `theirs` lacks what `ours` has, or has something else."""
    if isinstance(ours, dict):
        if not isinstance(theirs, dict):
            return [path]
        return [
            found
            for key, value in ours.items()
            for found in lost(value, theirs.get(key), f"{path}.{key}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [found for at, (one, other) in pairs for found in lost(one, other, f"{path}[{at}]")]
    return [] if ours == theirs else [path]


def read_back(dashboard: dict[str, Any]) -> Any:
    """Return what Grafana's own models make of a dashboard: they drop what they do not know."""
    return json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))


def test_there_is_one_for_operators_and_one_per_role() -> None:
    assert DASHBOARDS.keys() == NAMES
    assert {one["uid"] for one in DASHBOARDS.values()} == {f"metastore-proxy-{n}" for n in NAMES}
    assert len({one["title"] for one in DASHBOARDS.values()}) == len(NAMES)


def test_they_are_what_their_descriptions_make() -> None:
    command = [sys.executable, str(GRAFANA / "build.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", sorted(NAMES))
class TestDashboard:
    def test_grafanas_models_know_every_key(self, name: str) -> None:
        assert lost(DASHBOARDS[name], read_back(DASHBOARDS[name])) == []

    def test_ids_are_unique(self, name: str) -> None:
        ids = [panel["id"] for panel in DASHBOARDS[name]["panels"]]
        assert len(ids) == len(set(ids))

    def test_panels_do_not_overlap(self, name: str) -> None:
        places = [panel["gridPos"] for panel in DASHBOARDS[name]["panels"]]
        for place in places:
            assert place["x"] >= 0
            assert place["x"] + place["w"] <= 24
            assert min(place["w"], place["h"]) >= 1
        for one, other in combinations(places, 2):
            beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert beside or above, (one, other)

    def test_variables_are_defined(self, name: str) -> None:
        dashboard = DASHBOARDS[name]
        defined = [one["name"] for one in dashboard["templating"]["list"]]
        assert defined == ["datasource", "namespace", "job", "instance", "runbook"]
        assert set(VARIABLE.findall(json.dumps(dashboard))) <= {*defined, *BUILT_IN}
        role = dashboard["templating"]["list"][3]["query"]["query"]
        assert ("role=" in role) == (name != "operators")


@pytest.mark.parametrize(("name", "panel"), PANELS)
class TestPanel:
    def test_it_says_what_it_shows(self, name: str, panel: dict[str, Any]) -> None:
        assert panel["title"]
        assert len(panel["description"]) > 10
        same = [one for one in panels(DASHBOARDS[name]) if one["title"] == panel["title"]]
        assert same == [panel]
        for link in panel.get("links", ()):
            section = link["title"].removeprefix("Runbook: ")
            assert section in SECTIONS
            assert link["url"] == f"${{runbook}}#{section.lower()}"

    def test_it_has_a_unit_and_asks_the_chosen_data_source(
        self, name: str, panel: dict[str, Any]
    ) -> None:
        if panel["type"] == "text":
            assert "targets" not in panel
            return
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        chosen = {"type": "prometheus", "uid": "${datasource}"}
        assert panel["datasource"] == chosen
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert target["datasource"] == chosen
            assert "$job" in target["expr"]
            # A `stat` and a `table` show the newest value, and load the server no more than that.
            assert target["instant"] is (panel["type"] != "timeseries")

    def test_what_is_shown_tells_series_apart(self, name: str, panel: dict[str, Any]) -> None:
        known = {"job", "instance", "alertname", "alertstate", "severity"}
        known.update(*(series.labels for series in DECLARED))
        legends = " ".join(target["legendFormat"] for target in panel.get("targets", ()))
        shown = set(re.findall(r"\{\{(\w+)\}\}", legends))
        for step in panel.get("transformations", ()):
            shown.update(step["options"].get("include", {}).get("names", ()))
        assert shown <= known
        if len(panel.get("targets", ())) > 1:
            every = [target["legendFormat"] for target in panel["targets"]]
            assert len(set(every)) == len(every)


async def test_prometheus_parses_every_expression(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": filled(one).text}
        for number, one in enumerate(panel_expressions())
    ]
    assert len(rules) > 100
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    status, said = await run_promtool("check", "rules", str(path))
    assert status == 0, said


def test_a_key_that_grafana_does_not_know_is_found() -> None:
    dashboard = json.loads(json.dumps(DASHBOARDS["router"]))
    dashboard["panels"][1]["fieldConfig"]["defaults"]["custom"]["lineWith"] = 2
    dashboard["panels"][1]["titel"] = "x"
    found = lost(dashboard, read_back(dashboard))
    custom = ".panels[1].fieldConfig.defaults.custom.lineWith"
    assert sorted(found) == [custom, ".panels[1].titel"]


def test_provisioning_goes_with_the_dashboards() -> None:
    (source,) = (GRAFANA / "provisioning/datasources").glob("*.yml")
    (found,) = yaml.safe_load(source.read_text())["datasources"]
    assert (found["type"], found["access"], found["isDefault"]) == ("prometheus", "proxy", True)
    assert found["url"] == "http://prometheus:9090"
    scrapes = yaml.safe_load((ROOT / "config/prometheus/prometheus.yml").read_text())
    assert found["jsonData"]["timeInterval"] == scrapes["global"]["scrape_interval"]
    (providers,) = (GRAFANA / "provisioning/dashboards").glob("*.yml")
    (provider,) = yaml.safe_load(providers.read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"].startswith("/var/lib/grafana/dashboards/")
