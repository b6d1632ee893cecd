"""A node that could not be asked: what whoever asks raises, and whoever tells the user knows."""

from __future__ import annotations


class NoAnswerError(Exception):
    """A node could not be asked. `reason` is why, without the node's address.

    `is_stranger` tells a node that does not know the method from one that is not heard at all.
    """

    def __init__(self, message: str, *, reason: str = "", is_stranger: bool = False) -> None:
        super().__init__(message)
        self.reason = reason or message
        self.is_stranger = is_stranger
