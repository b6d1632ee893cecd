"""How old an answer may be: consistency levels, WAL positions, and the metadata that carries them.

Facts: the metadata is ours alone; Quickwit neither sends nor reads it. Times are seconds as decimal
text; a position in the WAL (LSN) is PostgreSQL's text `X/Y`, two hexadecimal numbers of 32 bits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Final

from proxy.errors import InvalidArgument

# In answers: who served the call, what it is, and how old its data may be (an upper bound).
SERVED_BY: Final = "x-metastore-served-by"
ROLE: Final = "x-metastore-role"
LAG: Final = "x-metastore-lag"
# Set by whoever routed the call: replica, primary, fallback or stale.
ROUTE: Final = "x-metastore-route"
# In trailing metadata, when asked for: a position at or after everything the call wrote or saw.
LSN: Final = "x-metastore-lsn"

# In the error of a call that only a primary can serve: the gRPC address of one, where it is known.
PRIMARY: Final = "x-metastore-primary"

# In requests: leave for a read that is not stale-tolerant to be served by a replica.
ALLOW_REPLICA: Final = "x-metastore-allow-replica"
# In requests: how old the answer may be at most, in seconds.
MAX_LAG: Final = "x-metastore-max-lag"
# In requests: a position that the answering database must have reached.
MIN_LSN: Final = "x-metastore-min-lsn"
# In requests: `eventual` or `primary`.
CONSISTENCY: Final = "x-metastore-consistency"
# In requests: leave the position in the answer's trailing metadata.
WANT_LSN: Final = "x-metastore-want-lsn"
# In requests that a node or router passes on: its ID, so that forwarding never loops.
FORWARDED: Final = "x-metastore-forwarded"
# In requests, and in failures: the name of the call in the logs of every node that it passes.
REQUEST_ID: Final = "x-request-id"

_WISHES: Final = frozenset({ALLOW_REPLICA, MAX_LAG, MIN_LSN, CONSISTENCY, WANT_LSN})

_SECONDS: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{0,12})?|\.[0-9]{1,12}")
_LSN: Final = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


# Levels


class Level(Enum):
    """What a caller wants of its reads."""

    EVENTUAL = "eventual"
    BOUNDED = "bounded"
    MONOTONIC = "monotonic"
    READ_YOUR_WRITES = "read_your_writes"
    PRIMARY = "primary"


@dataclass(frozen=True, slots=True)
class Consistency:
    """A level, and the bound in seconds that `BOUNDED` has.

    EVENTUAL          any replica that serves
    bounded(max_lag)  nothing that was committed more than `max_lag` seconds ago is missing
    MONOTONIC         never older than this client's writes and its earlier reads of this level
    READ_YOUR_WRITES  never older than this client's last acknowledged write
    PRIMARY           the primary alone
    """

    level: Level
    max_lag: float | None = None

    EVENTUAL: ClassVar[Consistency]
    MONOTONIC: ClassVar[Consistency]
    READ_YOUR_WRITES: ClassVar[Consistency]
    PRIMARY: ClassVar[Consistency]

    def __post_init__(self) -> None:
        if (self.level is Level.BOUNDED) is not (self.max_lag is not None):
            raise ValueError("a bound goes with the level `bounded` and with no other")
        if self.max_lag is not None and not (math.isfinite(self.max_lag) and self.max_lag >= 0.0):
            raise ValueError(f"`max_lag` must be seconds, not negative, got {self.max_lag!r}")

    @classmethod
    def bounded(cls, max_lag: float) -> Consistency:
        """Return the level whose answers are at most `max_lag` seconds old."""
        return cls(Level.BOUNDED, max_lag)

    @property
    def keeps_token(self) -> bool:
        """Whether reads of this level must not be older than the client's token."""
        return self.level in (Level.MONOTONIC, Level.READ_YOUR_WRITES)


Consistency.EVENTUAL = Consistency(Level.EVENTUAL)
Consistency.MONOTONIC = Consistency(Level.MONOTONIC)
Consistency.READ_YOUR_WRITES = Consistency(Level.READ_YOUR_WRITES)
Consistency.PRIMARY = Consistency(Level.PRIMARY)


# What one call asks for


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a caller said in a call's metadata. `min_lsn` is a position as a number."""

    max_lag: float | None = None
    min_lsn: int | None = None
    consistency: Consistency | None = None
    allow_replica: bool = False
    want_lsn: bool = False


NO_WISHES: Final = Wishes()


@dataclass(frozen=True, slots=True)
class Need:
    """What an answer must meet, all sources put together.

    `max_lag` is seconds, None for no bound; `min_lsn` a position, None for none. `has_waited` says
    that one replica was asked for it in vain: only those known to have it will do then.
    `proves_lsn` asks for backends that can tell their position, because a later call will need it.
    """

    max_lag: float | None = None
    min_lsn: int | None = None
    primary_only: bool = False
    allow_replica: bool = False
    proves_lsn: bool = False
    has_waited: bool = False

    @property
    def is_eventual(self) -> bool:
        """Whether any serving replica will do."""
        return not (
            self.primary_only
            or self.proves_lsn
            or self.max_lag is not None
            or self.min_lsn is not None
        )


EVENTUALLY: Final = Need()


@dataclass(frozen=True, slots=True)
class Token:
    """The position a client has reached. `is_unproven`: it saw an answer that did not tell one.

    From then on no replica can be shown to be as new, so that the primary serves, until its own
    position, which is past whatever was seen before, settles it.
    """

    lsn: int | None = None
    is_unproven: bool = False

    def after(self, lsn: int | None, *, is_primary: bool) -> Token:
        """Return the token after an answer at `lsn`; None is an answer that did not say."""
        if lsn is None:
            return self if self.is_unproven else Token(self.lsn, True)
        is_unproven = self.is_unproven and not is_primary
        highest = lsn if self.lsn is None else max(self.lsn, lsn)
        if highest == self.lsn and is_unproven is self.is_unproven:
            return self
        return Token(highest, is_unproven)


