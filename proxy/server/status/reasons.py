"""What speaks against a backend, in words: as a verdict, as a sentence on it, and what to do. Pure.

The reasons are those of `proxy.routing.figures`; the page has a short name for each (`status.js`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Reason:
    """`verdict` stands by itself, `trouble` after the backend's name.

    `advice` is empty where nothing needs to be done. `is_told` is whether the backend may have said
    or shown more, which then goes along.
    """

    verdict: str
    trouble: str
    advice: str = ""
    is_told: bool = False


REASONS: Final = {
    "connecting": Reason("this node is connecting to it", "is not connected yet"),
    "not_serving": Reason(
        "it says that it does not serve",
        "is up and says that it does not serve",
        "its own status page, or `/health/readyz?verbose` on its REST port, says why; most often "
        "its database is down",
        is_told=True,
    ),
    "down": Reason(
        "it does not answer",
        "is down",
        "see whether its process runs and what its log ends with; if it runs, whether this node "
        "reaches its gRPC port",
        is_told=True,
    ),
    "foreign": Reason(
        "it serves another cluster's database",
        "serves another cluster's database and gets no call",
        "check the database URI of that node: it belongs to another cluster's database",
    ),
    "ejected": Reason(
        "too many calls to it failed, and it is left alone for a while",
        "failed too many calls and is left alone for a while",
        "its log says why calls fail; it is tried again by itself",
    ),
    "unknown_lag": Reason(
        "how old its data is cannot be told",
        "does not show how old its data is, which counts as too old",
        "is a primary up and are the two on one timeline? does its own status page say that its "
        "database tells no position? else on that database look at pg_stat_wal_receiver",
    ),
    "too_old": Reason(
        "its data is older than the bound",
        "has data that is older than the bound",
        "on its database look at pg_stat_wal_receiver (is there a row?), "
        "pg_is_wal_replay_paused() and pg_stat_activity: a paused replay, a long query or a slow "
        "disk holds replay back",
    ),
    "filling": Reason(
        "it has just returned and gets its share bit by bit",
        "has just returned and gets its share bit by bit",
    ),
    "standby": Reason(
        "its database is in recovery and takes no writes",
        "has a database in recovery and takes no writes",
        "promote that database, or point the node's `metastore_uri` at the primary",
    ),
}


def advice_for(reason: str) -> str:
    """Return what to do about a backend; empty where it passes by itself, or is none of these."""
    known = REASONS.get(reason)
    return "" if known is None else known.advice
