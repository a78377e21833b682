"""Python that a model wrote, executed in Azure Container Apps dynamic sessions: a virtual machine for each session.

A session has a Jupyter kernel and an HTTP API, which executes code in the kernel and moves files. What the API cannot
do (images, tracebacks, changed files, signals, interrupts) is done in the session: its kernel is sent the modules of
`infra.sandbox` that do it on this machine, and `remote`, which runs them in a process of its own.

`sandbox` starts sessions, `interpreter` is one of them, `programs` has the code that their kernels execute, `answers`
what they answer, and `pool` sends the requests."""
