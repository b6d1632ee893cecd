"""The ledger beyond the scenarios: many marks, and the promise for any course of events."""

from __future__ import annotations

from random import Random

import pytest

from proxy.routing.freshness import UNKNOWN, Freshness, Ledger, Report


def report(sent: float, lsn: int | None, *, took: float = 0.0, timeline: int = 1) -> Report:
    return Report(sent, sent + took, False, lsn, timeline, "ours")


def test_lag_counts_from_what_was_shown() -> None:
    assert Freshness(5.0).lag(7.5) == 2.5
    assert Freshness(5.0).lag(4.0) == 0.0
    assert UNKNOWN.lag(7.5) is None


def test_marks_are_thinned_and_lags_only_look_larger_for_it() -> None:
    ledger = Ledger()
    for number in range(100_000):
        ledger.heard_primary("p", report(float(number), 10 * number))
    assert len(ledger._sent) <= 1024
    assert ledger._sent == sorted(ledger._sent)
    assert ledger._lsns == sorted(ledger._lsns)
    now = 100_000.0
    for behind in (1, 100, 400, 5_000):
        ledger.heard_replica(f"r{behind}", report(now, 10 * (100_000 - behind)))
        lag = ledger.freshness[f"r{behind}"].lag(now)
        assert lag is None or lag >= behind
    assert ledger.freshness["r1"].lag(now) == 1.0


def test_what_is_forgotten_is_unknown() -> None:
    ledger = Ledger()
    ledger.heard_primary("p", report(0.0, 10))
    ledger.heard_replica("r", report(0.1, 10))
    ledger.forget("r")
    assert "r" not in ledger.freshness
    ledger.forget("p")
    ledger.forget("never heard of")
    # The marks stay true without the primary that gave them.
    ledger.heard_replica("r", report(0.2, 10))
    assert ledger.freshness["r"].fresh_as_of == 0.0


def test_the_view_of_what_is_known_cannot_be_written() -> None:
    with pytest.raises(TypeError):
        Ledger().freshness["r"] = UNKNOWN


@pytest.mark.parametrize("seed", range(50))
def test_the_estimate_is_never_below_the_truth(seed: int) -> None:
    """Answers take their time and overtake each other; replicas stop, resume, and are rebuilt."""
    rng, ledger = Random(seed), Ledger()
    now, lsn, replayed = 0.0, 0, 0
    written = [(0.0, 0)]
    under_way: list[tuple[float, str, Report]] = []
    is_paused = False
    for _ in range(2_000):
        now += rng.expovariate(50.0)
        for item in sorted(i for i in under_way if i[0] <= now):
            under_way.remove(item)
            heard = ledger.heard_primary if item[1] == "p" else ledger.heard_replica
            heard(item[1], item[2])
        event = rng.randrange(6)
        if event == 0:
            lsn += rng.randrange(1, 100)
            written.append((now, lsn))
        elif event == 1 and rng.random() < 0.05:
            is_paused = not is_paused
        elif event == 2 and not is_paused:
            replayed = rng.randint(replayed, lsn)
        elif event == 3:
            replayed = lsn if not is_paused else replayed
        elif event in (4, 5):
            name, value = ("p", lsn) if event == 4 else ("r", replayed)
            ends = now + rng.choice([0.0, 0.01, 0.3])
            said = Report(now, ends, event == 5, value, 1, "ours")
            under_way.append((ends, name, said))
        lag = ledger.freshness.get("r", UNKNOWN).lag(now)
        missing = [at for at, position in written if position > replayed]
        truth = now - min(missing) if missing else 0.0
        assert lag is None or lag >= truth - 1e-9
