"""The index for large vector stores: LanceDB."""
