"""Extracts chunks from files, in separate processes: `pool` manages them, `reader` runs in them."""
