"""Looking up one key: environment variable before file before default, with its type checked.

Facts: Quickwit's precedence; a variable that is set but empty is ignored with a warning. A key
without a value in the file counts as not given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from proxy.config.durations import parse_duration
from proxy.config.problems import Findings, nearest, quoted, shape
from proxy.config.sizes import parse_size

T = TypeVar("T")

_TRUE: Final = ("true", "yes", "1")
_FALSE: Final = ("false", "no", "0")


@dataclass(frozen=True)
class Kind(Generic[T]):
    """How to read a value of one type from a file and from a variable's text.

    Both functions raise `ValueError` with what the value must be, never showing the value.
    """

    from_file: Callable[[Any], T]
    from_text: Callable[[str], T]


class Values:
    """The layers of one configuration; remembers where each value came from."""

    def __init__(
        self, document: Mapping[str, Any], environ: Mapping[str, str], findings: Findings
    ) -> None:
        self._document = document
        self._environ = environ
        self._findings = findings
        self.origins: dict[str, str] = {}

    def section(self, key: str, known: Collection[str]) -> None:
        """Check that a section is a mapping and holds known keys only."""
        section = self._find(key)
        if isinstance(section, dict):
            for name in section:
                if name not in known:
                    self._findings.error(
                        f"`{key}` has no key {quoted(name)}: {nearest(name, known)}"
                    )
        elif section is not None:
            self._findings.error(f"`{key}` must be a mapping of keys, it is {shape(section)}")

    def is_given(self, key: str) -> bool:
        """Whether the file gives this key a value."""
        return self._find(key) is not None

    def get(
        self, key: str, kind: Kind[T], default: T, *, env: str = "", aliases: Sequence[str] = ()
    ) -> T:
        """Return the value of a dotted key; after an error, which is noted, the default."""
        value, self.origins[key] = default, "default"
        for name in (key, *aliases):
            given = self._find(name)
            if given is not None:
                value = self._read(f"`{name}`", kind.from_file, given, default)
                self.origins[key] = "file"
        if text := self._variable(env):
            value = self._read(
                f"environment variable `{env}` (`{key}`)", kind.from_text, text, default
            )
            self.origins[key] = f"env {env}"
        return value

    def flag(self, env: str) -> bool:
        """Return a boolean variable; one that is not a boolean is false, with a warning."""
        self.origins[env] = "default"
        if env not in self._environ:
            return False
        text = self._environ[env].strip().lower()
        if text not in (*_TRUE, *_FALSE):
            self._findings.warn(
                f"environment variable `{env}` is ignored: it must be `true` or `false`, "
                f"it is {shape(text)}"
            )
            return False
        self.origins[env] = f"env {env}"
        return text in _TRUE

    def variable(self, env: str) -> str:
        """Return an environment variable as it is; empty if it is not set."""
        return self._environ.get(env, "")

    def _variable(self, env: str) -> str:
        if not env or env not in self._environ:
            return ""
        if not self._environ[env]:
            self._findings.warn(f"environment variable `{env}` is set but empty, and is ignored")
        return self._environ[env]

    def _read(self, label: str, read: Callable[[Any], T], given: object, default: T) -> T:
        try:
            return read(given)
        except ValueError as error:
            self._findings.error(f"{label} {error}")
            return default

    def _find(self, key: str) -> object:
        found: object = self._document
        for name in key.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        return found


def _string(value: object) -> str:
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("must not be empty: give it a value or remove it")
        return value
    hint = ": write it in quotes" if isinstance(value, int | float) else ""
    raise ValueError(f"must be a string, it is {shape(value)}{hint}")


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of strings such as `[a, b]`, it is {shape(value)}")
    for position, item in enumerate(value, 1):
        if not isinstance(item, str) or not item.strip():
            raise ValueError(f"must be a list of strings, item {position} is {shape(item)}")
    return tuple(item.strip() for item in value)


def _comma_list(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (item.strip() for item in text.split(","))))


def _optional_string(value: object) -> str | None:
    return _string(value)


def optional(kind: Kind[T]) -> Kind[T | None]:
    """Return the same kind for a key whose default is None."""
    return Kind(kind.from_file, kind.from_text)


def integer(low: int, high: int) -> Kind[int]:
    """A whole number between two bounds, both included."""

    def check(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        is_number = isinstance(value, int) and not isinstance(value, bool)
        found = str(value) if is_number and len(str(value)) < 12 else shape(value)
        raise ValueError(f"must be a whole number from {low} to {high}, it is {found}")

    def from_text(text: str) -> int:
        return check(int(text) if re.fullmatch(r"\+?[0-9]{1,18}", text) else text)

    return Kind(check, from_text)


def number(low: float, high: float) -> Kind[float]:
    """A number between two bounds, both included."""

    def check(value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            return float(value)
        raise ValueError(f"must be a number from {low:g} to {high:g}, it is {shape(value)}")

    return Kind(check, check)


def choice(*allowed: str) -> Kind[str]:
    """One of a few words."""

    def check(value: object) -> str:
        if value in allowed:
            return str(value)
        hint = f", {nearest(value, allowed)}" if isinstance(value, str) else ""
        words = ", ".join(f"`{word}`" for word in allowed)
        raise ValueError(f"must be {'one of ' if len(allowed) > 1 else ''}{words}{hint}")

    return Kind(check, check)


def words_or_none(*allowed: str) -> Kind[tuple[str, ...]]:
    """A word of a few, a list of them without repetitions, or `none` for an empty list."""
    word = choice(*allowed, "none")

    def check(value: object) -> tuple[str, ...]:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not items:
            raise ValueError(
                f"must be {', '.join(f'`{one}`' for one in allowed)}, a list of them, or `none`, "
                f"it is {shape(value)}"
            )
        words = tuple(dict.fromkeys(word.from_file(item) for item in items))
        if "none" in words and len(words) > 1:
            raise ValueError("must be `none` alone, or a list without it")
        return () if words == ("none",) else words

    return Kind(check, check)


def duration(*, positive: bool = False) -> Kind[float]:
    """Seconds, from a duration with a unit; zero is refused when `positive`."""

    def check(value: object) -> float:
        if not isinstance(value, str):
            raise ValueError(f"must be a duration with a unit such as `10s`, it is {shape(value)}")
        seconds = parse_duration(value)
        if positive and not seconds:
            raise ValueError("must be longer than zero")
        return seconds

    return Kind(check, check)


def duration_or_never() -> Kind[float | None]:
    """Seconds, or None for an empty string, `0` or a zero duration."""
    seconds = duration()

    def check(value: object) -> float | None:
        if value == "" or (value == 0 and not isinstance(value, bool)):
            return None
        return seconds.from_file(value) or None

    return Kind(check, check)


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if not isinstance(value, str):
        raise ValueError(f"must be a size such as `20MiB`, it is {shape(value)}")
    return parse_size(value)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, it is {shape(value)}")
    return value


STRING: Final = Kind(_string, _string)
OPTIONAL_STRING: Final[Kind[str | None]] = Kind(_optional_string, _optional_string)
STRINGS: Final = Kind(_strings, _comma_list)
PORT: Final = integer(0, 65535)
SIZE: Final = Kind(_size, _size)
BOOLEAN: Final = Kind(_boolean, _boolean)
