"""The protocol's objects, by kind: request bodies, and resources as on the wire."""
