"""`${VAR}` and `${VAR:-default}` in a configuration file, replaced before it is parsed.

Facts: Quickwit's rules. Blanks inside the braces do not count; a default is one or more characters
that are neither blank nor `}`; a variable that is set but empty is used, not its default; a line
that starts with `#` is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from proxy.config.problems import Findings

_REFERENCE: Final = re.compile(r"\$\{\s*([A-Za-z0-9_]+)\s*(?::-\s*([^\s}]+)\s*)?\}")
# What is meant as a reference but is not one: Quickwit takes it literally, and so do we.
_NEAR_MISS: Final = re.compile(r"\$\{\s*([A-Za-z0-9_]+)\s*(?::?-\s*|:(?!-)[^}]*)\}")


def interpolate(text: str, environ: Mapping[str, str], findings: Findings) -> str:
    """Return the text with references replaced; each unset variable is an error that names it."""
    lines = []
    # Only `\n` ends a line here, so that a value is never split at an exotic separator.
    for number, line in enumerate(text.split("\n"), 1):
        if line.lstrip().startswith("#"):
            lines.append(line)
            continue
        if near_miss := _NEAR_MISS.search(line):
            findings.warn(
                f"line {number}: the reference to `{near_miss[1]}` is taken literally: write "
                "`${VAR}` or `${VAR:-default}` with a default that is not empty"
            )
        lines.append(_interpolate_line(line, number, environ, findings))
    return "\n".join(lines)


def _interpolate_line(
    line: str, number: int, environ: Mapping[str, str], findings: Findings
) -> str:
    def replace(match: re.Match[str]) -> str:
        name, default = match.groups()
        if name in environ:
            return environ[name]
        if default is None:
            findings.error(
                f"line {number}: environment variable `{name}` is not set and has no default: "
                f"set it, or write `${{{name}:-default}}`"
            )
            return match[0]
        return str(default)

    return _REFERENCE.sub(replace, line)
