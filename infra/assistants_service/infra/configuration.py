"""Reads the settings from the environment, and reports what is wrong with them."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterator, Mapping
from typing import Final

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from assistants_service.infra.settings.settings import GROUPS, Settings


class ConfigurationError(Exception):
    """What is wrong, and what to set, in one line."""


class UnresolvedReference(ConfigurationError):
    """A setting is an unresolved Key Vault reference: App Service and Functions leave its text in place while they
    cannot resolve it, and restart the app when they can. `names` are the environment variables."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        super().__init__(
            f"{' and '.join(names)}: the reference to Key Vault is not resolved. Check that the secret exists and that"
            " the app's identity has the role Key Vault Secrets User. The platform restarts the app when it resolves."
        )


VAULT_REFERENCE = "@Microsoft.KeyVault("
# Names of earlier versions: they are still read, with a warning.
RENAMED: Final = {"LOG_ROLL_AFTER": "EVENT_LOG_ROLLOVER", "WORKER_HIDE_SECONDS": "WORKER_VISIBILITY_TIMEOUT"}
# Removed settings: the old value that enabled something, and what to do instead.
REMOVED: Final = {
    "SEARCH_INDEX": (
        "lancedb",
        "LanceDB is not part of the service any more. Its files are not found until `assistants reindex` has read"
        " those files again; then unset SEARCH_INDEX",
    )
}
# By pydantic's type of error: https://docs.pydantic.dev/latest/errors/validation_errors/
PLAIN_WORDS: Final = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "expected an integer"),
    **dict.fromkeys(("float_parsing", "float_type"), "expected a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "expected true or false"),
    **dict.fromkeys(("dict_type", "model_type"), "expected a JSON object"),
    "tuple_type": "expected a JSON array",
    "string_type": "expected a string",
    "finite_number": "expected a finite number",
    "literal_error": "expected {expected}",
    "extra_forbidden": "there is no such key",
    "greater_than": "it must be greater than {gt:.12g}",
    "greater_than_equal": "the minimum is {ge:.12g}",
    "less_than_equal": "the maximum is {le:.12g}",
}
# What most installations set, in reading order. The others are for tuning, or for one platform.
ESSENTIAL: Final = (
    *("storage", "host", "port", "api_keys"),
    *("openai_api_key", "openai_base_url", "azure_openai_endpoint", "providers", "default_provider"),
    *("embedding_model", "actions", "log_level"),
)


def read_settings(overrides: Mapping[str, object]) -> Settings:
    """Read the environment; `overrides` (the command line) take precedence. Raises ConfigurationError."""
    known = (name.upper() for name in Settings.model_fields)
    if unresolved := [name for name in known if os.environ.get(name, "").startswith(VAULT_REFERENCE)]:
        raise UnresolvedReference(unresolved)
    values = {new.lower(): os.environ[old] for old, new in renamed_settings()} | {
        key: value for key, value in overrides.items() if value is not None
    }
    try:
        return Settings(**values)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name, *inner = (str(part) for part in first["loc"])
        where = f"{'.'.join(inner)}: " if inner else ""
        what = _expected_json(name) if first["type"] == "dict_type" and not inner else _in_plain_words(first)
        given_as = {new: old for old, new in renamed_settings()}.get(name.upper(), name.upper())
        raise ConfigurationError(f"{given_as} is not valid: {where}{what}.") from None
    except SettingsError as error:  # of the decoding; the message names the field
        name = next(name for name in Settings.model_fields if f'"{name}"' in str(error))
        why = _expected_json(name) if isinstance(error.__cause__, json.JSONDecodeError) else error.__cause__
        raise ConfigurationError(f"{name.upper()} is not valid: {why}.") from None


def _expected_json(name: str) -> str:
    examples = Settings.model_fields[name].examples or ()
    return "expected JSON" + "".join(f" such as {example}" for example in examples)


def _in_plain_words(error: ErrorDetails) -> str:
    """Says what is wrong to a reader who does not know the library that checks the settings."""
    if words := PLAIN_WORDS.get(error["type"]):
        return words.format(**error.get("ctx", {}))
    return error["msg"].removeprefix("Value error, ").removesuffix(".")


def renamed_settings() -> list[tuple[str, str]]:
    """The old names that the environment sets, and that take effect, with the new ones."""
    return [(old, new) for old, new in RENAMED.items() if os.environ.get(old) and not os.environ.get(new)]


def removed_settings() -> list[str]:
    """Messages about settings in the environment that no longer have an effect."""
    return [advice for name, (value, advice) in REMOVED.items() if os.environ.get(name) == value]


def settings_by_importance() -> tuple[dict[str, FieldInfo], dict[str, dict[str, FieldInfo]]]:
    """The most important settings by field name, and all others by group and field name."""
    fields = Settings.model_fields
    others = {
        title: {name: fields[name] for name in group.model_fields if name not in ESSENTIAL}
        for title, group in GROUPS.items()
    }
    return {name: fields[name] for name in ESSENTIAL}, others


def describe() -> str:
    """All settings, for --help."""
    first, others = settings_by_importance()
    groups = [line for title, fields in others.items() for line in ("", f"{title.lower()}:", *_lines(fields))]
    return "\n".join([*_lines(first), *groups])


def _lines(fields: Mapping[str, FieldInfo]) -> Iterator[str]:
    for name, field in fields.items():
        default = field.get_default(call_default_factory=True)
        shown = f" (default: {default})" if default not in (None, {}, ()) else ""
        yield f"  {name.upper()}{shown}"
        yield textwrap.indent(
            textwrap.fill(field.description or "", 96, break_long_words=False, break_on_hyphens=False), "      "
        )