def resolve(
    wishes: Wishes,
    *,
    consistency: Consistency,
    max_lag: float | None = None,
    min_lsn: int | None = None,
    token: Token = Token(),
) -> Need:
    """Put together what a call needs.

    The caller's metadata goes before `consistency` (the call's option or the client's). A bound
    only ever gets tighter: the smallest of the level's, the caller's and `max_lag` holds. Positions
    add up the same way: the highest holds.
    """
    is_plain = wishes is NO_WISHES and max_lag is None and min_lsn is None
    if is_plain and consistency.level is Level.EVENTUAL:
        return EVENTUALLY
    level = wishes.consistency or consistency
    bounds = [b for b in (level.max_lag, wishes.max_lag, max_lag) if b is not None]
    positions = [p for p in (wishes.min_lsn, min_lsn) if p is not None]
    if level.keeps_token and token.lsn is not None:
        positions.append(token.lsn)
    return Need(
        max_lag=min(bounds, default=None),
        min_lsn=max(positions, default=None),
        primary_only=level.level is Level.PRIMARY or (level.keeps_token and token.is_unproven),
        allow_replica=wishes.allow_replica,
        proves_lsn=level.level is Level.MONOTONIC,
    )


# Metadata


def read_wishes(metadata: Iterable[tuple[str, str | bytes]]) -> Wishes:
    """Return what the metadata of a request asks for.

    `InvalidArgument` naming the header for a value that does not parse, or for two that differ.
    """
    found: dict[str, str] = {}
    for key, value in metadata:
        if key in _WISHES:
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            if found.setdefault(key, text) != text:
                raise InvalidArgument(
                    f"metadata `{key}` must be given once, got {found[key][:64]!r} and "
                    f"{text[:64]!r}"
                )
    if not found:
        return NO_WISHES
    return Wishes(
        max_lag=parse_max_lag(found.get(MAX_LAG)),
        min_lsn=parse_min_lsn(found.get(MIN_LSN)),
        consistency=parse_consistency(found.get(CONSISTENCY)),
        allow_replica=parse_allow_replica(found.get(ALLOW_REPLICA)),
        want_lsn=parse_want_lsn(found.get(WANT_LSN)),
    )


def parse_lag(text: str | None) -> float | None:
    """Return the lag in seconds that an answer states; None (unknown) if absent or not a lag."""
    if text is None:
        return None
    try:
        lag = float(text)
    except ValueError:
        return None
    return lag if math.isfinite(lag) and lag >= 0.0 else None


def format_lag(lag: float) -> str:
    """Return a lag as metadata carries it; rounded up, so that it stays a bound."""
    return f"{math.ceil(lag * 1000) / 1000:.3f}"


def parse_lsn(text: str) -> int | None:
    """Return a position as a number that orders as positions do; None if `text` is none."""
    match = _LSN.fullmatch(text.strip())
    return None if match is None else (int(match[1], 16) << 32) | int(match[2], 16)


def format_lsn(lsn: int) -> str:
    """Return a position as PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def format_seconds(seconds: float) -> str:
    """Return seconds as metadata carries them; rounded down, so that a bound stays one."""
    return f"{math.floor(seconds * 1e6) / 1e6:.6f}".rstrip("0").rstrip(".")


def parse_max_lag(text: str | None) -> float | None:
    """Return the bound that a caller sets, in seconds. `InvalidArgument` for anything else."""
    if text is None:
        return None
    if _SECONDS.fullmatch(text.strip()) is None:
        raise InvalidArgument(f"metadata `{MAX_LAG}` must be seconds like `0.5`, got {text[:64]!r}")
    return float(text)


def parse_min_lsn(text: str | None) -> int | None:
    """Return the position that a caller asks for. `InvalidArgument` if it is none."""
    if text is None:
        return None
    lsn = parse_lsn(text)
    if lsn is None:
        raise InvalidArgument(
            f"metadata `{MIN_LSN}` must be a WAL position like `16/B374D848`, got {text[:64]!r}"
        )
    return lsn


_CONSISTENCIES: Final[Mapping[str, Consistency]] = {
    "eventual": Consistency.EVENTUAL,
    "primary": Consistency.PRIMARY,
}


def parse_consistency(text: str | None) -> Consistency | None:
    """Return the level that a caller names. `InvalidArgument` for any but these two."""
    if text is None:
        return None
    found = _CONSISTENCIES.get(text.strip().lower())
    if found is None:
        raise InvalidArgument(
            f"metadata `{CONSISTENCY}` must be `eventual` or `primary`, got {text[:64]!r}"
        )
    return found


def parse_allow_replica(text: str | None) -> bool:
    """Tell whether a caller lets a replica serve its read: `true`, trimmed, in any case.

    `InvalidArgument` naming the header for any other value: a misspelt wish is not a silent no.
    """
    return _parse_true(ALLOW_REPLICA, text)


def parse_want_lsn(text: str | None) -> bool:
    """Tell whether a caller asks for the position in the answer; as `parse_allow_replica`."""
    return _parse_true(WANT_LSN, text)


def _parse_true(header: str, text: str | None) -> bool:
    if text is None:
        return False
    if text.strip().lower() != "true":
        raise InvalidArgument(f"metadata `{header}` must be `true` or absent, got {text[:64]!r}")
    return True
