"""The environment as the source of settings."""

from __future__ import annotations

import json
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource, NoDecode


class Environment(EnvSettingsSource):
    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Parse JSON. Raises ValueError for a duplicate key, for which json.loads would silently use the last value."""
        if NoDecode in field.metadata:
            return value
        try:
            return json.loads(value, object_pairs_hook=_once)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ValueError(f"the key {name!r} is given twice")
    return dict(pairs)
