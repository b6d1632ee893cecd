"""The client's settings, and what they mean to a gRPC channel.

Facts: the reconnect back-off of the gRPC core grows to two minutes unless it is bounded; a stopped
peer is noticed by `grpc.http2.ping_timeout_ms` (`grpc.keepalive_timeout_ms` has no effect); a
server that sees a name's requests under an IP address may want the name as authority.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

_MIB: Final = 1024 * 1024
# The library's limits are 32-bit numbers.
_MAX_INT: Final = 0x7FFFFFFF
# Room for the framing around a message that is exactly as large as the limit.
_MESSAGE_SLACK: Final = 64 * 1024
# An error that names many splits fills the metadata; Quickwit does not cut it.
_MAX_METADATA: Final = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Settings with defaults that suit one data centre. Times are seconds, sizes are bytes.

    max_message_size    of a request or a response message
    hold_bytes          how much of a stream is held back, so that it can be repeated elsewhere
    attempt_timeout     bound on one attempt of a read while another backend is left to try; for a
                        stream, until its first message
    connect_timeout     how long a call waits for some backend to serve when none does
    shed_timeout        how long a read is tried again while every backend is too busy for it
    settle_timeout      how long a read waits for a new replica's first health answer before it
                        falls back to a primary
    resolve_interval    between two resolutions of a `dns:///` name
    reconnect_min, reconnect_max   bounds of the back-off
    keepalive_interval, keepalive_timeout   between pings, and until a missing answer counts
    drain_timeout       how long calls may go on with a backend whose address vanished
    health_service      the service name that is asked of the backend's health service
    """

    max_message_size: int = 20 * _MIB
    hold_bytes: int = _MIB
    attempt_timeout: float = 5.0
    connect_timeout: float = 1.5
    shed_timeout: float = 2.0
    settle_timeout: float = 0.5
    resolve_interval: float = 5.0
    reconnect_min: float = 0.1
    reconnect_max: float = 1.0
    keepalive_interval: float = 1.0
    keepalive_timeout: float = 1.0
    drain_timeout: float = 30.0
    health_service: str = ""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, (int, float)) and not value >= 0:
                raise ValueError(f"option `{item.name}` must not be negative, got {value!r}")

    def channel_arguments(self, authority: str | None = None) -> list[tuple[str, Any]]:
        """Return the arguments of a channel; `authority` is the name its address came from."""
        size = min(self.max_message_size + _MESSAGE_SLACK, _MAX_INT)
        arguments: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", size),
            ("grpc.max_send_message_length", size),
            ("grpc.max_metadata_size", _MAX_METADATA),
            ("grpc.absolute_max_metadata_size", 2 * _MAX_METADATA),
            ("grpc.initial_reconnect_backoff_ms", _ms(self.reconnect_min)),
            # Despite its name, this bounds one attempt to connect.
            ("grpc.min_reconnect_backoff_ms", _ms(max(self.connect_timeout, self.reconnect_max))),
            ("grpc.max_reconnect_backoff_ms", _ms(self.reconnect_max)),
            ("grpc.dns_min_time_between_resolutions_ms", _ms(self.reconnect_max)),
            ("grpc.keepalive_time_ms", _ms(self.keepalive_interval)),
            ("grpc.http2.ping_timeout_ms", _ms(self.keepalive_timeout)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            # Two clients in one process must not share a connection and its back-off.
            ("grpc.use_local_subchannel_pool", 1),
            # Nodes are reached directly, whatever the environment says of web traffic.
            ("grpc.enable_http_proxy", 0),
        ]
        if authority is not None:
            arguments.append(("grpc.default_authority", authority))
        return arguments


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
