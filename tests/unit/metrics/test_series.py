"""The series that are exported: Quickwit's as they are, ours as the README has them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import Code
from proxy.metrics.declaring import Nodes
from proxy.metrics.series import DECLARED
from proxy.roles import Role
from proxy.routing.catalogue import RPCS
from proxy.routing.figures import REASONS
from proxy.tls.reasons import Kind as Refusal
from tests.support.metric_samples import (
    BACKENDS,
    GROUPS,
    REPLICA,
    busy,
    events,
    families,
    joins,
    label_values,
    leaves,
    serve,
)

ROOT = Path(__file__).parents[3]
QUICKWITS: dict[str, Any] = json.loads((ROOT / "tests/facts/quickwit_metrics.json").read_text())
# Named by the library, and by custom: see Prometheus' guidelines for client libraries.
PROCESS = {
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
    "python_info",
}
# | `name` | type | `label`, `label` | nodes | text |
ROW = re.compile(r"\| `(\w+)` \| (\w+) \| ([^|]*) \| (\w+\*?) \| ([^|]+) \|")


def readme() -> dict[str, tuple[str, ...]]:
    """Return type, labels, nodes and meaning of each series that the README lists."""
    return {row[0]: row[1:] for row in ROW.findall((ROOT / "README.md").read_text())}


@pytest.mark.parametrize("name", QUICKWITS)
def test_quickwits_series_are_as_its_nodes_have_them(name: str) -> None:
    fact = QUICKWITS[name]
    for role in Role:
        family = families(busy(role)).get(name)
        if family is None:
            assert role.value not in fact["nodes"]
            continue
        assert family.type == fact["type"]
        assert {frozenset(sample.labels) - {"le"} for sample in family.samples} == {
            frozenset(fact["labels"])
        }
        bounds = [sample.labels["le"] for sample in family.samples if "le" in sample.labels]
        expected = [*map(str, fact.get("buckets", ())), "+Inf"]
        assert bounds[: len(expected)] == (expected if "buckets" in fact else [])


def test_all_of_quickwits_names_are_facts() -> None:
    ours = {series.name for series in DECLARED if series.name.startswith("quickwit_")}
    assert ours == QUICKWITS.keys()


@pytest.mark.parametrize("role", Role)
def test_a_node_exports_what_is_declared_for_it(role: Role) -> None:
    declared = {series.name for series in DECLARED if series.nodes in GROUPS[role]}
    assert families(busy(role)).keys() - PROCESS == declared


@pytest.mark.parametrize("role", Role)
def test_every_series_has_samples_with_the_labels_declared(role: Role) -> None:
    found = families(busy(role))
    for series in DECLARED:
        if series.nodes in GROUPS[role]:
            family = found[series.name]
            assert (family.type, family.documentation) == (series.kind.value, series.text)
            assert {frozenset(sample.labels) - {"le"} for sample in family.samples} == {
                frozenset(series.labels)
            }, series.name


def test_the_readme_lists_every_series() -> None:
    listed = readme()
    expected = {
        series.name: (
            series.kind.value,
            ", ".join(f"`{label}`" for label in series.labels),
            series.nodes.value + ("*" if series.is_late else ""),
            series.text.rstrip("."),
        )
        for series in DECLARED
    }
    assert {name: row for name, row in listed.items() if name not in PROCESS} == expected
    assert listed.keys() - expected.keys() == PROCESS
    assert {families(busy(Role.ROUTER))[name].type for name in PROCESS} <= {"counter", "gauge"}


@pytest.mark.parametrize("role", Role)
def test_label_values_are_words_that_are_known(role: Role) -> None:
    metrics = busy(role)
    allowed = {
        "service": {"metastore"},
        "grpc_service": {"metastore"},
        "kind": {"server"},
        "metastore_kind": {"primary", "read_replica", "router"},
        "rpc": {rpc.metric_name for rpc in RPCS.values()},
        "status": {"success", "error", "cancelled"},
        "code": {code.name.lower() for code in Code},
        "result": {"success", "failure"},
        "route": {"replica", "primary", "fallback", "stale"},
        "backend": set(BACKENDS),
        "backend_role": {"primary", "replica"},
        "reason": {*REASONS, *(kind.value for kind in Refusal)},
        "state": {"applied", "pending", "failed", "unknown", "serving", "ended"},
        "worker": {"1", "2"},
        "port": {"grpc", "rest"},
        "event": {"sent", "received"},
        "role": {one.value for one in Role},
    }
    of_the_build = {"version", "implementation", "major", "minor", "patchlevel"}
    for label, values in label_values(metrics).items():
        if label not in of_the_build:
            assert values <= allowed[label], label


def test_odd_input_makes_no_series_of_its_own() -> None:
    metrics = busy(Role.READ_REPLICA)
    before = label_values(metrics)
    routed = metrics.routing()
    for number in range(50):
        for event in events(rpc=f"Made{number}Up"):
            routed(event)
        address = f"10.1.0.{number}:7281"
        joins(metrics, address, BACKENDS[REPLICA])
        leaves(metrics, address, BACKENDS[REPLICA])
    for rpc in RPCS.values():
        serve(metrics, rpc, *Code)
    after = label_values(metrics)
    assert after.pop("rpc") - before.pop("rpc") == {"other"}
    assert after == before


def test_nodes_of_every_kind_are_covered() -> None:
    assert set.union(*GROUPS.values()) == set(Nodes)
