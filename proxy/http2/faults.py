"""What ends a stream or a connection of HTTP/2 before its time."""

from __future__ import annotations

from proxy.http2.frames import ErrorCode, code_name


class ConnectionFault(Exception):
    """The peer broke the protocol: the connection ends, with a GOAWAY that says so."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class StreamFault(Exception):
    """A fault of one stream: it is reset, the connection goes on."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class StreamEndedError(Exception):
    """The stream is over, so that nothing can be sent on it. `code` is of HTTP/2."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message or f"the stream was reset: {code_name(code)}")
        self.code = code
