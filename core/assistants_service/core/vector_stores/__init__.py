"""Vector stores: their files, batches and segments."""
