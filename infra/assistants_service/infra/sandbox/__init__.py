"""Python that a model wrote, executed in confined processes of this machine. Linux only.

`confinement` (with `landlock`, `seccomp`, `syscalls` and `data_folder`) is what a process does to itself; it needs
nothing outside the standard library. `child` (with `cell`, `figures` and `folder`) runs in such a process, which
`fork_server` forks. `local` (with `server_process`, `fork_servers`, `process`, `interpreter`, `watch`, `workspace` and
`self_test`) is the worker's side. `frames` is what they say to each other, and `results` checks what they report."""
