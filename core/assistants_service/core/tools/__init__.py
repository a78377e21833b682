"""The tools of assistants. `tool` defines the interface, `registry` lists the tools."""
