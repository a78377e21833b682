"""The tool `code_interpreter`: models run Python on the user's files. `tool` is the object."""
