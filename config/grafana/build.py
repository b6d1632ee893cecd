"""Write the dashboards from their descriptions in source/: `python config/grafana/build.py`.

What all panels have in common is here, so that a description says only what a panel shows. With
`--check` nothing is written, and the exit status is 1 if a dashboard is not what its description
makes. `$node` in an expression stands for the selection by the dashboard's variables.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import yaml

HERE: Final = Path(__file__).parent
# Grafana 12's. Nothing here needs more than Grafana 11 knows, whose models the tests read it with.
SCHEMA_VERSION: Final = 41
TAG: Final = "metastore-proxy"
WIDTH: Final = 24
NODE: Final = 'namespace=~"$namespace", job=~"$job", instance=~"$instance"'
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
# Where docker-compose.yml lets Grafana serve the file; a field of each dashboard.
RUNBOOK: Final = "/public/metastore-proxy/RUNBOOK.md"


def dashboard(name: str) -> dict[str, Any]:
    """Return the dashboard that source/<name>.yml describes."""
    source = yaml.safe_load((HERE / "source" / f"{name}.yml").read_text(encoding="utf-8"))
    common = yaml.safe_load((HERE / "source" / "common.yml").read_text(encoding="utf-8"))
    rows = [common[row] if isinstance(row, str) else row for row in source["rows"]]
    return {
        "uid": f"metastore-proxy-{name}",
        "title": source["title"],
        "description": source["description"],
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": source.get("from", "now-1h"), "to": "now"},
        "timepicker": {},
        "timezone": "",
        "weekStart": "",
        "annotations": {"list": []},
        "links": _links(),
        "templating": {"list": _variables(source.get("role"))},
        "panels": _panels(rows),
    }


def _links() -> list[dict[str, Any]]:
    shared = {"asDropdown": False, "includeVars": True, "keepTime": True, "tooltip": ""}
    return [
        {**shared, "type": "dashboards", "title": "", "tags": [TAG], "icon": "", "url": "",
         "targetBlank": False},
        {**shared, "type": "link", "title": "Runbook", "tags": [], "icon": "doc",
         "url": "${runbook}", "targetBlank": True},
    ]  # fmt: skip


def _variables(role: str | None) -> list[dict[str, Any]]:
    """Return the variables; of a role's dashboard `instance` lists the nodes of that role."""
    nodes = 'metastore_proxy_build_info{namespace=~"$namespace", job=~"$job"'
    nodes += f', role="{role}"}}' if role else "}"
    return [
        {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus",
         "hide": 0, "multi": False, "includeAll": False, "refresh": 1, "regex": "",
         "options": [], "skipUrlSync": False},
        # A label that no series has is empty, and `.*` matches that.
        _choice("namespace", "label_values(metastore_proxy_build_info, namespace)", ".*"),
        _choice("job", 'label_values(metastore_proxy_build_info{namespace=~"$namespace"}, job)'),
        _choice("instance", f"label_values({nodes}, instance)", None if role else ".*"),
        {"type": "textbox", "name": "runbook", "label": "Runbook", "query": RUNBOOK, "hide": 0,
         "current": {"selected": True, "text": RUNBOOK, "value": RUNBOOK}, "skipUrlSync": False,
         "options": [{"selected": True, "text": RUNBOOK, "value": RUNBOOK}]},
    ]  # fmt: skip


def _choice(name: str, query: str, all_value: str | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": "query",
        "name": name,
        "label": name.capitalize(),
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": "StandardVariableQuery"},
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "includeAll": True,
        "multi": True,
        "refresh": 2,
        "sort": 1,
        "regex": "",
        "hide": 0,
        "options": [],
        "skipUrlSync": False,
    }
    return made if all_value is None else {**made, "allValue": all_value}


