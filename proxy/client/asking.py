"""Asking a node something by the proxy's own service, on a connection of the question's own.

For a question now and then; what is asked again and again goes over a `Connection`. Whether a node
answers is found out anew each time, so that no back-off of an earlier failure is in the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, TypeVar

import grpc
from google.protobuf.message import Message

from proxy.client.discovery import Resolve, resolve_with_system
from proxy.client.options import ClientOptions
from proxy.client.wire import read_failure
from proxy.errors import Code, MetastoreError
from proxy.routing.targets import Target, join_address

_SERVICE: Final = "metastore.proxy.v1.ProxyService"

T = TypeVar("T", bound=Message)


class NoAnswerError(Exception):
    """A node could not be asked. `reason` is why, without the node's address.

    `is_stranger` tells a node that does not know the method from one that is not heard at all.
    """

    def __init__(self, message: str, *, reason: str = "", is_stranger: bool = False) -> None:
        super().__init__(message)
        self.reason = reason or message
        self.is_stranger = is_stranger


async def ask_node(
    address: str, method: str, request: Message, answer: type[T], *, timeout: float = 10.0
) -> T:
    """Ask the node at `address` by a method of `metastore.proxy.v1.ProxyService`.

    `NoAnswerError` when there is no node, none that knows the method, or no answer within `timeout`
    seconds; else the node's own error.
    """
    options = ClientOptions().channel_arguments()
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        send: grpc.aio.UnaryUnaryMultiCallable[Message, T] = channel.unary_unary(
            f"/{_SERVICE}/{method}",
            lambda message: message.SerializeToString(),
            answer.FromString,
        )
        try:
            # The library types its answer as never None.
            answered: object = await send(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            failure = read_failure(error)
            if failure.is_explicit:
                raise failure.error from error
            is_stranger = failure.code is Code.UNIMPLEMENTED
            reason = error.details() or failure.code.name
            if is_stranger:
                reason = "it is no node of this project's, or an older one"
            raise _no_answer(address, method, reason, is_stranger=is_stranger) from error
    if not isinstance(answered, answer):
        # The library logs an answer that does not parse, and hands over None.
        raise _no_answer(address, method, "its answer does not parse", is_stranger=True)
    return answered


async def ask_target(
    target: Target,
    method: str,
    request: Message,
    answer: type[T],
    *,
    timeout: float,
    resolve: Resolve = resolve_with_system,
) -> Mapping[str, T | NoAnswerError | MetastoreError]:
    """Ask every node that a target names, all at once; return what came of it, by address.

    Takes `timeout` seconds at most. A name that has no address is told as what came of the target.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout
    addresses = [target.address]
    if target.is_name:
        try:
            async with asyncio.timeout(timeout):
                hosts = await resolve(target.host, target.port)
        # A label that is too long for DNS raises UnicodeError.
        except (OSError, UnicodeError) as error:
            late = f"the name is not resolved within {timeout:.3g} s"
            reason = (
                late if isinstance(error, TimeoutError) else f"the name has no address: {error}"
            )
            return {str(target): _no_answer(str(target), method, reason)}
        addresses = sorted({join_address(host, target.port) for host in hosts})

    async def ask(address: str) -> T | NoAnswerError | MetastoreError:
        try:
            left = max(0.0, until - loop.time())
            return await ask_node(address, method, request, answer, timeout=left)
        except (NoAnswerError, MetastoreError) as error:
            return error

    came = await asyncio.gather(*map(ask, addresses))
    return dict(zip(addresses, came, strict=True))


def _no_answer(whom: str, method: str, reason: str, *, is_stranger: bool = False) -> NoAnswerError:
    message = f"{whom} does not answer {method}: {reason}"
    return NoAnswerError(message, reason=reason, is_stranger=is_stranger)
