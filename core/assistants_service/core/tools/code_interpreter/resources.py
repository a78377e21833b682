"""The user's files for code: those of the assistant, those of the thread, and those that messages attach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from assistants_service.core.protocol.objects import Struct
from assistants_service.core.tools.code_interpreter.wire import CodeInterpreterFiles, CodeInterpreterResources
from assistants_service.core.tools.resource_rules import ResourceRules, distinct

MAX_CODE_FILES: Final = 20  # of a thread, by the published schema; the newest are kept


def files_in(resources: Mapping[str, Struct]) -> tuple[str, ...]:
    """The ids of the files."""
    entry = resources.get("code_interpreter")
    return entry.file_ids if isinstance(entry, CodeInterpreterFiles) else ()


class CodeInterpreterRules(ResourceRules[CodeInterpreterResources, CodeInterpreterFiles]):
    """An update with an empty object removes the files: in the published schema, `file_ids` has the default []."""

    stored = CodeInterpreterFiles
    body = CodeInterpreterResources
    always = True
    attachable = True

    def attached(
        self, entry: CodeInterpreterFiles | None, file_ids: Sequence[str], prepared: None
    ) -> CodeInterpreterFiles:
        files = distinct((*(entry.file_ids if entry else ()), *file_ids))
        return CodeInterpreterFiles(file_ids=files[-MAX_CODE_FILES:])
