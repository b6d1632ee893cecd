"""What a subcommand refuses, whatever it does."""

from __future__ import annotations


class UsageError(Exception):
    """The command was given something that it cannot use; says what to do."""
