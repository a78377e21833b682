"""The filter of system calls decides the same on both machines, one of which no test of the other can run."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest

from assistants_service.infra.sandbox import seccomp, syscalls
from environments import PRIVILEGED

PID = 4711
ERROR = 0x00050000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ARM32, I386 = 0x40000028, 0x40000003
TABLES = (syscalls.ALLOWED, syscalls.CHECKED, syscalls.IGNORED, syscalls.UNSUPPORTED, syscalls.MISSING)


def _published() -> dict[str, dict[str, int]]:
    lines = (Path(__file__).parent / "kernel_syscalls.txt").read_text().splitlines()
    entries = [entry.split(":") for line in lines if not line.startswith("#") for entry in line.split()]
    return {
        machine: {entry[0]: int(entry[column]) for entry in entries if entry[column] != "-"}
        for column, machine in enumerate(ARCHITECTURES, 1)
    }


KERNEL = _published()  # numbers by machine and name
# What no code may do, in any way that the kernel has for it.
FORBIDDEN = """
    execve execveat fork vfork ptrace process_vm_readv process_vm_writev kcmp pidfd_open pidfd_getfd
    pidfd_send_signal process_madvise process_mrelease tkill rt_sigqueueinfo rt_tgsigqueueinfo setpriority
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler migrate_pages move_pages
    socket connect bind listen accept accept4 sendmsg sendmmsg setsockopt
    link linkat symlink symlinkat mknod mknodat truncate chroot name_to_handle_at open_by_handle_at
    memfd_create memfd_secret shmget shmat semget msgget mq_open io_setup io_uring_setup io_uring_enter
    inotify_init inotify_init1 fanotify_init userfaultfd perf_event_open bpf keyctl add_key request_key
    mount umount2 pivot_root unshare setns open_tree move_mount fsopen mount_setattr swapon quotactl
    setuid setgid setreuid setresuid setgroups setfsuid capset personality setrlimit
    init_module finit_module kexec_load reboot acct syslog settimeofday clock_settime adjtimex iopl ioperm
    seccomp landlock_create_ruleset landlock_restrict_self ioprio_set splice vmsplice
"""


def decide(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """As the kernel's BPF machine does (net/core/filter.c)."""
    found = ARCHITECTURES[machine] if architecture is None else architecture
    given = [each & (1 << 64) - 1 for each in (*arguments, *[0] * 6)][:6]
    data = struct.pack("<IIQ6Q", number, found, 0, *given)
    lines, place, register = seccomp.program(machine, PID), 0, 0
    while True:
        code, yes, no, operand = lines[place]
        place += 1
        if code == 0x20:
            register = struct.unpack_from("<I", data, operand)[0]
        elif code == 0x54:
            register &= operand
        elif code == 0x06:
            return operand
        else:
            holds = {
                0x15: register == operand,
                0x25: register > operand,
                0x35: register >= operand,
                0x45: bool(register & operand),
            }[code]
            place += yes if holds else no


def number(machine: str, name: str) -> int:
    return KERNEL[machine][name]


@pytest.fixture(params=ARCHITECTURES)
def machine(request: pytest.FixtureRequest) -> str:
    return request.param


def refused(error: int) -> int:
    return ERROR | error


def test_calls_of_another_architecture_end_the_process(machine: str) -> None:
    for architecture in {*ARCHITECTURES.values(), ARM32, I386} - {ARCHITECTURES[machine]}:
        assert decide(machine, 0, architecture=architecture) == seccomp.KILL


def test_calls_of_x32_end_the_process(machine: str) -> None:
    assert decide(machine, 0x40000000) == seccomp.KILL
    assert decide(machine, 0x40000000 + 257) == seccomp.KILL


def test_calls_of_the_future_do_not_exist(machine: str) -> None:
    assert {decide(machine, each) for each in range(453, 1000)} == {refused(errno.ENOSYS)}


def test_what_is_in_no_table_is_refused(machine: str) -> None:
    column = list(ARCHITECTURES).index(machine)
    known = {each for table in TABLES for each in table[column].values()}
    assert {decide(machine, each) for each in range(453) if each not in known} == {refused(errno.EPERM)}
    assert {decide(machine, each) for each in syscalls.ALLOWED[column].values()} == {seccomp.ALLOW}


