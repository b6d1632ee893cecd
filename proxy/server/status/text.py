"""A status as text: for a terminal, for a browser without scripts, and for `status.txt`. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from proxy.proto.metastore_proxy.v1 import status_pb2 as pb
from proxy.server.status.nodes import REPLICA
from proxy.server.status.phrases import seconds

_BARS: Final = "▁▂▃▄▅▆▇█"
_UNKNOWN: Final = "·"
# Characters of a plot.
_WIDTH: Final = 24


def render(status: pb.GetStatusResponse) -> str:
    """Return all but the configuration."""
    return "\n".join([head(status), *wrong(status), "", *figures(status)])


def head(status: pb.GetStatusResponse) -> str:
    """Return who answers, and when."""
    up = seconds(max(0.0, status.time - status.started))
    return (
        f"{status.node_id} ({status.role} {status.version}) of cluster {status.cluster_id}, "
        f"up {up}, at {_clock(status.time)}"
    )


def wrong(status: pb.GetStatusResponse) -> Sequence[str]:
    """Return where calls go, whether anything is wrong, and what to do about it."""
    lines = [status.summary]
    if not status.findings:
        return [*lines, "nothing is wrong"]
    before = ""
    for one in status.findings:
        lasted = f" (since {_clock(one.since)}, {seconds(max(0.0, status.time - one.since))})"
        lines.append(f"{one.severity.upper():<8}{one.text}{lasted}")
        if one.advice and one.advice != before:
            lines.append(f"        -> {one.advice}")
        before = one.advice
    return lines


def figures(status: pb.GetStatusResponse) -> Sequence[str]:
    """Return the nodes, the calls and the conditions as tables."""
    lines = list(_table(_nodes(status)))
    if status.nodes_left_out:
        lines.append(f"and {status.nodes_left_out} more")
    if status.routes:
        lines += ["", *_table(_routes(status))]
    lines += ["", *_node(status)]
    return lines


def _clock(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%H:%M:%S UTC")


def _nodes(status: pb.GetStatusResponse) -> Iterator[tuple[str, ...]]:
    routes = status.HasField("protection")
    yield ("  node", "kind", "state", "lag", "last 3 min", "calls/s", "verdict")[
        : 7 if routes else 5
    ]
    for node in status.nodes:
        row = (
            ("* " if node.is_self else "  ") + node.name,
            node.kind,
            node.state.replace("_", " ") + (", ejected" if node.ejected else ""),
            lag_of(node),
            plot(node.lag_history),
            f"{node.calls_per_second:.1f}" if node.HasField("calls_per_second") else "-",
            node.verdict or "-",
        )
        yield row if routes else row[:5]


def lag_of(node: pb.StatusNode) -> str:
    """Return a node's lag in words."""
    if node.kind != REPLICA or node.state in {"dead", "leaving"}:
        return "-"
    if not node.HasField("lag"):
        return "unknown"
    return f"<= {node.lag:g} s" if node.lag_is_coarse else f"{node.lag:.2f} s"


def plot(values: Sequence[float]) -> str:
    """Return the course of a lag, the largest of some seconds per character; `·` is unknown."""
    if not values:
        return "-"
    size = max(1, math.ceil(len(values) / _WIDTH))
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    known = [[one for one in part if not math.isnan(one)] for part in parts]
    most = max((max(part) for part in known if part), default=0.0)
    return "".join(_bar(max(part), max(most, 1.0)) if part else _UNKNOWN for part in known)


def _bar(value: float, most: float) -> str:
    return _BARS[min(len(_BARS) - 1, int(value / most * len(_BARS)))]


def _routes(status: pb.GetStatusResponse) -> Iterator[tuple[str, ...]]:
    yield ("  route", "calls/s", "failed/s", "last 3 min")
    for one in status.routes:
        failed, rate = f"{one.failed_per_second:.1f}", f"{one.per_second:.1f}"
        yield (f"  {one.route}", rate, failed, plot(one.history))


def _node(status: pb.GetStatusResponse) -> Iterator[str]:
    if status.HasField("protection"):
        now = status.protection
        limit = str(now.fallback_limit) if now.HasField("fallback_limit") else "no limit"
        yield (
            f"fallback cap: {now.fallbacks} of {limit} in use; retry budget: {now.retry_budget:g}; "
            f"lag bound: {seconds(status.max_lag) if status.HasField('max_lag') else 'none'}"
        )
    for one in status.conditions:
        yield f"{one.name}: {one.reason or 'ok'}"
    if status.HasField("members"):
        found = status.members
        yield (
            f"gossip: {found.live} live, {found.ready} ready, {found.dead} dead, "
            f"{found.zombie} about to be forgotten"
        )
    else:
        yield "gossip: off"


def _table(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    all_rows = list(rows)
    widths = [max(len(row[column]) for row in all_rows) for column in range(len(all_rows[0]))]
    for row in all_rows:
        yield "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
