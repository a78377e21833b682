"""The names of blobs, in whose order the service lists them."""

from __future__ import annotations

from typing import Final

# Containers that are listed, newest first as a rule. The service lists names in ascending order only, so here the last
# segment of a blob's name is mirrored (0 for z, 1 for y, ...). All ids of a container have one prefix and one length,
# in lower-case letters and digits, so the mirrored names are in exactly the reverse order. Elsewhere names are plain.
# This is the layout of what is stored, so it does not follow core/resources.py by itself: a container that holds blobs
# cannot change sides. A test compares the two: a kind of object that is to be listed has such names from its first one.
LISTED: Final = frozenset({"assistants", "files", "vector-stores"})
ALPHABET: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
MIRROR: Final = str.maketrans(ALPHABET, ALPHABET[::-1])


def blob_name(container: str, name: str) -> str:
    """The blob's name for a document's, and the other way round. Prefixes map alike."""
    if container not in LISTED:
        return name
    folder, slash, segment = name.rpartition("/")
    return folder + slash + segment.translate(MIRROR)
