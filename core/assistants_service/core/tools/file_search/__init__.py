"""The tool `file_search`."""
