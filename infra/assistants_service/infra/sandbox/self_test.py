"""Attacks that an interpreter of this machine is tried with, before it gets any code of a model: each must be refused.

A kernel may lack what the confinement is made of, a container may forbid it, and a system call may be numbered
otherwise than believed. So nothing is taken for granted: an interpreter confines itself, and then tries what it must
not do."""

from __future__ import annotations

import os
from typing import Final

from assistants_service.core.ports.sandbox import InterpreterLost
from assistants_service.infra.sandbox.interpreter import LocalInterpreter
from assistants_service.infra.sandbox.limits import InterpreterLimits
from assistants_service.infra.sandbox.server_process import ForkServer, Unfit
from assistants_service.infra.sandbox.workspace import Workspace

_ATTACKS: Final = """
import ctypes, fcntl, os, platform, resource, shutil, signal, socket, threading

libc = ctypes.CDLL(None, use_errno=True)

def system(number, *arguments):
    if libc.syscall(number, *arguments) == -1:
        raise OSError(ctypes.get_errno(), "refused")

def call(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "refused")

def own_file():
    open("/mnt/data/own", "w").close()
    return os.open("/mnt/data/own", os.O_RDWR)

def signal_owner():
    one, other = os.pipe()
    fcntl.fcntl(one, fcntl.F_SETOWN, PARENT)

outside, folder = CANARY, os.path.dirname(CANARY)
x86 = platform.machine() == "x86_64"
attacks = {
    "read a file of the service": lambda: open(outside).read(),
    "write to a file of the service": lambda: open(outside, "a"),
    "truncate a file of the service": lambda: os.truncate(outside, 0),
    "truncate a file when it is opened": lambda: os.open(outside, os.O_RDONLY | os.O_TRUNC),
    "open a file without an access mode": lambda: os.open(outside, 3),
    "remove a file of the service": lambda: os.unlink(outside),
    "rename a file of the service": lambda: os.rename(outside, "/mnt/data/stolen"),
    "replace a file of the service": lambda: (own_file(), os.rename("/mnt/data/own", outside)),
    "link to a file of the service": lambda: os.link(outside, "/mnt/data/stolen"),
    "make a symbolic link": lambda: os.symlink(outside, "/mnt/data/link"),
    "make a FIFO": lambda: os.mkfifo("/mnt/data/fifo"),
    "list the folders of other sessions": lambda: os.listdir(folder),
    "create a file elsewhere": lambda: open(folder + "/new", "w"),
    "make a folder elsewhere": lambda: os.mkdir(folder + "/new"),
    "open a hidden file": lambda: os.open("/mnt/data", os.O_RDWR | os.O_TMPFILE),
    "read /etc/passwd": lambda: open("/etc/passwd").read(),
    "read the environment of the service": lambda: open(f"/proc/{PARENT}/environ", "rb").read(),
    "read the memory of the service": lambda: open(f"/proc/{PARENT}/mem", "rb"),
    "list processes": lambda: os.listdir("/proc"),
    "open an internet socket": lambda: socket.socket(socket.AF_INET),
    "open a Unix socket": lambda: socket.socket(socket.AF_UNIX),
    "open a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "signal the service": lambda: os.kill(PARENT, 0),
    "signal all processes": lambda: os.kill(-1, 0),
    "have signals sent to the service": signal_owner,
    "trace the service": lambda: call("ptrace", 16, PARENT, None, None),
    "limit the service": lambda: resource.prlimit(PARENT, resource.RLIMIT_CORE),
    "fork": lambda: os.fork() or os._exit(0),
    "execute a program": lambda: os.execv("/bin/true", ["true"]),
    "make a namespace": lambda: call("unshare", 0x10000000),
    "mount": lambda: call("mount", b"none", b"/mnt/data", b"tmpfs", 0, None),
    "outlive the service": lambda: call("prctl", 1, 0, 0, 0, 0),
    "make a file in memory": lambda: os.memfd_create("hidden"),
    "get shared memory": lambda: system(29 if x86 else 194, 0, 4096, 0o1600),
    "watch files": lambda: call("inotify_init"),
    "use io_uring": lambda: system(425, 1, ctypes.create_string_buffer(120)),
    "load a program into the kernel": lambda: system(321 if x86 else 280, 0, None, 0),
    "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1)),
    "write a file that is too large": lambda: os.ftruncate(own_file(), 1 << 50),
}

def succeeds(attack):
    try:
        attack()
    except (OSError, ValueError):
        return False
    return True

def works():
    done = []
    thread = threading.Thread(target=lambda: done.append(1))
    thread.start()
    thread.join()
    with open("/mnt/data/works", "w") as file:
        file.write("works")
    shutil.copy("/mnt/data/works", "/mnt/data/copy")
    return done == [1] and open("/mnt/data/copy").read() == "works"

weak = [name for name, attack in attacks.items() if succeeds(attack)]
weak + ([] if succeeds(works) and works() else ["work at all"])
"""


async def weakness(workspace: Workspace, limits: InterpreterLimits) -> str:
    """Empty, or why this machine confines no interpreter, in one sentence."""
    try:
        server = await ForkServer.start(workspace, limits, modules=())
        try:
            return await tried(workspace, limits, server)
        finally:
            await server.close()
    except InterpreterLost as lost:
        return f"No interpreter could be started and tested: {lost.reason}."
    except (Unfit, OSError) as error:
        return f"No interpreter could be started: {error}."


async def tried(workspace: Workspace, limits: InterpreterLimits, server: ForkServer) -> str:
    """The same of interpreters that this fork server makes. Raises InterpreterLost and OSError."""
    canary = workspace.root / "canary"
    canary.write_text("secret")
    interpreter = await LocalInterpreter.start(workspace, limits, server)
    try:
        result = await interpreter.run(f"CANARY, PARENT = {str(canary)!r}, {os.getpid()}\n{_ATTACKS}")
    finally:
        await interpreter.close()
    if result.error and result.error.endswith("KeyboardInterrupt\n"):
        raise TimeoutError(f"the self-test did not end within {limits.seconds:g} s")
    if result.error:
        return f"The self-test of interpreters failed: {result.error.strip().splitlines()[-1]}."
    if result.value != "[]":
        return f"An interpreter was able to do what it must not do, or unable to work: {result.value}."
    return ""
