"""A world in virtual time: a primary, replicas, failures, and callers on a `Board`.

What the board is told is what the client would tell it: health changes with a delay, answers about
positions that were long under way, outcomes of calls. What is true stays here, and every choice is
checked against it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Final

from proxy.routing.board import Board, BoardPolicy, Outcome
from proxy.routing.budget import may_repeat
from proxy.routing.catalogue import RPCS, Rpc
from proxy.routing.consistency import Need
from proxy.routing.freshness import UNKNOWN, Report
from proxy.routing.members import BackendRole, BackendState
from proxy.routing.selection import Choice, Route, wants_replica
from proxy.routing.view import Policy

READS: Final = [rpc for rpc in RPCS.values() if rpc.is_stale_tolerant]
OTHERS: Final = [RPCS["ListShards"], RPCS["CreateIndex"], RPCS["PublishSplits"]]
HANG: Final = 2.0
CAP: Final = 2
LIKELY: Final = 0.75


@dataclass
class Node:
    """The truth about one backend. `health` is up, dead, hung or sick (every call fails)."""

    name: str
    role: BackendRole
    identity: str = "ours"
    health: str = "up"
    timeline: int = 1
    replayed: int = 0
    delay: float = 0.0
    has_reported: bool = False


@dataclass
class Made:
    """A call under way."""

    rpc: Rpc
    need: Need
    deadline: float
    tried: set[str] = field(default_factory=set)
    sent: int = 0


class World:
    """One schedule. `run` raises `AssertionError` on the first broken promise."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.serve_stale = self.rng.random() < 0.7
        policy = BoardPolicy(
            choice=Policy(serve_stale=self.serve_stale, likely_lag=LIKELY), fallback_concurrency=CAP
        )
        self.board = Board(policy, rng=Random(seed + 1))
        self.now = 0.0
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        # The primary's positions by time: what it had written.
        self.times, self.lsns = [0.0], [1]
        self.timeline = 1
        self.calls = self.attempts = self.answers = 0
        self.by_replica = 0
        many, primaries = self.rng.choice([1, 2, 2, 3, 5, 20]), self.rng.choice([1, 1, 2])
        self.nodes = {
            name: Node(name, role, self._identity(role))
            for name, role in [
                *((f"p{n}", BackendRole.PRIMARY) for n in range(primaries)),
                *((f"r{n}", BackendRole.REPLICA) for n in range(many)),
            ]
        }
        self.board.set_members({n.name: n.role for n in self.nodes.values()}, self.now)

    def _identity(self, role: BackendRole) -> str:
        is_other = role is BackendRole.REPLICA and self.rng.random() < 0.05
        return "other" if is_other else "ours"

    # Time

    def at(self, delay: float, action: Callable[[], None]) -> None:
        heappush(self._events, (self.now + delay, next(self._order), action))

    def run(self, until: float) -> None:
        for node in self.nodes.values():
            self.at(self.rng.uniform(0, 0.2), lambda node=node: self.tell_health(node))
            self.at(self.rng.uniform(0, 0.3), lambda node=node: self.poll(node))
        for _ in range(4):
            self.at(self.rng.uniform(0, 0.2), lambda: self.caller(until))
        self.at(0.0, lambda: self.write(until))
        self.at(self.rng.uniform(0.5, 1.5), lambda: self.trouble(until))
        while self._events:
            self.now, _, action = heappop(self._events)
            action()

    # The truth

    def written(self, time: float) -> int:
        return self.lsns[max(0, bisect_right(self.times, time) - 1)]

    def replay(self, node: Node) -> int:
        """Return what a replica has replayed by now; it never goes back."""
        if node.timeline == self.timeline:
            node.replayed = max(node.replayed, self.written(max(0.0, self.now - node.delay)))
        return node.replayed

    def write(self, until: float) -> None:
        self.times.append(self.now)
        self.lsns.append(self.lsns[-1] + self.rng.randrange(1, 50))
        if self.now < until:
            self.at(self.rng.expovariate(5.0), lambda: self.write(until))

    def trouble(self, until: float) -> None:
        node = self.rng.choice(list(self.nodes.values()))
        kind = self.rng.choice(["dead", "hung", "sick", "up", "up", "lag", "promote"])
        if kind == "lag" and node.role is BackendRole.REPLICA:
            # Replay that is paused: what it has stays, and the delay is longer than the run.
            self.replay(node)
            node.delay = self.rng.choice([0.0, 0.3, 3.0, 1e9])
        elif kind == "promote" and self.rng.random() < 0.2:
            self.timeline += 1
            for other in self.nodes.values():
                # Some replicas do not follow: they stay where they are, on the old timeline.
                if other.role is BackendRole.PRIMARY or self.rng.random() < 0.7:
                    other.timeline = self.timeline
        elif kind in ("dead", "hung", "sick", "up"):
            node.health = kind
            self.at(self.rng.uniform(0.0, 0.5), lambda: self.tell_health(node))
        if self.now < until:
            self.at(self.rng.uniform(0.1, 1.5), lambda: self.trouble(until))

    # What the board is told

    def tell_health(self, node: Node) -> None:
        state = BackendState.SERVING if node.health in ("up", "sick") else BackendState.DOWN
        if node.health == "hung" and self.rng.random() < 0.3:
            return
        self.board.set_state(node.name, state, self.now)

    def poll(self, node: Node) -> None:
        if node.health in ("up", "sick"):
            sent, slow = self.now, self.rng.choice([0.001, 0.01, 0.4])
            self.at(slow * self.rng.random(), lambda: self.sample(node, sent, slow))
        if self._events:
            self.at(0.25 * self.rng.uniform(0.8, 1.2), lambda: self.poll_again(node))

    def poll_again(self, node: Node) -> None:
        if any(event[0] > self.now + 0.01 for event in self._events[:50]) and self.now < 60.0:
            self.poll(node)

    def sample(self, node: Node, sent: float, slow: float) -> None:
        is_primary = node.role is BackendRole.PRIMARY
        lsn = self.lsns[-1] if is_primary else self.replay(node)
        timeline = node.timeline

        def receive() -> None:
            node.has_reported = True
            report = Report(sent, self.now, not is_primary, lsn, timeline, node.identity, node.name)
            self.board.heard(node.name, report)

        self.at(slow * self.rng.random(), receive)

    # Calls

    def caller(self, until: float) -> None:
        if self.now >= until:
            return
        rpc = self.rng.choice([*READS, *READS, *OTHERS])
        self.calls += 1
        call = Made(rpc, self.need(), self.now + 10.0)
        self.begin(call, lambda: self.at(self.rng.expovariate(20.0), lambda: self.caller(until)))

    def need(self) -> Need:
        kind = self.rng.randrange(6)
        if kind == 0:
            return Need(max_lag=self.rng.choice([0.1, 0.5, 1.0, 5.0]))
        if kind == 1:
            return Need(min_lsn=self.written(self.now), proves_lsn=self.rng.random() < 0.5)
        if kind == 2:
            return Need(min_lsn=self.written(self.now - self.rng.random()), max_lag=2.0)
        if kind == 3:
            return Need(allow_replica=True, primary_only=self.rng.random() < 0.2)
        return Need()

    def begin(self, call: Made, done: Callable[[], None]) -> None:
        choice = self.board.choose(call.rpc, self.now, call.need, call.tried)
        if choice is None:
            done()
            return
        self.check(call, choice)
        if call.sent == 0:
            self.board.budget.earn(self.board.in_flight)
        call.sent += 1
        self.attempts += 1
        self.board.begin(choice, self.now)
        assert self.board.fallbacks <= CAP
        self.at(*self.attempt(call, choice, done))

    def attempt(
        self, call: Made, choice: Choice, done: Callable[[], None]
    ) -> tuple[float, Callable[[], None]]:
        """Return when an attempt ends, and what happens then."""
        node = self.nodes[choice.backend.address]
        seconds = self.rng.expovariate(100.0)
        if node.health == "up":
            if self.refuses(node, call.need):
                return seconds, lambda: self.failed(call, choice, Outcome.SILENT, done)
            self.check_answer(call, choice, node)
            return seconds, lambda: self.answered(choice, seconds, done)
        wait = HANG if node.health == "hung" else seconds
        return wait, lambda: self.failed(call, choice, Outcome.FAILED, done)

    def refuses(self, node: Node, need: Need) -> bool:
        if node.role is BackendRole.PRIMARY or need.min_lsn is None:
            return False
        return self.replay(node) < need.min_lsn

    def answered(self, choice: Choice, seconds: float, done: Callable[[], None]) -> None:
        self.answers += 1
        self.by_replica += choice.route is Route.REPLICA
        self.board.end(choice, Outcome.ANSWERED, self.now, seconds)
        done()

    def failed(
        self, call: Made, choice: Choice, outcome: Outcome, done: Callable[[], None]
    ) -> None:
        self.board.end(choice, outcome, self.now, None)
        call.tried.add(choice.backend.address)
        left = call.deadline - self.now
        allowed = may_repeat(call.rpc, is_backend_failure=True, was_sent=True, time_left=left)
        if allowed and (outcome is Outcome.SILENT or self.board.budget.spend()):
            self.begin(call, done)
        else:
            done()

    # Promises

    def check(self, call: Made, choice: Choice) -> None:
        """Check a choice against what must always hold."""
        node, need, rpc = self.nodes[choice.backend.address], call.need, call.rpc
        assert node.name not in call.tried
        assert rpc.is_read or call.sent == 0, "a write was sent twice"
        if node.role is BackendRole.PRIMARY:
            assert choice.route in (Route.PRIMARY, Route.FALLBACK)
            return
        assert wants_replica(rpc, need), "a replica got a call that is not for it"
        assert choice.backend.is_serving
        is_known = node.has_reported and self.nodes["p0"].has_reported
        knows = self.board.ledger.identity and self.board.snapshot.get(node.name) is not None
        if is_known and knows and self.board.ledger.identity_of(node.name) == "other":
            raise AssertionError("a replica of another cluster was chosen")
        known = self.board.ledger.freshness.get(node.name, UNKNOWN)
        if need.min_lsn is not None:
            # It has the position, or kept up a moment ago and may have it by now.
            lag = known.lag(self.now)
            assert known.lsn is not None
            assert known.lsn >= need.min_lsn or (lag is not None and lag <= LIKELY)
        if choice.route is Route.STALE:
            assert self.serve_stale
            assert need.max_lag is not None
            assert need.min_lsn is None

    def check_answer(self, call: Made, choice: Choice, node: Node) -> None:
        """Check an answer's data against what was asked for."""
        if node.role is BackendRole.PRIMARY or choice.route is Route.STALE:
            return
        need = call.need
        if need.max_lag is not None:
            must_have = self.written(self.now - need.max_lag)
            assert node.timeline == self.timeline or self.is_promotion_new(), "wrong timeline"
            if node.timeline == self.timeline:
                assert self.replay(node) >= must_have, "older than the bound"
        if need.min_lsn is not None:
            assert self.replay(node) >= need.min_lsn

    def is_promotion_new(self) -> bool:
        """Tell whether the board cannot know yet of the newest timeline."""
        return self.board.ledger.timeline < self.timeline
