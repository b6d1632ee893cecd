"""How old a replica's data may be: the primary's heartbeat, and what a replica makes of it.

A `metastore` node stamps one row of `kv` with its database's clock, WAL position and timeline. A
replica that shows the stamp of time T has replayed everything that was committed before T, so its
data is at most `now - T` old. Unlike `now() - pg_last_xact_replay_timestamp()` this bound does not
grow on a replica of an idle primary, and it does grow when the WAL receiver has stopped.

`now` and T are of two clocks. Where the primary's is known to be ahead, the difference is added:
it is at least how far a stamp lies in the future, and at least how far the WAL sender's clock is
ahead of the receiver's (which a user with nothing but SELECT cannot see). A primary's clock that is
behind only makes the bound larger. A router compares positions instead, and needs no clock.

A database that is not in recovery but stands behind a replica's node is judged by its heartbeat as
well: nobody stamps a primary that was left behind, or a standby that was promoted apart.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

HEARTBEAT_KEY: Final = "metastore-proxy/heartbeat"

# How long a clock is taken to be ahead after it was last seen to be: clocks get set right.
SKEW_MEMORY: Final = 600.0


@dataclass(frozen=True, slots=True)
class Writer:
    """The node that stamps: `generation` is its start; without gossip its address is empty."""

    node_id: str
    cluster_id: str
    generation: int
    gossip_address: str = ""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A stamp: seconds of the primary's clock, and its timeline (0 is unknown).

    `writer` is None for a stamp of an earlier version, which did not say enough of it.
    """

    at: float
    timeline: int = 0
    writer: Writer | None = None


def parse_heartbeat(text: str | None) -> Heartbeat | None:
    """Return the stamp in a row's value; None for no row, or a value that is none."""
    if text is None:
        return None
    try:
        row = json.loads(text)
        at, timeline = float(row["at"]), int(row.get("timeline", 0))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    return Heartbeat(at, max(0, timeline), _writer(row)) if math.isfinite(at) else None


def _writer(row: Mapping[str, Any]) -> Writer | None:
    texts = [row.get(key) for key in ("node", "cluster", "gossip")]
    generation = row.get("generation")
    if not all(isinstance(text, str) for text in texts) or not isinstance(generation, int):
        return None
    node_id, cluster_id, gossip_address = map(str, texts)
    return Writer(node_id, cluster_id, generation, gossip_address)


class LagMeter:
    """Turns looks at a replica's database into bounds on the age of its data.

    Pure: `now` is seconds on the node's monotonic clock. A bound grows by itself until the next
    look; after a failed one it is unknown.
    """

    def __init__(self) -> None:
        self._fresh_as_of: float | None = None
        # What the primary's clock was seen to be ahead, with the time; only falling values.
        self._ahead: deque[tuple[float, float]] = deque()

    def lag(self, now: float) -> float | None:
        """Return how old the data may be at `now`, in seconds; None is unknown."""
        return None if self._fresh_as_of is None else max(0.0, now - self._fresh_as_of)

    def looked(
        self,
        heartbeat: Heartbeat | None,
        *,
        clock: float,
        sender_ahead: float | None,
        in_recovery: bool,
        now: float,
    ) -> None:
        """Take note of a look that began at `now` and found the database's clock at `clock`."""
        if heartbeat is None:
            # A primary that nobody stamps is not known to be left behind.
            self._fresh_as_of = None if in_recovery else now
            return
        ahead = self._note_skew(max(heartbeat.at - clock, sender_ahead or 0.0), now)
        self._fresh_as_of = now - max(0.0, clock - heartbeat.at + ahead)

    def failed(self) -> None:
        """Take note of a look that got no answer: the bound is unknown, which is too old."""
        self._fresh_as_of = None

    def forget(self) -> None:
        """Start anew, on another server."""
        self._fresh_as_of = None
        self._ahead.clear()

    def _note_skew(self, ahead: float, now: float) -> float:
        seen = self._ahead
        while seen and seen[0][0] < now - SKEW_MEMORY:
            seen.popleft()
        while seen and seen[-1][1] <= ahead:
            seen.pop()
        seen.append((now, ahead))
        return max(0.0, seen[0][1])
