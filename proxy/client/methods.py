"""The message classes of every RPC, from the generated service description."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from proxy.client.connection import Method
from proxy.proto.quickwit import metastore_pb2
from proxy.routing.catalogue import RPCS, Rpc


@dataclass(frozen=True)
class MessageMethod:
    """An RPC, the class its request must have, and how its messages travel."""

    rpc: Rpc
    request: type[Message]
    method: Method[Message, Message]


def _method(rpc: Rpc) -> MessageMethod:
    service = metastore_pb2.DESCRIPTOR.services_by_name["MetastoreService"]
    described = service.methods_by_name[rpc.name]
    request = GetMessageClass(described.input_type)
    response = GetMessageClass(described.output_type)
    return MessageMethod(
        rpc, request, Method(rpc.path, request.SerializeToString, response.FromString)
    )


def _as_it_is(raw: bytes) -> bytes:
    return raw


# Those whose messages are passed on as bytes.
RAW_METHODS: Final[Mapping[str, Method[bytes, bytes]]] = {
    name: Method(rpc.path, _as_it_is, _as_it_is) for name, rpc in RPCS.items()
}
METHODS: Final[Mapping[str, MessageMethod]] = {name: _method(rpc) for name, rpc in RPCS.items()}


def find_rpc(rpc_name: str) -> Rpc:
    """Return an RPC by its name. `ValueError` for a name that is none."""
    found = RPCS.get(rpc_name)
    if found is None:
        raise ValueError(f"{rpc_name!r} is not an RPC of the metastore")
    return found


def find(rpc_name: str, request: Message, *, streaming: bool) -> MessageMethod:
    """Return the method of an RPC after a check of how it is called.

    `ValueError` for a name that is no RPC, or one of the other kind (unary or streaming);
    `TypeError` for a request of another class.
    """
    found = METHODS[find_rpc(rpc_name).name]
    if found.rpc.is_streaming is not streaming:
        use = "stream" if found.rpc.is_streaming else "call"
        raise ValueError(f"{rpc_name} is made with `{use}`")
    if not isinstance(request, found.request):
        raise TypeError(
            f"{rpc_name} takes a {found.request.__name__}, got a {type(request).__name__}"
        )
    return found
