"""Embeddings: of the built-in model, or of a provider."""
