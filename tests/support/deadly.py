"""An action by the name of the simulation's own that kills its worker, as a bug in a library would (ACTIONS=deadly)."""

from __future__ import annotations

import os
import signal

from assistants_service import action


@action
def lookup(word: str) -> str:
    os.kill(os.getpid(), signal.SIGSEGV)
    return word
