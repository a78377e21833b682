"""An action, named as the simulation's own, that kills its worker like a bug in a library (ACTIONS=crashing_action)."""

from __future__ import annotations

import os
import signal

from assistants_service import action


@action
def lookup(word: str) -> str:
    os.kill(os.getpid(), signal.SIGSEGV)
    return word
