"""What is wrong and what to do about it, and where calls go, in words. Pure.

Everything is read from the status itself, so that whoever has one can check what is said of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from proxy.proto.metastore_proxy.v1 import status_pb2 as pb
from proxy.roles import Role
from proxy.server.status.backend_words import LARGE_LAG, Found, about_backends
from proxy.server.status.nodes import OTHER, PRIMARY, REPLICA
from proxy.server.status.phrases import (
    FAIL,
    backends,
    joined,
    of_kind,
    reads_go,
    seconds,
    takes_writes,
)

# Gossip takes a member that it has just heard of for dead until it has heard it a few times, and a
# replica that has just started has not measured its lag.
NEW: Final = 5.0

_SAYS_WHY: Final = "its own status page, or `/health/readyz?verbose` on its REST port, says why"
_SEE_MANAGED: Final = (
    "grant what is named, or set `wal_level = logical` where that is what is asked for; a service "
    "that refuses it always leaves nothing to do"
)
_LOOK_AT_PROCESS: Final = (
    "see whether its process runs and what its log ends with; if it runs, whether UDP reaches its "
    "gossip port"
)
_LOOK_AT_REPLAY: Final = (
    "on its database look at pg_stat_wal_receiver (is there a row?), pg_is_wal_replay_paused() and "
    "pg_stat_activity: a paused replay, a long query or a slow disk holds replay back"
)


@dataclass(frozen=True, slots=True)
class Sides:
    """What is wrong that no node shows. `alarms` each say what to do."""

    alarms: Sequence[str] = ()
    is_promoted: bool = False
    workers_trouble: str = ""
    warnings: Sequence[str] = ()


def findings(status: pb.GetStatusResponse, sides: Sides) -> Sequence[Found]:
    """Return what is wrong, errors first; each once."""
    found: dict[str, Found] = {}
    for one in (
        *_of_itself(status, sides),
        *about_backends(status),
        *_of_members(status),
        *_of_calls(status),
        *(Found(f"alarm/{crc32(alarm.encode()):08x}", True, alarm, "") for alarm in sides.alarms),
    ):
        found.setdefault(one.key, one)
    return sorted(found.values(), key=lambda one: not one.is_error)


def summary(status: pb.GetStatusResponse) -> str:
    """Return where calls go, on one line."""
    if status.draining:
        return "this node is shutting down and takes no new calls"
    if status.HasField("protection") and status.role == Role.ROUTER.value:
        return _where_both_go(status)
    if not status.ready:
        return "this node serves nothing now"
    if status.role == Role.METASTORE.value:
        return "this node serves reads and writes from the primary's database"
    if any(one.reason for one in status.conditions):
        return f"this node cannot serve reads itself and passes them on: {reads_go(status)}"
    return "this node serves reads from its replica and refuses writes"


def _where_both_go(status: pb.GetStatusResponse) -> str:
    """Return it with what fails first."""
    reads, takers = reads_go(status), [n.name for n in backends(status, PRIMARY) if n.eligible]
    if takers:
        return f"{reads}; writes go to {joined(takers)}"
    if reads == FAIL:
        return "reads and writes fail"
    return f"writes fail; {reads.replace('reads go', 'reads still go')}"


def _of_itself(status: pb.GetStatusResponse, sides: Sides) -> Iterator[Found]:
    if status.draining:
        text = "this node is shutting down and takes no new calls"
        yield Found("draining", False, text, "callers turn to other nodes by themselves")
    if sides.workers_trouble and not status.draining:
        advice = "the log says why; a worker that ends is started again by itself"
        yield Found("workers", False, sides.workers_trouble, advice)
    for warning in sides.warnings:
        yield Found(f"warning/{crc32(warning.encode()):08x}", False, warning, _SEE_MANAGED)
    is_router = status.role == Role.ROUTER.value
    for one in status.conditions:
        if one.reason and not (is_router and backends(status)):
            what = "passes on what it cannot serve itself" if status.ready else "is not ready"
            text = f"this node {what}: {one.reason}"
            yield Found(f"condition/{one.name}", not status.ready, text, "")
    if status.role == Role.READ_REPLICA.value and not any(one.reason for one in status.conditions):
        yield from _of_own_data(status, sides)


def _of_own_data(status: pb.GetStatusResponse, sides: Sides) -> Iterator[Found]:
    if sides.is_promoted:
        text = "the database of this read replica is not in recovery: its reads load a primary"
        advice = "was it promoted? point `metastore_read_replica_uri` at a standby"
        yield Found("promoted", False, text, advice)
    for me in (node for node in status.nodes if node.is_self and node.kind == REPLICA):
        if status.time - me.since < NEW and not me.HasField("lag"):
            continue
        yield from _of_lag(status, me, "this replica")


def _of_lag(status: pb.GetStatusResponse, node: pb.StatusNode, name: str) -> Iterator[Found]:
    key = f"lag/{node.grpc_address or node.name}"
    if not node.HasField("lag"):
        text = f"how old the data of {name} is cannot be told, which counts as too old"
        advice = f"is a `metastore` node up? else {_LOOK_AT_REPLAY}"
        yield Found(key, False, text, advice)
        return
    bound = status.max_lag if status.HasField("max_lag") else None
    # What gossip tells comes in steps: a data age of 2.1 s is told as 5.
    if node.lag > (LARGE_LAG if bound is None else bound) and not (
        node.lag_is_coarse and node.lag <= LARGE_LAG
    ):
        behind = f"up to {seconds(node.lag)}" if node.lag_is_coarse else seconds(node.lag)
        bounded = "" if bound is None else f"; bound {seconds(bound)}"
        yield Found(key, False, f"{name} replays {behind} behind{bounded}", _LOOK_AT_REPLAY)


def _of_members(status: pb.GetStatusResponse) -> Iterator[Found]:
    """Yield what is wrong with nodes that this one knows by gossip alone."""
    # That of a node that passes calls on has been said already.
    is_said = status.HasField("protection") and not takes_writes(status)
    knows_primary = any(node.state == "ready" for node in of_kind(status, PRIMARY))
    for node in status.nodes:
        if node.is_self or node.kind == OTHER or node.HasField("eligible"):
            continue
        if node.kind == PRIMARY and is_said:
            continue
        key = f"member/{node.grpc_address or node.name}"
        is_error = node.kind == PRIMARY and not knows_primary and not takes_writes(status)
        effect = ": writes fail" if is_error else ""
        if status.time - node.since < NEW and node.state in {"dead", "ready"}:
            continue
        if node.state == "dead":
            text = f"{node.kind} {node.name} gives no sign of life{effect}"
            yield Found(key, is_error, text, _LOOK_AT_PROCESS)
        elif node.state == "not_ready":
            text = f"{node.kind} {node.name} says that it is not ready{effect}"
            yield Found(key, is_error, text, _SAYS_WHY)
        elif node.kind == REPLICA and node.state == "ready":
            yield from _of_lag(status, node, node.name)


def _of_calls(status: pb.GetStatusResponse) -> Iterator[Found]:
    failing = [one for one in status.routes if one.failed_per_second >= 0.1]
    if failing:
        said = [f"{one.failed_per_second:.1f}/s on route {one.route}" for one in failing]
        advice = "the log of this node says why; a line per kind of failure"
        yield Found("failing", False, f"calls fail: {joined(said)}", advice)


def as_message(found: Iterable[Found], since: Mapping[str, float]) -> Sequence[pb.Finding]:
    """Return what was found as the answer has it."""
    return [
        pb.Finding(
            id=one.key,
            severity="error" if one.is_error else "warning",
            text=one.text,
            advice=one.advice,
            since=since.get(one.key, 0.0),
        )
        for one in found
    ]
