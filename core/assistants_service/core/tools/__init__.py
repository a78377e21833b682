"""The tools of assistants. `tool` says what one is, `registry` holds them."""
