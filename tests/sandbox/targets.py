"""What attacks aim at, and whether one of it was reached. All is real: files, processes, sockets, shared memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import socket
import sqlite3
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SECRET = f"secret-{secrets.token_hex(8)}"
PLANTED = [Path(folder, "planted") for folder in ("/tmp", "/dev/shm", "/")]


@dataclass
class Targets:
    folder: Path
    store: Path
    secret_file: Path
    library: Path
    victim: subprocess.Popen[bytes]
    listener: socket.socket
    datagrams: socket.socket
    abstract: socket.socket
    shared: int
    shared_key: int

    def names(self) -> dict[str, object]:
        """As attacks know them."""
        return {
            "STORE": str(self.store),
            "SECRET_FILE": str(self.secret_file),
            "LIBRARY": str(self.library),
            "VICTIM": self.victim.pid,
            "PARENT": os.getpid(),
            "PORT": self.listener.getsockname()[1],
            "DATAGRAMS": self.datagrams.getsockname(),
            "ABSTRACT": self.abstract.getsockname(),
            "SHARED": self.shared,
            "SHARED_KEY": self.shared_key,
        }

    def state(self) -> dict[str, object]:
        """Equal as long as nothing was reached."""
        return {
            "store": (self.store.read_bytes(), _status(self.store)),
            "attributes": os.listxattr(self.store),
            "beside the store": sorted(each.name for each in self.store.parent.iterdir()),
            "folder": sorted(each.name for each in self.folder.iterdir()),
            "library": (self.library.read_bytes(), _status(self.library)),
            "libraries": (self.library.parent / "planted.py").exists(),
            "planted": [str(path) for path in PLANTED if path.exists()],
            "victim": _process(self.victim),
            "self": (os.getpriority(os.PRIO_PROCESS, 0), Path("/proc/self/oom_score_adj").read_text()),
            "received": [_received(each) for each in (self.datagrams, self.abstract)],
            "connected": _connected(self.listener),
        }


@contextlib.contextmanager
def targets(folder: Path) -> Iterator[Targets]:
    store = folder / "store" / "assistants.db"
    store.parent.mkdir()
    with contextlib.closing(sqlite3.connect(store)) as connection:
        connection.execute("CREATE TABLE x (y)")
        connection.execute("INSERT INTO x VALUES (?)", (SECRET,))
        connection.commit()
    (folder / "upload").write_text(SECRET)
    os.environ["ATTACKED"] = SECRET
    libc = ctypes.CDLL(None, use_errno=True)
    key = secrets.randbits(30)
    shared = libc.shmget(key, 4096, 0o1600)
    with (
        _library() as library,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract,
    ):
        listener.setblocking(False)
        datagrams.setblocking(False)
        abstract.setblocking(False)
        datagrams.bind(str(folder / "s"))
        abstract.bind(f"\0attacked-{os.getpid()}")
        victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        try:
            yield Targets(folder, store, folder / "upload", library, victim, listener, datagrams, abstract, shared, key)
        finally:
            victim.kill()
            victim.wait()
            libc.shmctl(shared, 0, None)
            del os.environ["ATTACKED"]


@contextlib.contextmanager
def _library() -> Iterator[Path]:
    """A file that interpreters may read, of this user if there can be one."""
    made = Path(sysconfig.get_path("purelib"), f"attacked_{os.getpid()}.py")
    try:
        made.write_text("# a library\n")
    except OSError:
        yield Path(os.__file__)
        return
    try:
        yield made
    finally:
        made.unlink()


def _status(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_mode, found.st_uid, found.st_nlink, found.st_size, found.st_mtime_ns


def _process(process: subprocess.Popen[bytes]) -> tuple[object, ...]:
    if process.poll() is not None:
        return (process.returncode,)
    stopped = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    return None, stopped, os.getpriority(os.PRIO_PROCESS, process.pid), sorted(os.sched_getaffinity(process.pid))


def _received(one: socket.socket) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return one.recv(100)
    return b""


def _connected(listener: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        listener.accept()[0].close()
        return True
    return False
