"""What the command line teaches: examples that parse, and errors that say what to do next."""

from __future__ import annotations

import argparse
import re
import shlex

import pytest

from proxy import __main__ as program
from proxy import errors
from proxy.commands.parsing import parser
from proxy.commands.usage import told
from proxy.tls import TlsError
from proxy.unanswered import NoAnswerError


def subcommands() -> dict[str, argparse.ArgumentParser]:
    for action in parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("no subcommand")


def examples(help_text: str) -> list[list[str]]:
    """Return the command lines of a help text, without their comments and what follows a pipe."""
    _, _, text = help_text.partition("examples:")
    text = re.sub(r"\\\n\s*|\n {6,}", " ", text.partition("exit status:")[0])
    found = []
    for line in text.splitlines():
        command = re.split(r"\s{3,}|\s[|>&]", line.strip())[0]
        words = shlex.split(command)
        while words and re.match(r"[A-Z_]+=", words[0]):
            del words[0]
        if words and words[0] == "metastore-proxy":
            found.append(words[1:])
    return found


@pytest.mark.parametrize("name", subcommands())
def test_the_examples_of_each_help_parse(name: str) -> None:
    shown = examples(subcommands()[name].format_help())
    assert shown
    for arguments in shown:
        assert arguments[0] == name
        assert callable(parser().parse_args(arguments).command)


def test_the_examples_of_the_whole_name_every_subcommand() -> None:
    shown = examples(parser().format_help())
    for arguments in shown:
        parser().parse_args(arguments)
    assert {arguments[0] for arguments in shown} == set(subcommands())


@pytest.mark.parametrize(
    ("arguments", "told", "help_of"),
    [
        ([], "arguments are required: COMMAND", "metastore-proxy"),
        (["rnu"], "did you mean `run`?", "metastore-proxy"),
        (["staus"], "did you mean `status`?", "metastore-proxy"),
        (["run", "--conifg", "x"], "did you mean `--config`?", "metastore-proxy run"),
        (["run", "--log-format=jsno"], "choose from 'console', 'json'", "metastore-proxy run"),
        (["call"], "arguments are required: RPC", "metastore-proxy call"),
        (["call", "X", "--timeout", "soon"], "invalid float value: 'soon'", "metastore-proxy call"),
        (["migrate", "now"], "unrecognized arguments: now", "metastore-proxy migrate"),
    ],
)
def test_a_wrong_use_names_the_help(
    arguments: list[str], told: str, help_of: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        program.main(arguments)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.startswith(f"{help_of}: ")
    assert said.endswith(f"\nsee `{help_of} --help`\n")


def test_a_uri_in_the_wrong_place_is_shown_without_its_password(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        program.main(["run", "postgresql://user:hunter2:x@host/db"])
    said = capsys.readouterr().err
    assert "postgresql://user:***redacted***@host/db" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (errors.Connection("cannot connect to x"), "see that the database runs"),
        (errors.Unavailable("no node"), "`metastore-proxy status --node HOST:PORT`"),
        (errors.Timeout("late"), "--timeout"),
        (errors.TooManyRequests(), "try again"),
        (errors.InvalidArgument("bad"), "`metastore-proxy call --help`"),
        (NoAnswerError("x does not answer"), "see that a node runs there"),
        (TlsError("cannot read"), "correct the files"),
    ],
)
def test_an_error_ends_with_what_to_do_next(error: Exception, advice: str) -> None:
    said = told(error)
    assert said.startswith(str(error))
    assert advice in said.removeprefix(str(error))
