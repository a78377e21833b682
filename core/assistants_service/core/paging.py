"""Lists in the order of the log, and their pages: `limit` objects after or before an ID."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import accumulate
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Self, TypeVar

import msgspec

from assistants_service.core.errors import no_such
from assistants_service.core.protocol.objects import Page, Struct, encode

T = TypeVar("T")
PackedGroup = bytes | memoryview
Opened = Callable[[int], object]
GROUP = 64  # objects of a snapshot that are compressed together, down to 5% at best: reading is what takes long


class PageQuery(Struct, frozen=True, kw_only=True):
    """`after` and `before` are exclusive cursors; `limit` is 1 to 100."""

    limit: int = 20
    newest_first: bool = True
    after: str | None = None
    before: str | None = None


class PackedLayout(Struct, frozen=True):
    """The layout of consecutive objects in a snapshot: their ids in order, the size of each in bytes (0 if deleted),
    and the compressed size of each group of `GROUP`."""

    order: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()


class Packed(Generic[T]):
    """Objects in a snapshot, each decoded on demand: a reader of the last twenty messages does not wait for the ten
    thousand before them. `opened` is called with the size of each decoded object in bytes."""

    def __init__(self, layout: PackedLayout, body: memoryview, kind: type[T], opened: Opened) -> None:
        self._body, self._kind, self._opened, self.sizes = body, kind, opened, layout.sizes
        self._starts = list(accumulate(layout.groups, initial=0))
        self._open: tuple[int, bytes, list[int]] = (-1, b"", [])  # the group read last, and where each object ends

    def __len__(self) -> int:
        return len(self.sizes)

    def group(self, number: int) -> memoryview:
        """The compressed bytes of a group."""
        return self._body[self._starts[number] : self._starts[number + 1]]

    def bytes(self, place: int) -> bytes:
        number, at = divmod(place, GROUP)
        if self._open[0] != number:
            sizes = self.sizes[number * GROUP : (number + 1) * GROUP]
            self._open = number, zlib.decompress(self.group(number)), list(accumulate(sizes, initial=0))
        _, data, ends = self._open
        return data[ends[at] : ends[at + 1]]

    def object(self, place: int) -> T | None:
        body = self.bytes(place)
        self._opened(len(body))
        return msgspec.json.decode(body, type=self._kind) if body else None


class Index(msgspec.Struct, Generic[T], dict=True):
    """Objects by id, in the order of their creation. A deleted id keeps its place, so it still works as a cursor:
    paging during deletions repeats and skips nothing."""

    order: list[str] = []
    items: dict[str, T | None] = {}  # None: deleted. Without packed objects that were not read yet.

    packed: ClassVar[Packed[Any]] = Packed(PackedLayout(), memoryview(b""), object, int)  # overridden per instance

    @classmethod
    def unpack(cls, layout: PackedLayout, body: memoryview, kind: type[T], opened: Opened) -> Self:
        index = cls(order=list(layout.order))
        index.__dict__["packed"] = Packed(layout, body, kind, opened)
        return index

    def pack(self) -> tuple[PackedLayout, list[PackedGroup]]:
        """The arguments for `unpack`; the second one in pieces. Unread groups are reused as they are."""
        sizes: list[int] = []
        groups: list[PackedGroup] = []
        seen = {self.places[key] // GROUP for key in self.items}
        for number, start in enumerate(range(0, len(self.order), GROUP)):
            if number not in seen and start + GROUP <= len(self.packed):
                sizes += self.packed.sizes[start : start + GROUP]
                groups.append(self.packed.group(number))
            else:
                pieces = [self._bytes(key) for key in self.order[start : start + GROUP]]
                sizes += map(len, pieces)
                groups.append(zlib.compress(b"".join(pieces), 1))
        return PackedLayout(tuple(self.order), tuple(sizes), tuple(map(len, groups))), groups

    def _bytes(self, key: str) -> bytes:
        if key not in self.items:
            return self.packed.bytes(self.places[key])
        item = self.items[key]
        return b"" if item is None else encode(item)

    @cached_property
    def places(self) -> dict[str, int]:
        return {key: place for place, key in enumerate(self.order)}

    def put(self, key: str, item: T) -> None:
        if key not in self.places:
            self.places[key] = len(self.order)
            self.order.append(key)
        self.items[key] = item

    def reserve(self, key: str) -> None:
        """Reserve a place for an object that may follow. Until then it is a cursor like a deleted one, and not
        listed."""
        if key not in self.places:
            self.places[key] = len(self.order)
            self.order.append(key)
            self.items[key] = None

    def put_last(self, key: str, item: T) -> None:
        """Like `put`, but a repeated id moves to the end."""
        place = self.places.pop(key, None)
        if place is not None:
            hole = f"{key}.{place}"
            self.order[place], self.places[hole], self.items[hole] = hole, place, None
        self.put(key, item)

    def remove(self, key: str) -> T:
        item = self[key]
        self.items[key] = None
        return item

    def get(self, key: str) -> T | None:
        if key not in self.items and self.places.get(key, len(self.packed)) < len(self.packed):
            self.items[key] = self.packed.object(self.places[key])
        return self.items.get(key)

    def __getitem__(self, key: str) -> T:
        item = self.get(key)
        if item is None:
            raise KeyError(key)
        return item

    def __iter__(self) -> Iterator[T]:
        """Oldest first."""
        return (item for key in self.order if (item := self.get(key)) is not None)

    def newest(self) -> Iterator[T]:
        return (item for key in reversed(self.order) if (item := self.get(key)) is not None)

    def page(
        self,
        query: PageQuery,
        what: str,
        where: Callable[[T], bool] | None = None,
        in_progress: Mapping[str, T] = MappingProxyType({}),
    ) -> Page:
        """The page; `where` filters, and `in_progress` has the objects to show in reserved places. Raises the 404 for
        an unknown cursor. `has_more` refers to the direction of travel."""
        backwards = query.before is not None and query.after is None
        found = self._walk(query, what, backwards, where, in_progress)
        items = found[: query.limit]
        if backwards:
            items.reverse()
        return page_of(items, has_more=len(found) > query.limit)

    def _walk(
        self,
        query: PageQuery,
        what: str,
        backwards: bool,
        where: Callable[[T], bool] | None,
        in_progress: Mapping[str, T],
    ) -> list[T]:
        """Up to limit + 1 objects beyond the cursor, in the direction of travel; with two cursors, those between
        them."""
        step = 1 if query.newest_first == backwards else -1
        cursor = query.before if backwards else query.after
        stop = self._place(query.before, what) if query.before and not backwards else None
        at = self._place(cursor, what) + step if cursor else (0 if step > 0 else len(self.order) - 1)
        found: list[T] = []
        if stop is not None and (stop - at) * step <= 0:  # there are none
            return found
        while 0 <= at < len(self.order) and at != stop and len(found) <= query.limit:
            item = self.get(self.order[at]) or in_progress.get(self.order[at])
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
