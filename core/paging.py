"""Lists in the order of the log, and the pages of them that the wire asks for (section 7 of the contract)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import msgspec

from core.errors import no_such
from core.resources import Page, Struct

T = TypeVar("T")


class PageQuery(Struct, frozen=True, kw_only=True):
    """`after` and `before` are exclusive cursors; `limit` is 1 to 100."""

    limit: int = 20
    newest_first: bool = True
    after: str | None = None
    before: str | None = None


class Index(msgspec.Struct, Generic[T]):
    """Objects by id, in the order in which they came. A deleted id keeps its place, so that it still works as a cursor:
    paging while somebody deletes shows nothing twice and skips nothing."""

    order: list[str] = []
    items: dict[str, T] = {}
    places: dict[str, int] = {}

    def put(self, key: str, item: T) -> None:
        if key not in self.places:
            self.places[key] = len(self.order)
            self.order.append(key)
        self.items[key] = item

    def remove(self, key: str) -> T:
        return self.items.pop(key)

    def get(self, key: str) -> T | None:
        return self.items.get(key)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[T]:
        """Oldest first."""
        return (self.items[key] for key in self.order if key in self.items)

    def newest(self) -> Iterator[T]:
        return (self.items[key] for key in reversed(self.order) if key in self.items)

    def page(self, query: PageQuery, what: str, where: Callable[[T], bool] | None = None) -> Page:
        """The page; `where` filters. Raises the 404 of an unknown cursor. `has_more` looks the way one travels."""
        backwards = query.before is not None and query.after is None
        found = self._walk(query, what, backwards, where)
        kept = found[: query.limit]
        if backwards:
            kept.reverse()
        return page_of(kept, has_more=len(found) > query.limit)

    def _walk(self, query: PageQuery, what: str, backwards: bool, where: Callable[[T], bool] | None) -> list[T]:
        """Up to limit + 1 objects beyond the cursor, in the direction of travel; of two cursors, what lies between."""
        step = 1 if query.newest_first == backwards else -1
        cursor = query.before if backwards else query.after
        stop = self._place(query.before, what) if query.before and not backwards else None
        at = self._place(cursor, what) + step if cursor else (0 if step > 0 else len(self.order) - 1)
        found: list[T] = []
        if stop is not None and (stop - at) * step <= 0:  # nothing does
            return found
        while 0 <= at < len(self.order) and at != stop and len(found) <= query.limit:
            item = self.items.get(self.order[at])
            if item is not None and (where is None or where(item)):
                found.append(item)
            at += step
        return found

    def _place(self, cursor: str, what: str) -> int:
        place = self.places.get(cursor)
        if place is None:
            raise no_such(what, cursor)
        return place


def page_of(items: list[T], *, has_more: bool) -> Page:
    ids = [item.id for item in items]  # type: ignore[attr-defined]  # every resource has one
    return Page(
        data=tuple(items), first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=has_more
    )
