"""Storage engines: the possible values of `STORAGE`. Each is one object in ENGINES, and no other code depends on which
one is used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final

from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.storage import Storage, StorageUnavailable
from assistants_service.infra.configuration import ConfigurationError
from assistants_service.infra.sqlite.recognition import existing_store
from assistants_service.infra.sqlite.space import vacuum
from assistants_service.infra.sqlite.store import SqliteStorage

MEMORY: Final = "sqlite://:memory:"
_FILE: Final = "sqlite:///"


class StorageEngine(ABC):
    """A kind of store. `where` is the value of STORAGE."""

    lasting = True  # it outlives its process, and processes can share it
    watchable = False  # the Azure Functions host can watch its queue

    @abstractmethod
    def accepts(self, where: str) -> bool:
        """Whether `where` names a store of this kind."""

    @abstractmethod
    def storage(self, where: str, clock: Clock) -> Storage:
        """The store, not opened yet. Raises ConfigurationError."""

    @abstractmethod
    def display(self, where: str) -> str:
        """The store, for people: without keys and signatures."""

    def check_existing(self, where: str) -> None:  # noqa: B027
        """Raises ConfigurationError if opening the store would create an empty one."""

    def vacuum(self, where: str) -> tuple[int, int]:
        """Compact the store; returns its size before and after, in bytes. Raises ConfigurationError."""
        raise ConfigurationError("STORAGE is not an SQLite file. Only SQLite files can be compacted.")


class SqliteMemory(StorageEngine):
    lasting = False

    def accepts(self, where: str) -> bool:
        return where == MEMORY

    def storage(self, where: str, clock: Clock) -> Storage:
        return SqliteStorage(":memory:", clock)

    def display(self, where: str) -> str:
        return where


class SqliteFile(StorageEngine):
    def accepts(self, where: str) -> bool:
        return where.startswith(_FILE) and len(where) > len(_FILE)

    def storage(self, where: str, clock: Clock) -> Storage:
        return SqliteStorage(self._path(where), clock)

    def display(self, where: str) -> str:
        return str(Path(self._path(where)).absolute())

    def check_existing(self, where: str) -> None:
        try:
            existing_store(self.display(where))
        except (StorageUnavailable, ValueError) as error:
            raise ConfigurationError(f"{error}. Check STORAGE.") from None

    def vacuum(self, where: str) -> tuple[int, int]:
        try:
            return vacuum(self.display(where))
        except (StorageUnavailable, ValueError) as error:
            raise ConfigurationError(f"{error}. Check STORAGE.") from None

    @staticmethod
    def _path(where: str) -> str:
        """The path, with `~` expanded. Raises ConfigurationError for paths for which SQLite creates a separate database
        per connection: other processes would never see its keys and runs."""
        path = where.removeprefix(_FILE)
        if path.strip().lower().startswith((":memory:", "file:")):
            raise ConfigurationError(
                f"STORAGE is not valid: {path!r} is not the path of a file, so processes could not share it. Set"
                f" sqlite:///PATH, or {MEMORY} for a store that is lost when `assistants serve` ends."
            )
        try:
            return str(Path(path).expanduser())
        except RuntimeError:
            raise ConfigurationError(f"STORAGE is not valid: there is no home directory for {path!r}.") from None


class AzureEngine(StorageEngine):
    """An Azure Storage account, or Azurite."""

    watchable = True

    def accepts(self, where: str) -> bool:
        return where.startswith("https://") or "=" in where

    def storage(self, where: str, clock: Clock) -> Storage:
        from assistants_service.infra.azure.store import AzureStorage  # its libraries are slow to import

        try:
            if where.startswith("https://"):
                return AzureStorage.with_identity(where)
            return AzureStorage.from_connection_string(where)
        except ValueError as error:
            raise ConfigurationError(f"STORAGE is not valid: {error}") from None

    def display(self, where: str) -> str:
        if "=" not in where:
            return where
        parts = dict(part.strip().split("=", 1) for part in where.split(";") if "=" in part)
        settings_of = {name.lower(): value for name, value in parts.items()}
        if blobs := settings_of.get("blobendpoint"):
            return blobs.partition("?")[0]  # a shared access signature may follow
        return f"account {settings_of['accountname']}" if "accountname" in settings_of else "Azurite on this machine"


ENGINES: Final[tuple[StorageEngine, ...]] = (SqliteMemory(), SqliteFile(), AzureEngine())


def engine_of(where: str) -> StorageEngine:
    """Raises ConfigurationError."""
    for engine in ENGINES:
        if engine.accepts(where):
            return engine
    raise ConfigurationError(
        "STORAGE is not valid: set sqlite:///PATH, a connection string of Azure Storage, UseDevelopmentStorage=true,"
        " or https://ACCOUNT.blob.core.windows.net."
    )
