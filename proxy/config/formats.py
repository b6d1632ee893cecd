"""Reading a configuration file: YAML, JSON with comments, or TOML, chosen by its extension.

Facts: extensions and the interpolation before parsing are Quickwit's. YAML scalars follow YAML
1.2 as in Quickwit's parser: `no` and `on` are strings, not booleans. A key that is given twice is
an error in every format, because one of the two would be lost silently.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from proxy.config.interpolation import interpolate
from proxy.config.problems import ConfigError, Findings, quoted, shape

MAX_BYTES: Final = 1 << 20

# What a parser quotes may be part of a password, unless it is a character or a token's name.
_QUOTED: Final = re.compile(r"(['\"`])((?:(?!\1).)*)\1")
_HARMLESS: Final = re.compile(r"<[a-z ]+>|\\?.?|\.\.\.|---")
_COMMENT_OR_STRING: Final = re.compile(
    r'"(?:\\.|[^"\\])*"|(?P<comment>//[^\n]*|#[^\n]*|/\*.*?\*/)', re.DOTALL
)


class _SyntaxProblem(Exception):
    """A file that does not parse; the message is safe to show."""


def read_document(path: Path, environ: Mapping[str, str], findings: Findings) -> dict[str, Any]:
    """Read, interpolate and parse a file.

    `ConfigError` naming the file when it cannot be read or parsed, with the line where that is
    known, or when a variable it refers to is not set.
    """
    where = f"`{path}`"
    parse = _PARSERS.get(path.suffix)
    if parse is None:
        raise ConfigError(
            "the extension names the format: use .yaml, .yml, .json or .toml", where=where
        )
    text = interpolate(_read_text(path), environ, findings)
    if findings.errors:
        raise ConfigError(*findings.errors, where=where)
    problem = ""
    document: object = None
    try:
        document = parse(text)
    except _SyntaxProblem as error:
        problem = str(error)
    except RecursionError:
        problem = "the values are nested too deeply"
    # Raised here, outside the handlers: the parsers' own errors quote the text of the file.
    if problem:
        raise ConfigError(problem, where=where)
    if not isinstance(document, dict):
        raise ConfigError(
            f"the file must be a mapping of keys to values, it is {shape(document)}", where=where
        )
    return document


def _read_text(path: Path) -> str:
    where = f"`{path}`"
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ConfigError(
            f"the file cannot be read: {reason}; name another with --config or QW_CONFIG",
            where=where,
        ) from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"the file is larger than {MAX_BYTES} bytes", where=where)
    position = -1
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        position = error.start
    line = raw.count(b"\n", 0, position) + 1
    raise ConfigError(f"line {line}: the file is not UTF-8 text: save it as UTF-8", where=where)


def _safe(message: str) -> str:
    """Return a parser's message, cut where it starts to quote the text of the file."""
    if all(_HARMLESS.fullmatch(quote[1]) for quote in _QUOTED.findall(message)):
        return message
    return re.split("['\"`]", message, maxsplit=1)[0] + "(not shown)"


def _parse_json(text: str) -> object:
    blanked = _COMMENT_OR_STRING.sub(
        lambda match: re.sub(r"[^\n]", " ", match[0]) if match["comment"] else match[0], text
    )
    try:
        return json.loads(blanked, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        message = f"line {error.lineno}, column {error.colno}: {_safe(error.msg).lower()}"
    except ValueError:
        message = "a number is too large"
    raise _SyntaxProblem(message)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _SyntaxProblem(f"the key {quoted(key)} is given twice: remove one")
        result[key] = value
    return result


def _parse_toml(text: str) -> object:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
    except ValueError:
        message = "a number is too large"
    place = re.search(r" \(at line (\d+), column (\d+)\)$", message)
    if place:
        message = f"line {place[1]}, column {place[2]}: {message[: place.start()]}"
    raise _SyntaxProblem(_safe(message))


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2."""

    # Explicitly own: the base class's table holds the scalars of YAML 1.1.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


_SCALARS: Final = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        (
            r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
        ),
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
)
for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first
    )


def _parse_yaml(text: str) -> object:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_keys(node)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        message = _safe(", ".join(filter(None, (error.context, error.problem))))
        mark = error.problem_mark or error.context_mark
        if mark is not None:
            message = f"line {mark.line + 1}, column {mark.column + 1}: {message}"
    except yaml.reader.ReaderError:
        message = "it holds a control character that YAML does not allow: remove it"
    except ValueError:
        message = "a number is too large or a value does not fit its tag"
    raise _SyntaxProblem(message)


def _check_keys(root: yaml.Node) -> None:
    """Refuse keys given twice, and keys that are not scalars, anywhere in the document."""
    waiting, seen = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            _check_mapping(node)
            waiting.extend(value for _, value in node.value)


def _check_mapping(node: yaml.MappingNode) -> None:
    keys = set[str]()
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise _SyntaxProblem(f"line {line}: a key must be a plain name")
        if key.value in keys:
            raise _SyntaxProblem(
                f"line {line}: the key {quoted(key.value)} is given twice: remove one"
            )
        keys.add(key.value)


_PARSERS: Final[dict[str, Callable[[str], object]]] = {
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
    ".json": _parse_json,
    ".toml": _parse_toml,
}
