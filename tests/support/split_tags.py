"""Tags of splits as filters have them."""

from __future__ import annotations

from typing import Any


def tag(text: str, is_present: bool = True) -> dict[str, Any]:
    return {"Tag": {"is_present": is_present, "tag": text}}
