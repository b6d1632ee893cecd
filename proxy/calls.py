"""The call that is being served: its ID for the logs, and where its time went.

Whoever serves a call makes a `CallRecord` the current one; whatever runs for the call adds to it.
Outside of a call there is none. What is only for the logs is worked out when a line is written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from random import getrandbits
from typing import Final

from proxy.routing.consistency import REQUEST_ID
from proxy.tracing import Span, trace_id_of

Metadata = Sequence[tuple[str, str | bytes]]

# What may go into a log line and on to another node as it is.
_VALID_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@~-]{1,128}")


@dataclass(slots=True)
class CallRecord:
    """What is known of one call. Times are seconds.

    `pool_wait` and `sql_time` are spent waiting for a database session and for statements,
    `send_time` waiting for the caller to take the answer. `attempts` counts those sent to other
    nodes. `code` is the name of the gRPC code it ended with.
    """

    rpc: str
    metadata: Metadata = ()
    span: Span | None = None
    code: str = "OK"
    pool_wait: float = 0.0
    sql_time: float = 0.0
    statements: int = 0
    rows: int = 0
    messages: int = 0
    sent_bytes: int = 0
    send_time: float = 0.0
    attempts: int = 0
    served_by: str = ""
    route: str = ""
    _request_id: str = field(default="", repr=False)

    @property
    def request_id(self) -> str:
        """The caller's `x-request-id` if it is a valid one, else one made here."""
        if not self._request_id:
            self._request_id = _given_id(self.metadata) or new_request_id()
        return self._request_id

    @property
    def trace_id(self) -> str:
        """The trace that the call belongs to, in hexadecimal; empty if it belongs to none."""
        return trace_id_of(self.metadata) if self.span is None else self.span.trace_id


current_call: Final[ContextVar[CallRecord | None]] = ContextVar("current_call", default=None)


def this_call() -> CallRecord:
    """Return the record of the call that is being served here; there must be one."""
    call = current_call.get()
    if call is None:
        raise RuntimeError("no call is being served")
    return call


def new_request_id() -> str:
    """Return an ID that no other call has. It names a call and is no secret."""
    # The generator is seeded anew in a process that was forked off.
    return f"{getrandbits(64):016x}"


def _given_id(metadata: Metadata) -> str:
    for key, value in metadata:
        if key == REQUEST_ID and isinstance(value, str):
            return value if _VALID_ID.fullmatch(value) else ""
    return ""
