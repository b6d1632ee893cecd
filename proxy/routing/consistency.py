"""Names of the request and response metadata that routing reads and writes.

Facts: ours alone; Quickwit neither sends nor reads them. Times are seconds as decimal text.
"""

from __future__ import annotations

import math
from typing import Final

from proxy.errors import InvalidArgument

# In answers: who served the call, what it is, and how old its data may be (an upper bound).
SERVED_BY: Final = "x-metastore-served-by"
ROLE: Final = "x-metastore-role"
LAG: Final = "x-metastore-lag"
# Set by the routing client: replica, primary or fallback.
ROUTE: Final = "x-metastore-route"

# In requests: leave for a read that is not stale-tolerant to be served by a replica.
ALLOW_REPLICA: Final = "x-metastore-allow-replica"


def parse_lag(text: str | None) -> float | None:
    """Return the lag in seconds that an answer states; None (unknown) if absent or not a lag."""
    if text is None:
        return None
    try:
        lag = float(text)
    except ValueError:
        return None
    return lag if math.isfinite(lag) and lag >= 0.0 else None


def parse_allow_replica(text: str | None) -> bool:
    """Tell whether a caller lets a replica serve its read: `true`, trimmed, in any case.

    `InvalidArgument` naming the header for any other value: a misspelt wish is not a silent no.
    """
    if text is None:
        return False
    if text.strip().lower() != "true":
        raise InvalidArgument(f"metadata `{ALLOW_REPLICA}` must be `true` or absent, got {text!r}")
    return True
