"""Where a call goes that this node refuses because only a primary can serve it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from proxy import errors
from proxy.routing import consistency
from proxy.routing.catalogue import Rpc
from proxy.routing.selection import may_use_replica

Metadata = tuple[tuple[str, str | bytes], ...]


class Referral:
    """Names a primary's gRPC address in the error of a call that needs one.

    `primary` is asked for each such error; it returns None when no other node is known to be one.
    """

    def __init__(self, primary: Callable[[], str | None] = lambda: None) -> None:
        self._primary = primary

    def refer(
        self, rpc: Rpc, asked: Iterable[tuple[str, str | bytes]], error: errors.MetastoreError
    ) -> tuple[errors.MetastoreError, Metadata]:
        """Return what to answer in place of `error`, and the metadata to go with it.

        That is `error` alone unless it is a refusal, the call (whose metadata is `asked`) needs a
        primary, and one is known. The address is far shorter than what errors leave of the 8 KiB
        that all metadata may take.
        """
        if not isinstance(error, errors.Forbidden | errors.Unavailable):
            return error, ()
        address = self._primary() if _needs_primary(rpc, asked) else None
        if address is None:
            return error, ()
        referring = type(error)(f"{error.message}; send it to the primary at {address}")
        return referring, ((consistency.PRIMARY, address),)


def _needs_primary(rpc: Rpc, asked: Iterable[tuple[str, str | bytes]]) -> bool:
    try:
        wishes = consistency.read_wishes(asked)
    except errors.InvalidArgument:
        return False
    if wishes.consistency is consistency.Consistency.PRIMARY:
        return True
    return not may_use_replica(rpc, allow_replica=wishes.allow_replica)