def test_no_number_is_in_two_tables(machine: str) -> None:
    column = list(ARCHITECTURES).index(machine)
    numbers = [each for table in TABLES for each in table[column].values()]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("openat", (0, 0, 0o0), seccomp.ALLOW),
        ("openat", (0, 0, 0o101), seccomp.ALLOW),  # O_WRONLY | O_CREAT
        ("openat", (0, 0, 0o1102), seccomp.ALLOW),  # O_RDWR | O_CREAT | O_TRUNC
        ("openat", (0, 0, 0o1000), refused(errno.EACCES)),  # O_RDONLY | O_TRUNC
        ("openat", (0, 0, 0o3), refused(errno.EACCES)),
        ("openat", (0, 0, 0o1003), refused(errno.EACCES)),
        ("openat", (0, 0, 0o20000002), refused(errno.EOPNOTSUPP)),  # O_TMPFILE
        ("openat", (0, 0, (1 << 32) | 0o1000), refused(errno.EACCES)),
        ("clone", (0x3D0F00,), seccomp.ALLOW),  # a thread, as glibc starts it
        ("clone", (0x7D0F00,), seccomp.ALLOW),  # as musl does
        ("clone", (0x3D0B00,), refused(errno.EPERM)),  # a thread with a table of descriptors of its own
        ("clone", (0x1200011,), refused(errno.EPERM)),  # fork
        ("clone", (0x4111,), refused(errno.EPERM)),  # vfork
        ("clone", (0x3D0F00 | 0x40000000,), refused(errno.EPERM)),
        ("clone", (0x3D0F00 | 0x10000000,), refused(errno.EPERM)),
        ("clone", ((0x10000 << 32) | 0x1200011,), refused(errno.EPERM)),
        ("kill", (PID, 9), seccomp.ALLOW),
        ("kill", (PID + 1, 9), refused(errno.EPERM)),
        ("kill", (0, 9), refused(errno.EPERM)),
        ("kill", (-1, 9), refused(errno.EPERM)),
        ("kill", (-PID, 9), refused(errno.EPERM)),
        ("tgkill", (PID, PID, 6), seccomp.ALLOW),
        ("tgkill", (PID + 1, PID + 1, 6), refused(errno.EPERM)),
        ("prlimit64", (0, 7), seccomp.ALLOW),
        ("prlimit64", (PID, 7), seccomp.ALLOW),
        ("prlimit64", (1, 7), refused(errno.EPERM)),
        ("prctl", (15,), seccomp.ALLOW),
        ("prctl", (1,), refused(errno.EPERM)),
        ("prctl", (22,), refused(errno.EPERM)),
        ("fcntl", (3, 7), seccomp.ALLOW),
        ("fcntl", (3, 8), refused(errno.EPERM)),
        ("fcntl", (3, 10), refused(errno.EPERM)),
        ("fcntl", (3, 15), refused(errno.EPERM)),
        ("fcntl", (3, 1024), refused(errno.EPERM)),
        ("ioctl", (3, 0x5401), seccomp.ALLOW),
        ("ioctl", (3, 0x5412), refused(errno.ENOTTY)),
        ("ioctl", (3, 0x8901), refused(errno.ENOTTY)),
        ("ioctl", (3, 0x5452), refused(errno.ENOTTY)),
        ("socketpair", (1, 1), seccomp.ALLOW),
        ("socketpair", (2, 1), refused(errno.EPERM)),
        ("sendto", (3, 1, 1, 0, 0), seccomp.ALLOW),
        ("sendto", (3, 1, 1, 0, 1), refused(errno.EPERM)),
        ("sendto", (3, 1, 1, 0, 1 << 32), refused(errno.EPERM)),
        ("renameat2", (-100, 1, -100, 1, 2), seccomp.ALLOW),
        ("renameat2", (-100, 1, -100, 1, 4), refused(errno.EINVAL)),  # RENAME_WHITEOUT
        ("close_range", (3, 9, 4), seccomp.ALLOW),
        ("close_range", (3, 9, 2), refused(errno.EINVAL)),  # CLOSE_RANGE_UNSHARE
        ("fallocate", (3, 1, 0, 1), refused(errno.ENOTSUP)),
        ("clone3", (), refused(errno.ENOSYS)),
        ("fchmodat", (), refused(0)),
        ("fgetxattr", (), refused(errno.ENOTSUP)),
    ],
)
def test_arguments_decide(machine: str, name: str, arguments: tuple[int, ...], answer: int) -> None:
    assert decide(machine, number(machine, name), *arguments) == answer


def test_open_decides_as_openat_does() -> None:
    assert decide("x86_64", number("x86_64", "open"), 0, 0o1000) == refused(errno.EACCES)
    assert decide("x86_64", number("x86_64", "open"), 0, 0o1101) == seccomp.ALLOW


def test_numbers_are_the_kernels(machine: str) -> None:
    """A call that the kernel has is missing on no machine, and none is believed to be there that is not."""
    column = list(ARCHITECTURES).index(machine)
    for table in TABLES:
        names = {*table[syscalls.X86_64], *table[syscalls.AARCH64]}
        assert table[column] == {name: KERNEL[machine][name] for name in names if name in KERNEL[machine]}
    numbers = {name: numbers[column] for name, numbers in PRIVILEGED.items()}
    assert numbers == {name: KERNEL[machine][name] for name in PRIVILEGED}


def test_what_no_code_may_do_is_refused(machine: str) -> None:
    names = set(FORBIDDEN.split())
    assert names <= {*KERNEL["x86_64"], *KERNEL["aarch64"]}
    answers = {name: decide(machine, number(machine, name)) for name in names if name in KERNEL[machine]}
    assert {name: answer for name, answer in answers.items() if answer != refused(errno.EPERM)} == {}


HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")


@pytest.mark.skipif(not HEADER.exists(), reason="no headers of the kernel for x86_64")
def test_the_published_numbers_are_those_of_the_kernels_header() -> None:
    lines = [line.split() for line in HEADER.read_text().splitlines() if line.startswith("#define __NR_")]
    header = {name.removeprefix("__NR_"): int(value) for _, name, value in lines}
    assert {name: value for name, value in header.items() if KERNEL["x86_64"].get(name, value) != value} == {}
