"""Settings: environment variables, each with a default that works on one machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from assistants_service.infra.settings.access import AccessSettings
from assistants_service.infra.settings.code_interpreter import CodeInterpreterSettings
from assistants_service.infra.settings.environment import Environment
from assistants_service.infra.settings.limits import LimitSettings
from assistants_service.infra.settings.models import ModelSettings
from assistants_service.infra.settings.search import SearchSettings
from assistants_service.infra.settings.storage import StorageSettings
from assistants_service.infra.settings.telemetry import TelemetrySettings
from assistants_service.infra.settings.worker import WorkerSettings


class Settings(
    TelemetrySettings,
    CodeInterpreterSettings,
    WorkerSettings,
    SearchSettings,
    ModelSettings,
    LimitSettings,
    AccessSettings,
    StorageSettings,
    BaseSettings,
):
    """The names in upper case are the environment variables. The fields of the last base come first."""

    model_config = SettingsConfigDict(
        extra="ignore", env_ignore_empty=True, hide_input_in_errors=True, allow_inf_nan=False
    )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, Environment(settings_cls)


# In reading order.
GROUPS: Final[Mapping[str, type[BaseModel]]] = {
    "Storage": StorageSettings,
    "Address and access": AccessSettings,
    "Limits": LimitSettings,
    "Models": ModelSettings,
    "Vector stores and files": SearchSettings,
    "Runs and workers": WorkerSettings,
    "Code interpreter": CodeInterpreterSettings,
    "Logs, traces and metrics": TelemetrySettings,
}
