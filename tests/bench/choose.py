"""How long one choice takes, among 3 replicas and among 1,000.

Run with `python -m tests.bench.choose`. Prints microseconds per choice, the best of several rounds:
whatever else the machine does can only make a round slower. `--check` exits with 1 when a choice
among 1,000 takes more than twice as long as among 3, or more than 20 µs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from random import Random

from proxy.routing.board import Board, BoardPolicy
from proxy.routing.catalogue import RPCS
from proxy.routing.consistency import Need
from proxy.routing.freshness import Report
from proxy.routing.members import BackendRole, BackendState
from proxy.routing.view import Policy

LIMIT = 20.0
ROUNDS = 25
CHOICES = 2_000
# Seconds between two choices, so that what is remembered for a moment is not remembered for good.
STEP = 0.0001
FEW, MANY = 3, 1_000

# One replica in so many is fresh.
_FRESH: Mapping[str, int] = {"": 1, "half": 2, "hardly": 100, "all": 10_000}

# What is asked for, the router's zone, and which replicas are too old.
CASES: Mapping[str, tuple[Need, str, str]] = {
    "eventual": (Need(), "", ""),
    "in a zone": (Need(), "b", ""),
    "bounded": (Need(max_lag=1.0), "", ""),
    "bounded, half are too old": (Need(max_lag=1.0), "", "half"),
    "bounded, hardly one is not": (Need(max_lag=1.0), "", "hardly"),
    "bounded, all are too old": (Need(max_lag=1.0), "", "all"),
    "with a position": (Need(min_lsn=100), "", ""),
}


def board(count: int, zone: str, stale: str) -> Board:
    """Return a board with `count` replicas that serve, at the time 10."""
    made = Board(BoardPolicy(choice=Policy(zone=zone)), rng=Random(1))
    replicas = {f"10.0.{n // 250}.{n % 250}:7281": BackendRole.REPLICA for n in range(count)}
    made.set_members({"primary:7281": BackendRole.PRIMARY, **replicas}, 0.0)
    for sent, lsn in ((0.0, 50), (9.5, 100)):
        for number, (address, role) in enumerate(
            {"primary:7281": BackendRole.PRIMARY, **replicas}.items()
        ):
            made.set_state(address, BackendState.SERVING, 0.0)
            is_old = role is BackendRole.REPLICA and (number - 1) % _FRESH[stale] != 0
            made.heard(
                address,
                Report(
                    sent=sent,
                    received=sent + 0.1,
                    in_recovery=role is BackendRole.REPLICA,
                    lsn=50 if is_old else lsn,
                    timeline=1,
                    identity="ours",
                    zone="ab"[number % 2],
                ),
            )
    return made


def microseconds(made: Board, need: Need) -> float:
    """Return what one choice takes, on average of a round."""
    rpc = RPCS["ListSplits"]
    began = time.perf_counter()
    for number in range(CHOICES):
        made.choose(rpc, 10.0 + number * STEP, need)
    return (time.perf_counter() - began) / CHOICES * 1e6


def compare(need: Need, zone: str, stale: str) -> tuple[float, float]:
    """Return the best rounds among few and among many, taken in turns."""
    boards = board(FEW, zone, stale), board(MANY, zone, stale)
    rounds = [tuple(microseconds(made, need) for made in boards) for _ in range(ROUNDS)]
    return min(few for few, _ in rounds), min(many for _, many in rounds)


def measure(report: Callable[[str], object]) -> bool:
    """Measure all cases; tell whether each is within the limits."""
    is_fine = True
    report(f"{'µs per choice':<28}{FEW:>8}{MANY:>8}{'ratio':>8}")
    for name, (need, zone, stale) in CASES.items():
        few, many = compare(need, zone, stale)
        is_fine = is_fine and max(few, many) < LIMIT and many < 2 * few
        report(f"{name:<28}{few:>8.2f}{many:>8.2f}{many / few:>8.2f}")
    return is_fine


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="exit with 1 over the limits")
    arguments = parser.parse_args()
    is_fine = measure(lambda line: sys.stdout.write(f"{line}\n"))
    return 0 if is_fine or not arguments.check else 1


if __name__ == "__main__":
    raise SystemExit(main())
