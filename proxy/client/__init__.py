"""The routing client: a library that needs neither a server nor a database driver.

::

    async with RoutingClient(["primary:7281"], ["dns:///replicas:7281"]) as client:
        await client.wait_ready()
        answer = await client.index_metadata(request)
        print(answer.served_by, answer.route)
"""

from proxy.client.answers import Answer, CallOptions, Metadata, Served
from proxy.client.discovery import Member, MemberSource
from proxy.client.events import (
    BackendChanged,
    BackendEjected,
    BackendRefused,
    CallFellBack,
    CallFinished,
    CallHedged,
    CallRetried,
    CallRouted,
    CallShared,
    CallShed,
    Event,
    EventListener,
    ResolveFailed,
    RetryDenied,
)
from proxy.client.options import ClientOptions
from proxy.client.reader import MetastoreReader, SplitStream
from proxy.client.routing import RoutingClient
from proxy.client.streams import AnswerStream
from proxy.client.tls import ClientTls
from proxy.client.writer import MetastoreWriter
from proxy.routing.consistency import Consistency

__all__ = [
    "Answer",
    "AnswerStream",
    "BackendChanged",
    "BackendEjected",
    "BackendRefused",
    "CallFellBack",
    "CallFinished",
    "CallHedged",
    "CallOptions",
    "CallRetried",
    "CallRouted",
    "CallShared",
    "CallShed",
    "ClientOptions",
    "ClientTls",
    "Consistency",
    "Event",
    "EventListener",
    "Member",
    "MemberSource",
    "Metadata",
    "MetastoreReader",
    "MetastoreWriter",
    "ResolveFailed",
    "RetryDenied",
    "RoutingClient",
    "Served",
    "SplitStream",
]
