"""The protocol's objects, by kind: what a request may say, and what goes over the wire."""
