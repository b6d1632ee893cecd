"""Asking a backend how far its data are.

Facts: `metastore.proxy.v1.ProxyService/GetReplication` is this project's own. A node that is not
ours answers UNIMPLEMENTED; it is not asked again on the same connection.
"""

from __future__ import annotations

import time
from enum import Enum
from typing import Final, Protocol

from google.protobuf.message import DecodeError

from proxy.client.channels import until_ready
from proxy.client.wire import read_failure
from proxy.errors import Code
from proxy.http2.answer import CallError
from proxy.http2.channel import Channel
from proxy.proto.metastore_proxy.v1 import proxy_pb2
from proxy.roles import Role
from proxy.routing.consistency import parse_lsn
from proxy.routing.freshness import Report

_METHOD: Final = "/metastore.proxy.v1.ProxyService/GetReplication"
# An answer this much later (as a part of the bound) than it was due means that this process itself
# was held up, which says nothing of the backend.
_HELD_UP: Final = 0.5


class Heard(Enum):
    """What came of a question. HUNG: no answer in time. DEAD: the connection broke.

    STUCK: a replica's node answered that its database does not. SILENT: an error that says nothing
    of the backend's health.
    """

    REPORT = "report"
    STUCK = "stuck"
    NO_SUCH_SERVICE = "no such service"
    SILENT = "silent"
    HUNG = "hung"
    DEAD = "dead"


class ReportListener(Protocol):
    """Whoever judges what backends say of their data."""

    def __call__(self, address: str, report: Report, /) -> None:
        """Take note of a report."""


async def ask(channel: Channel, timeout: float, address: str, on_report: ReportListener) -> Heard:
    """Ask once. A report goes to `on_report` before this returns REPORT or STUCK."""
    # Taken before the question leaves: what is committed from here on need not be in the answer.
    sent = time.monotonic()
    try:
        answer = await channel.unary(
            _METHOD, b"", proxy_pb2.GetReplicationResponse.FromString, timeout=timeout
        )
    except CallError as error:
        return _failed(read_failure(error).code, time.monotonic() - sent, timeout)
    except DecodeError:
        return Heard.SILENT
    on_report(address, _report(answer, sent))
    is_stuck = answer.role == Role.READ_REPLICA.value and not answer.database_reachable
    return Heard.STUCK if is_stuck else Heard.REPORT


def _failed(code: Code, seconds: float, timeout: float) -> Heard:
    if code is Code.UNIMPLEMENTED:
        return Heard.NO_SUCH_SERVICE
    if code is Code.DEADLINE_EXCEEDED:
        return Heard.HUNG if seconds < timeout * (1.0 + _HELD_UP) else Heard.SILENT
    return Heard.DEAD if code is Code.UNAVAILABLE else Heard.SILENT


def _report(answer: proxy_pb2.GetReplicationResponse, sent: float) -> Report:
    is_known = answer.database_reachable
    return Report(
        sent=sent,
        received=time.monotonic(),
        in_recovery=answer.in_recovery,
        lsn=parse_lsn(answer.lsn) if is_known else None,
        timeline=answer.timeline if is_known else 0,
        identity=answer.cluster_identity,
        node_id=answer.node_id,
        zone=answer.availability_zone,
        is_reachable=is_known,
        worker=answer.worker,
        workers=answer.workers,
    )


class WorkerAsker:
    """Connects a channel and asks which of the backend's workers answers on it."""

    def __init__(self, address: str, connect_timeout: float, timeout: float) -> None:
        self._address = address
        self._connect_timeout = connect_timeout
        self._timeout = timeout

    async def __call__(self, channel: Channel, /) -> int | None:
        """Return the worker's number; None when there is no answer, or no such thing."""
        found: list[int] = []

        def hear(_address: str, report: Report) -> None:
            found.append(report.worker)

        if await until_ready(channel, self._connect_timeout):
            await ask(channel, self._timeout, self._address, hear)
        return found[0] if found and found[0] else None
