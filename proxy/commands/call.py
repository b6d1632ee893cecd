"""The subcommand `call`: one call through the routing client, and who served it."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from proxy import errors
from proxy.commands.calling import client_of, find_rpc, settle
from proxy.commands.refusal import UsageError
from proxy.proto.quickwit import metastore_pb2
from proxy.routing.catalogue import Rpc

# Seconds until some node serves.
_READY: Final = 5.0


async def run(options: Namespace) -> int:
    """Make one call through the routing client."""
    rpc = find_rpc(options.rpc)
    request = _parse_request(rpc, options.request)
    if not rpc.is_read and not options.allow_writes:
        raise UsageError(f"{rpc.name} is a write: repeat the command with --allow-writes")
    async with client_of(options, allow_writes=options.allow_writes) as client:
        bound = _READY if options.timeout is None else min(_READY, options.timeout)
        await client.wait_ready(timeout=bound)
        await settle(client)
        if rpc.is_streaming:
            stream = client.stream(rpc.name, request, timeout=options.timeout)
            async for message in stream:
                _print_message(message)
            facts: Any = stream
        else:
            facts = await client.call(rpc.name, request, timeout=options.timeout)
            _print_message(facts.response)
    lag = "unknown" if facts.lag is None else f"{facts.lag:.3f} s"
    sys.stderr.write(
        f"served by {facts.served_by} ({facts.role}), route {facts.route}, lag {lag}\n"
    )
    return 0


def _parse_request(rpc: Rpc, text: str) -> Message:
    methods = metastore_pb2.DESCRIPTOR.services_by_name["MetastoreService"].methods_by_name
    request = GetMessageClass(methods[rpc.name].input_type)()
    try:
        return json_format.Parse(text, request)
    except json_format.ParseError as error:
        raise errors.InvalidArgument(
            f"the request is not a {request.DESCRIPTOR.name} as JSON: {error}"
        ) from error


def _print_message(message: Message) -> None:
    text = json_format.MessageToJson(message, preserving_proto_field_name=True)
    sys.stdout.write(f"{text}\n")
