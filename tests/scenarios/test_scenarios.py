"""Runs the scenarios of `choice.yaml` and `lag.yaml`.

Fields of a choice, times in seconds, all but `name`, `backends` and `expect` optional:

- `backends`: names (the first letter is the role) with `+` serving, `-` down, `!` not serving or
  `?` connecting; `zones`, `foreign`, `standby`, `ejected`, and `returned` (how long ago) of them
- `rpc`, `need`, `tried`, `policy`; `room`: whether the primary takes more fallbacks
- `lag`, `lsn`, `load` (calls in flight), `latency`, by name
- `expect`: every outcome that occurs over many draws, as `backend route`

Fields of a lag: `heard` has `[sent, backend, position, facts]` in the order of the answers, where
a position may be `null` or `unreachable`; then what is known `at` a time.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from proxy.routing.catalogue import RPCS
from proxy.routing.consistency import Need, parse_lsn
from proxy.routing.freshness import UNKNOWN, Freshness, Ledger, Report
from proxy.routing.members import Backend, BackendRole, BackendState, Facts, Load, Snapshot
from proxy.routing.selection import choose
from proxy.routing.view import Policy, View

NOW = 1000.0
STATES = {
    "+": BackendState.SERVING,
    "-": BackendState.DOWN,
    "!": BackendState.NOT_SERVING,
    "?": BackendState.CONNECTING,
}


def load(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name(name).read_text())
    return found


CHOICES, LAGS = load("choice.yaml"), load("lag.yaml")


def role(name: str) -> BackendRole:
    return BackendRole.PRIMARY if name.startswith("p") else BackendRole.REPLICA


def position(text: str | None) -> int | None:
    return None if text is None else parse_lsn(text)


def view(scenario: dict[str, Any]) -> View:
    def of(field: str) -> dict[str, Any]:
        found: dict[str, Any] = scenario.get(field, {})
        return found

    backends = []
    for word in scenario["backends"].split():
        name = word[:-1]
        facts = Facts(
            zone=of("zones").get(name, ""),
            in_recovery=name in scenario.get("standby", ()),
            is_foreign=name in scenario.get("foreign", ()),
        )
        ago = of("returned").get(name)
        returned = None if ago is None else NOW - ago
        is_ejected = name in scenario.get("ejected", ())
        backends.append(
            Backend(name, role(name), STATES[word[-1]], 0.0, returned, is_ejected, facts)
        )
    names = [backend.address for backend in backends]
    return View(
        Snapshot.of(backends),
        {n: Load(of("load").get(n, 0), of("latency").get(n, 0.0)) for n in names},
        {
            n: Freshness(NOW - of("lag")[n] if n in of("lag") else None, position(of("lsn").get(n)))
            for n in names
            if n in of("lag") or n in of("lsn")
        },
        NOW,
        scenario.get("room", True),
        Policy(**of("policy")),
    )


@pytest.mark.parametrize("scenario", CHOICES, ids=lambda s: s["name"].replace(" ", "-"))
def test_choice(scenario: dict[str, Any]) -> None:
    asked = dict(scenario.get("need", {}))
    need = Need(**{**asked, "min_lsn": position(asked.get("min_lsn"))})
    rpc, seen = RPCS[scenario.get("rpc", "ListSplits")], set()
    for seed in range(60):
        choice = choose(rpc, view(scenario), Random(seed), set(scenario.get("tried", ())), need)
        if choice is not None:
            seen.add(f"{choice.backend.address} {choice.route.value}")
    assert seen == set(scenario["expect"])


@pytest.mark.parametrize("scenario", LAGS, ids=lambda s: s["name"].replace(" ", "-"))
def test_lag(scenario: dict[str, Any]) -> None:
    ledger = Ledger()
    for sent, name, where, *rest in scenario["heard"]:
        facts: dict[str, Any] = rest[0] if rest else {}
        is_reachable = where != "unreachable"
        report = Report(
            sent=sent,
            received=sent + facts.get("took", 0.05),
            in_recovery=facts.get("in_recovery", role(name) is BackendRole.REPLICA),
            lsn=position(where) if is_reachable else None,
            timeline=facts.get("timeline", 1) if is_reachable else 0,
            identity=facts.get("identity", "ours"),
            is_reachable=is_reachable,
        )
        if role(name) is BackendRole.PRIMARY:
            ledger.heard_primary(name, report)
        else:
            ledger.heard_replica(name, report)
    for name, lag in scenario["lag"].items():
        found = ledger.freshness.get(name, UNKNOWN).lag(scenario["at"])
        assert found == (None if lag is None else pytest.approx(lag)), name
    names = {name for _, name, *_ in scenario["heard"]}
    foreign = {name for name in names if ledger.is_foreign(name)}
    assert foreign == set(scenario.get("foreign", ()))


def test_there_are_enough_scenarios_and_each_has_a_name_of_its_own() -> None:
    names = [scenario["name"] for scenario in (*CHOICES, *LAGS)]
    assert len(names) == len(set(names)) >= 100