def _panels(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows and their panels, from left to right, wrapped where a line is full."""
    found: list[dict[str, Any]] = []
    top = 0
    for row in rows:
        found.append(
            {"type": "row", "id": len(found) + 1, "title": row["title"], "collapsed": False,
             "panels": [], "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1}}
        )  # fmt: skip
        top, left, line = top + 1, 0, 0
        for source in row["panels"]:
            width, height = source.get("width", 8), source.get("height", 8)
            if left + width > WIDTH:
                top, left, line = top + line, 0, 0
            place = {"x": left, "y": top, "w": width, "h": height}
            found.append(_panel(source, len(found) + 1, place))
            left, line = left + width, max(line, height)
        top += line
    return found


def _panel(source: dict[str, Any], number: int, place: dict[str, int]) -> dict[str, Any]:
    kind = source.get("type", "timeseries")
    made = {
        "id": number,
        "type": kind,
        "title": source["title"],
        "description": source["description"],
        "gridPos": place,
        "options": _OPTIONS[kind](source),
    }
    if "runbook" in source:
        section = source["runbook"]
        url = f"${{runbook}}#{section.lower()}"
        made["links"] = [{"title": f"Runbook: {section}", "url": url, "targetBlank": True}]
    if kind == "text":
        return made
    return {
        **made,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": _field(source, kind), "overrides": []},
        "targets": [
            _target(query, kind, letter)
            for letter, query in zip("ABCDEF", source["queries"], strict=False)
        ],
        **({"transformations": _table(source)} if kind == "table" else {}),
    }


def _target(query: dict[str, str], kind: str, letter: str) -> dict[str, Any]:
    instant = kind in {"table", "stat"}
    return {
        "refId": letter,
        "datasource": DATASOURCE,
        "expr": " ".join(query["expr"].split()).replace("$node", NODE),
        "legendFormat": query.get("legend", ""),
        "instant": instant,
        "range": not instant,
        "format": "table" if kind == "table" else "time_series",
        "editorMode": "code",
    }


def _field(source: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return how values are shown. `thresholds` are colours by the least value that has them."""
    steps = [{"value": None, "color": source.get("color", "green")}]
    steps += [
        {"value": value, "color": color} for value, color in source.get("thresholds", {}).items()
    ]
    made: dict[str, Any] = {
        "unit": source["unit"],
        "thresholds": {"mode": "absolute", "steps": steps},
        "color": {"mode": "palette-classic" if kind == "timeseries" else "thresholds"},
        "mappings": [],
    }
    if "none" in source:
        made["noValue"] = source["none"]
    if kind == "timeseries":
        made["min"] = 0
        made["custom"] = {
            "drawStyle": "line",
            "fillOpacity": 40 if source.get("stack") else 8,
            "lineWidth": 1,
            "showPoints": "never",
            "stacking": {"mode": "normal" if source.get("stack") else "none", "group": "A"},
            "thresholdsStyle": {"mode": "line" if "thresholds" in source else "off"},
        }
    return made


def _table(source: dict[str, Any]) -> list[dict[str, Any]]:
    """Show the named columns, in their order, and hide the others."""
    columns = source["columns"]
    order = {label: index for index, label in enumerate(columns)}
    names = {label: name for label, name in columns.items() if name}
    return [
        {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}},
        {"id": "organize",
         "options": {"indexByName": order, "renameByName": names, "excludeByName": {}}},
    ]  # fmt: skip


_OPTIONS: Final = {
    "timeseries": lambda _: {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": lambda _: {
        "colorMode": "background",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    },
    "table": lambda _: {"showHeader": True, "cellHeight": "sm"},
    "text": lambda source: {"mode": "markdown", "content": source["content"]},
}


def main() -> int:
    """Write the dashboards, or with `--check` compare them."""
    differing = []
    for path in sorted((HERE / "source").glob("*.yml")):
        if path.stem == "common":
            continue
        made = json.dumps(dashboard(path.stem), indent=2) + "\n"
        target = HERE / "dashboards" / f"{path.stem}.json"
        if not target.exists() or target.read_text(encoding="utf-8") != made:
            differing.append(target)
            if "--check" not in sys.argv:
                target.write_text(made, encoding="utf-8")
    for target in differing if "--check" in sys.argv else []:
        sys.stderr.write(f"{target} is not what its description makes: run make dashboards\n")
    return 1 if differing and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
