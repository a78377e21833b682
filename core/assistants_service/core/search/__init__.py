"""The built-in search index, and the body of a search request."""
