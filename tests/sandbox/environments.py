"""The tests of the sandbox, in each kind of process and with each kind of kernel that workers have (`make sandbox`).

`environments.py user COMMAND` executes a command in one kind of process. To be called by root:

root        as it is
user        an ordinary user
container   an ordinary user in a container without privileges, emulated: no capabilities, no_new_privs, and a filter of
            system calls that refuses what Docker's default profile refuses to a process without capabilities
            (https://github.com/moby/profiles/blob/main/seccomp/default.json)
image       the same, with the link at /mnt/data that our image has
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from assistants_service.infra.sandbox import confinement, seccomp

USER = 10001
# System calls by number, of x86_64 and aarch64, that the profile allows with capabilities only.
PRIVILEGED = {
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "unshare": (272, 97), "setns": (308, 268),
    "clone3": (435, 435), "bpf": (321, 280), "perf_event_open": (298, 241), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "userfaultfd": (323, 282), "swapon": (167, 224), "reboot": (169, 142), "init_module": (175, 105), "acct": (163, 89),
    "fsopen": (430, 430), "open_tree": (428, 428), "move_mount": (429, 429), "io_uring_setup": (425, 425),
    "kcmp": (312, 272), "process_vm_readv": (310, 270), "syslog": (103, 116),
}  # fmt: skip


def as_user() -> None:
    """Of an installation in root's home, to which no other user has access, the interpreter is made readable for this
    process: in a mount namespace, other files of that home are gone."""
    home = Path.home()
    inside = Path(sys.base_prefix)
    if inside.is_relative_to(home):
        libc = ctypes.CDLL(None, use_errno=True)
        shown = Path(tempfile.mkdtemp(prefix="home-"))
        shown.chmod(0o755)
        place = shown / inside.relative_to(home)
        place.mkdir(parents=True)
        for name, arguments in (
            ("unshare", (0x20000,)),
            ("mount", (None, b"/", None, 16384 | 1 << 18, None)),
            ("mount", (os.fsencode(inside), os.fsencode(place), None, 4096, None)),
            ("mount", (os.fsencode(shown), os.fsencode(home), None, 4096 | 16384, None)),
        ):
            if getattr(libc, name)(*arguments):
                sys.exit(f"{name}: {os.strerror(ctypes.get_errno())}")
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    os.environ["HOME"] = "/nonexistent"


def as_container() -> None:
    as_user()
    confinement._drop_capabilities()
    confinement._prctl(38, 1)
    column, architecture = seccomp.MACHINES[platform.machine()]
    refused = [
        line
        for name, numbers in PRIVILEGED.items()
        for line in (
            (0x15, 0, 1, numbers[column]),
            seccomp._refuse(errno.ENOSYS if name == "clone3" else errno.EPERM),
        )
    ]
    fork = [
        (0x15, 0, 4, (56, 220)[column]),
        seccomp._argument(0),
        (0x45, 0, 1, 0x7E020000),
        seccomp._refuse(errno.EPERM),
    ]
    lines = [
        seccomp._load(4), (0x15, 1, 0, architecture), seccomp._answer(seccomp.KILL), seccomp._load(0),
        *refused, *fork, seccomp._answer(seccomp.ALLOW), seccomp._answer(seccomp.ALLOW),
    ]  # fmt: skip
    code = (seccomp._SockFilter * len(lines))(*lines)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, 2, ctypes.byref(seccomp._SockFprog(len(lines), code)), 0, 0):
        sys.exit("the filter of the container was not accepted")


def as_image() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x20000) or libc.mount(None, b"/", None, 16384 | 1 << 18, None):
        sys.exit(os.strerror(ctypes.get_errno()))
    if libc.mount(b"tmpfs", b"/mnt", b"tmpfs", 0, b"size=64k,mode=755"):
        sys.exit(os.strerror(ctypes.get_errno()))
    Path("/mnt/data").symlink_to("/proc/self/fd/9")
    as_container()


ENTER = {"root": lambda: None, "user": as_user, "container": as_container, "image": as_image}
LANDLOCK = ("", "1")  # versions: the kernel's own, and the first


def matrix() -> int:
    """Status 1 if a test failed anywhere. Nothing is written next to the tests, which other users cannot do."""
    here = Path(__file__).parent
    suites = [str(here), str(here.parent / "contract" / "test_sandbox_contract.py")]
    tests = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *suites]
    failed = []
    for kind in ENTER:
        for version in LANDLOCK:
            named = f"{kind}, Landlock {version or 'as it is'}"
            print(f"--- {named}", flush=True)
            environment = os.environ | {"SANDBOX": "all", "LANDLOCK": version, "PYTHONDONTWRITEBYTECODE": "1"}
            if subprocess.run([sys.executable, __file__, kind, *tests], env=environment, check=False).returncode:
                failed.append(named)
    print("failed: " + "; ".join(failed) if failed else "all passed")
    return bool(failed)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(matrix())
    ENTER[sys.argv[1]]()
    os.execvp(sys.argv[2], sys.argv[2:])
