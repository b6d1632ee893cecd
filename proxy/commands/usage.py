"""How the command line tells what is wrong, and what to do next."""

from __future__ import annotations

import argparse
import re
import textwrap
from difflib import get_close_matches
from typing import Any, Final, NoReturn

from proxy import errors
from proxy.config.redact import REDACTED
from proxy.tls import TlsError
from proxy.unanswered import NoAnswerError

_REQUEST: Final = (errors.InvalidArgument, errors.JsonDeserializeError)
_DATABASE: Final = (
    "see that the database runs and lets this host in, and that the URI (`metastore_uri`, "
    "QW_METASTORE_URI) is right"
)
_NO_BACKEND: Final = (
    "ask a node that answers with `metastore-proxy status --node HOST:PORT`, or why with "
    "`metastore-proxy explain RPC`"
)
_NO_NODE: Final = (
    "see that a node runs there (GET /health/livez on its REST port), that this is its gRPC port, "
    "and that --config has the `grpc.tls` of nodes that speak TLS"
)
_ADVICE: Final[tuple[tuple[tuple[type[Exception], ...], str], ...]] = (
    ((errors.Connection,), _DATABASE),
    ((errors.Unavailable,), _NO_BACKEND),
    ((errors.Timeout,), "try again, with a longer --timeout where the command has one"),
    ((errors.TooManyRequests,), "try again in a moment"),
    ((errors.Db,), "see that the database runs, and what its log says"),
    ((NoAnswerError,), _NO_NODE),
    ((TlsError,), "correct the files, or the keys of the configuration that name them"),
    (_REQUEST, "see the examples of `metastore-proxy call --help`"),
)
# How alike a word must be to one that was meant.
_ALIKE: Final = 0.6
# A URI that was given where none belongs.
_PASSWORD: Final = re.compile(r"(://[^:@/\s]*:)[^@\s]*@")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Wraps a description of one line, and leaves one that has lines as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return super()._fill_text(text, width, indent)
        return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent)


class Parser(argparse.ArgumentParser):
    """A parser whose errors end with what to do next."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and where the examples are, on two lines; status 2."""
        text = _PASSWORD.sub(f"\\1{REDACTED}@", message)
        self.exit(2, f"{self.prog}: {text}{self._guess(message)}\nsee `{self.prog} --help`\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As the library's; a subcommand refuses what it does not know, and names its own help."""
        found, rest = super().parse_known_args(args, namespace)
        if rest and not any(isinstance(one, argparse._SubParsersAction) for one in self._actions):
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest

    def _guess(self, message: str) -> str:
        given = re.search(r"(?:unrecognized arguments: |invalid choice: ')([^\s']+)", message)
        if given is None:
            return ""
        near = get_close_matches(given[1].partition("=")[0], sorted(self._words()), 1, _ALIKE)
        return f": did you mean `{near[0]}`?" if near else ""

    def _words(self) -> set[str]:
        """Return all options and subcommands, of this parser and of those below it."""
        words: set[str] = set()
        for action in self._actions:
            words.update(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                for name, parser in action.choices.items():
                    words.add(name)
                    words.update(parser._words() if isinstance(parser, Parser) else ())
            elif action.choices is not None:
                words.update(map(str, action.choices))
        return words


def told(error: Exception) -> str:
    """Return an error as the user reads it: what is wrong, and what to do next."""
    text = str(error)
    for kinds, advice in _ADVICE:
        if isinstance(error, kinds):
            return f"{text}; {advice}"
    return text
