"""The keys that members publish of themselves, and how their values are read.

Facts: Quickwit's key names, spellings and value formats (`quickwit-cluster`, `member.rs`); a value
that Quickwit cannot parse hides the member from it. The keys under `metastore_proxy.` are ours, and
Quickwit ignores them.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from proxy.roles import SERVICE_NAMES, Role

ENABLED_SERVICES: Final = "enabled_services"
GRPC_ADVERTISE_ADDR: Final = "grpc_advertise_addr"
READINESS: Final = "readiness"
AVAILABILITY_ZONE: Final = "availability_zone"
STANDALONE_COMPACTORS: Final = "standalone_compactors"

READY: Final = "READY"
NOT_READY: Final = "NOT_READY"

# Ours: a role's value (`metastore_router` is never a backend), our version, the REST address, and
# a coarse upper bound of a replica's lag.
ROLE: Final = "metastore_proxy.role"
VERSION: Final = "metastore_proxy.version"
REST_ADVERTISE_ADDR: Final = "metastore_proxy.rest_advertise_addr"
LAG_AT_MOST: Final = "metastore_proxy.lag_at_most"

UNKNOWN_LAG: Final = "unknown"
# Coarse, so that a lag that wobbles writes no new version of its key.
LAG_STEPS: Final = (1, 2, 5, 10, 30, 60, 300, 3600)

# A key with this mark belongs to something a member works on (a shard, a pipeline), not to itself.
DETAIL_MARK: Final = ":"


def services_of(value: str) -> frozenset[str]:
    """Return the canonical Quickwit names in a value of `enabled_services`; others are left out."""
    names = (SERVICE_NAMES.get(name.strip()) for name in value.split(","))
    return frozenset(name for name in names if name and name != Role.ROUTER.value)


def socket_address_of(value: str) -> str | None:
    """Return a literal `ip:port` or `[ip]:port` in its canonical spelling; None if it is neither.

    A host name is None: Quickwit parses the value as a socket address and resolves nothing.
    """
    host, colon, port = value.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    is_number = port.isascii() and port.isdigit() and len(port) <= 5
    if not colon or not is_number or not 0 < int(port) <= 0xFFFF:
        return None
    try:
        ip = ip_address(host[1:-1] if is_bracketed else host)
    except ValueError:
        return None
    if (ip.version == 6) != is_bracketed:
        return None
    return f"[{ip}]:{int(port)}" if is_bracketed else f"{ip}:{int(port)}"


def lag_at_most(seconds: float | None) -> str:
    """Return the smallest step that a lag does not exceed; `unknown` for None and beyond the last.

    >>> lag_at_most(0.2), lag_at_most(7), lag_at_most(None)
    ('1', '10', 'unknown')
    """
    if seconds is None:
        return UNKNOWN_LAG
    return next((str(step) for step in LAG_STEPS if seconds <= step), UNKNOWN_LAG)


def lag_of(value: str | None) -> float | None:
    """Return the bound, in seconds, that a value of `lag_at_most` gives; None if it gives none."""
    is_step = value is not None and value in {str(step) for step in LAG_STEPS}
    return float(value) if value is not None and is_step else None
