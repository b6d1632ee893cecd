"""Reading and writing of JSON documents: strict, with errors that name the field.

Facts: documents are UTF-8 and compact; 64-bit integers are plain numbers; a document of the wrong
form is `JsonDeserializeError` with the name of Quickwit's struct.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn, TypeVar

from proxy.errors import InvalidArgument, JsonDeserializeError

U64_MAX: Final = 2**64 - 1
I64_MIN: Final = -(2**63)
I64_MAX: Final = 2**63 - 1

# Containers in each other that a document may have.
MAX_DEPTH: Final = 127
# Integers with fewer digits fit into a floating point number.
_SAFE_DIGITS: Final = 300

_MISSING: Final = object()
_T = TypeVar("_T")

Document = dict[str, Any]


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"number out of range: {text[:32]}")
    return number


def _integer(text: str) -> int:
    # Readers of what we store take a large integer for a floating point number.
    if len(text) > _SAFE_DIGITS:
        _finite(text)
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> Document:
    document = dict(pairs)
    if len(document) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"duplicate field `{key}`")
            seen.add(key)
    return document


# Made once: it costs more than to read a small text with it.
_DECODER: Final = json.JSONDecoder(
    parse_constant=_reject_constant,
    parse_float=_finite,
    parse_int=_integer,
    object_pairs_hook=_unique,
)


def parse(text: str, struct_name: str, *, is_stored: bool = False) -> Any:
    """Return the value of a JSON text. `JsonDeserializeError` on anything that is not JSON.

    Python's own leniency (NaN, infinite numbers, lone surrogates, duplicate fields, unbounded
    nesting) is refused. Unless the text is a stored one, a string with a NUL character, which no
    column can hold, is `InvalidArgument`.

    Facts: Quickwit's reader refuses duplicate fields and more than 127 containers in each other.
    """
    try:
        value = _DECODER.decode(text)
        if text.count("[") + text.count("{") > MAX_DEPTH:
            _check_depth(value)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise JsonDeserializeError(struct_name, "lone surrogate in a string") from error
    except RecursionError as error:
        raise JsonDeserializeError(struct_name, "recursion limit exceeded") from error
    except ValueError as error:
        raise JsonDeserializeError(struct_name, str(error)) from error
    if not is_stored and "\\u0000" in text:
        where = _nul(value, "")
        if where is not None:
            raise InvalidArgument(
                f"field `{where}` of `{struct_name}` holds a NUL character, remove it"
            )
    return value


def _check_depth(value: object) -> None:
    """Raise `RecursionError` for a value of too many containers in each other."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
    if level:
        raise RecursionError


def _nul(value: object, path: str) -> str | None:
    """Return the path of a string or key with a NUL character, or None."""
    if isinstance(value, str):
        return path if "\0" in value else None
    if isinstance(value, list):
        return next((found for item in value if (found := _nul(item, path)) is not None), None)
    if not isinstance(value, dict):
        return None
    for key, item in value.items():
        if "\0" in key:
            return path
        found = _nul(item, f"{path}.{key}" if path else key)
        if found is not None:
            return found
    return None


def dump(value: object) -> str:
    """Return compact JSON text; non-ASCII characters stay as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def shape(value: object) -> str:
    """Describe the type of a JSON value for an error message, without its content."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a floating point number"
    if isinstance(value, str):
        return f"a string of {len(value)} characters"
    if isinstance(value, list):
        return f"a list of {len(value)} elements"
    return f"an object of {len(value)} keys" if isinstance(value, dict) else type(value).__name__


class Reader:
    """Typed access to the fields of one JSON object; each failure names the field.

    A `default` makes a field optional; with `nullable=True` a `null` reads as the default.
    `path` is put before field names in messages (`checkpoint.`).
    """

    def __init__(self, value: object, struct_name: str, path: str = "") -> None:
        self.struct_name = struct_name
        self.path = path
        if not isinstance(value, dict):
            where = f" at `{path.rstrip('.')}`" if path else ""
            self.fail(f"invalid type: {shape(value)}, expected an object{where}")
        self.document: Document = value

    def fail(self, message: str) -> NoReturn:
        """Raise the reader's `JsonDeserializeError`."""
        raise JsonDeserializeError(self.struct_name, message)

    def deny_unknown(self, known: frozenset[str]) -> None:
        """Refuse keys outside `known`."""
        unknown = sorted(self.document.keys() - known)
        if unknown:
            self.fail(f"unknown field `{self.path}{unknown[0]}`")

    def get(self, key: str, default: Any = _MISSING, *, nullable: bool = False) -> Any:
        """Return the raw value of a field."""
        value = self.document.get(key, _MISSING)
        if value is _MISSING or (value is None and nullable):
            if default is _MISSING:
                self.fail(f"missing field `{self.path}{key}`")
            return default
        return value

    def _typed(self, key: str, value: Any, kind: type[_T], expected: str) -> _T:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.fail(f"field `{self.path}{key}` is {shape(value)}, expected {expected}")
        return value

    def string(self, key: str, default: Any = _MISSING, *, nullable: bool = False) -> Any:
        """Return a string field."""
        value = self.get(key, default, nullable=nullable)
        return value if value is default else self._typed(key, value, str, "a string")

    def boolean(self, key: str, default: Any = _MISSING) -> Any:
        """Return a boolean field."""
        value = self.get(key, default)
        return value if value is default else self._typed(key, value, bool, "a boolean")

    def integer(
        self,
        key: str,
        default: Any = _MISSING,
        *,
        nullable: bool = False,
        minimum: int = 0,
        maximum: int = U64_MAX,
    ) -> Any:
        """Return an integer field within its bounds."""
        value = self.get(key, default, nullable=nullable)
        if value is default:
            return value
        number = self._typed(key, value, int, "an integer")
        if not minimum <= number <= maximum:
            self.fail(
                f"field `{self.path}{key}` is out of range: {number} is not between "
                f"{minimum} and {maximum}"
            )
        return number

    def strings(self, key: str, default: Any = _MISSING, *, nullable: bool = False) -> Any:
        """Return a field that is a list of strings."""
        value = self.get(key, default, nullable=nullable)
        if value is default:
            return value
        for element in self._typed(key, value, list, "a list of strings"):
            if not isinstance(element, str):
                self.fail(f"field `{self.path}{key}` holds {shape(element)}, expected strings")
        return value

    def items(self, key: str, default: Any = _MISSING) -> Any:
        """Return a field that is a list of anything."""
        value = self.get(key, default)
        return value if value is default else self._typed(key, value, list, "a list")

    def object(self, key: str, default: Any = _MISSING, *, nullable: bool = False) -> Any:
        """Return a `Reader` of a field that is an object (or the default)."""
        value = self.get(key, default, nullable=nullable)
        if value is default:
            return value
        self._typed(key, value, dict, "an object")
        return Reader(value, self.struct_name, f"{self.path}{key}.")
