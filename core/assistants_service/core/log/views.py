"""The views that a process caches: the most recently used, up to a number of bytes of log.

Views grow while they are cached, and the newest stays however large it is. A cachetools cache supports neither: it
measures an entry once, and refuses one that is larger than the cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic

from assistants_service.core.log.state import C, S, View


class Views(OrderedDict[tuple[str, str], View[S, C]], Generic[S, C]):
    """Cached views by project and log id, the most recently used last. `limit`: how many bytes of log the views may
    represent; `weight`: how many they do."""

    def __init__(self, blank: Callable[[], View[S, C]], limit: int) -> None:
        super().__init__()
        self._blank, self.limit, self.weight = blank, limit, 0
        self._grown: set[View[S, C]] = set()

    def at(self, project: str, log_id: str) -> View[S, C]:
        """The cached view, or a blank one."""
        return self.setdefault((project, log_id), self._blank())

    def keep(self, view: View[S, C], project: str, log_id: str) -> None:
        """Cache the view, if its log exists, and evict the least recently used."""
        key = (project, log_id)
        if view.mark is None and not view.lock.locked():
            return self.forget(project, log_id)
        if self.get(key) is not view:
            self.forget(project, log_id)
            self[key] = view
        self.move_to_end(key)
        view.grown = self._grown
        self._count(view)
        while self._grown:
            if (other := self._grown.pop()).counted:
                self._count(other)
        while len(self) > 1 and self.weight > self.limit:
            self.forget(*next(iter(self)))

    def forget(self, project: str, log_id: str) -> None:
        if view := self.pop((project, log_id), None):
            self.weight -= view.counted
            view.counted = 0

    def _count(self, view: View[S, C]) -> None:
        self.weight += view.weight - view.counted
        view.counted = view.weight
