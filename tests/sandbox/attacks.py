"""Attacks on what an interpreter must not reach. Each is a cell; PRELUDE is executed before it.

REFUSED: the cell must end in an OSError. UNFELT: whatever the cell hears, nothing outside has changed. LOST: the cell
ends its interpreter, for the reason given. Targets that exist (a store, another session, a process, sockets, shared
memory) are made by `targets`, which also tells whether one was reached. No attack hurts the machine if it succeeds.
"""

from __future__ import annotations

PRELUDE = """
import ctypes, errno, fcntl, mmap, os, platform, resource, shutil, signal, socket, struct, subprocess, sys, threading
import time

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

def call(name, *arguments):
    answer = getattr(libc, name)(*arguments)
    if answer == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer

def system(x86, arm, *arguments):
    return call("syscall", x86 if X86 else arm, *arguments)

def own(name="own"):
    return os.open("/mnt/data/" + name, os.O_RDWR | os.O_CREAT)

def buffer(size=4096):
    return ctypes.create_string_buffer(size)

def clean():
    os.chdir("/mnt/data")
    for entry in os.scandir("/mnt/data"):
        shutil.rmtree(entry) if entry.is_dir() else os.unlink(entry)
"""

FILES = {
    "read the store": "open(STORE).read()",
    "write the store": "open(STORE, 'r+')",
    "append to the store": "open(STORE, 'a')",
    "overwrite the store": "open(STORE, 'w')",
    "truncate the store by its path": "os.truncate(STORE, 0)",
    "truncate the store when it is opened to read": "os.open(STORE, os.O_RDONLY | os.O_TRUNC)",
    "open the store without an access mode": "os.open(STORE, 3)",
    "truncate the store without an access mode": "os.open(STORE, 3 | os.O_TRUNC)",
    "truncate a library when it is opened to read": "os.open(LIBRARY, os.O_RDONLY | os.O_TRUNC)",
    "truncate a library without an access mode": "os.open(LIBRARY, 3 | os.O_TRUNC)",
    "write to a library": "open(LIBRARY, 'a')",
    "create a module among the libraries": "open(os.path.dirname(LIBRARY) + '/planted.py', 'w')",
    "truncate the store by a descriptor of its path": "os.ftruncate(os.open(STORE, os.O_PATH), 0)",
    "read the store by a descriptor of its path": "os.read(os.open(STORE, os.O_PATH), 10)",
    "open the store again by a descriptor of its path": "open(f'/proc/self/fd/{os.open(STORE, os.O_PATH)}').read()",
    "open the store from its folder": "os.chdir(os.path.dirname(STORE)); open(os.path.basename(STORE)).read()",
    "open the store through openat2": "system(437, 437, -100, STORE.encode(), buffer(24), 24)",
    "open the store by a handle": "system(303, 264, -100, STORE.encode(), buffer(), buffer(), 0)",
    "open a file by a handle": "system(304, 265, -100, buffer(), 0)",
    "map the store": "mmap.mmap(os.open(STORE, os.O_RDONLY), 0)",
    "copy the store": "shutil.copy(STORE, '/mnt/data/copy')",
    "remove the store": "os.unlink(STORE)",
    "take the store away": "os.rename(STORE, '/mnt/data/stolen')",
    "replace the store": "own(); os.rename('/mnt/data/own', STORE)",
    "exchange the store": "own(); system(316, 276, -100, b'/mnt/data/own', -100, STORE.encode(), 2)",
    "link to the store": "os.link(STORE, '/mnt/data/link')",
    "link to the store by a descriptor": "call('linkat', os.open(STORE, os.O_PATH), b'', -100, b'/mnt/data/link', 0x1000)",
    "link symbolically to the store": "os.symlink(STORE, '/mnt/data/link')",
    "watch the store": "call('inotify_add_watch', call('inotify_init'), STORE.encode(), 0xFFF)",
    "watch the store with fanotify": "system(300, 262, 0, 0)",
    "ask to be told of changes of a folder": "fcntl.fcntl(os.open('/mnt/data', os.O_RDONLY), fcntl.F_NOTIFY, 1)",
    "remove the folder of the store": "shutil.rmtree(os.path.dirname(STORE))",
    "list the folder of the store": "os.listdir(os.path.dirname(STORE))",
    "make a folder beside the store": "os.mkdir(os.path.dirname(STORE) + '/new')",
    "read a file of another session": "open(OTHER).read()",
    "write a file of another session": "open(OTHER, 'w')",
    "list the folder of another session": "os.listdir(os.path.dirname(OTHER))",
    "list all sessions": "os.listdir(SESSIONS)",
    "go up from the own folder": "os.chdir('/mnt/data'); os.listdir('..')",
    "go up far from the own folder": "open('/mnt/data/' + '../' * 30 + STORE).read()",
    "go up by a descriptor": "os.open('../..', os.O_RDONLY, dir_fd=os.open('/mnt/data', os.O_PATH))",
    "create a temporary file elsewhere": "open('/tmp/planted', 'w')",
    "create a file in shared memory": "open('/dev/shm/planted', 'w')",
    "create a file in the root": "open('/planted', 'w')",
    "create a hidden file": "os.open('/mnt/data', os.O_TMPFILE | os.O_RDWR)",
    "make a FIFO": "os.mkfifo('/mnt/data/fifo')",
    "make a device": "os.mknod('/mnt/data/device', 0o60600, os.makedev(8, 0))",
    "leave a device in the place of a name": "own(); system(316, 276, -100, b'/mnt/data/own', -100, b'/mnt/data/new', 4)",
    "reserve the disk beyond the end of a file": "system(285, 47, own(), 1, 0, ctypes.c_long(1 << 33))",
    "make a socket": "os.mknod('/mnt/data/socket', 0o140600)",
    "read /etc/passwd": "open('/etc/passwd').read()",
    "read /etc/shadow": "open('/etc/shadow').read()",
    "read the memory of the machine": "open('/dev/mem', 'rb').read(1)",
    "read the messages of the kernel": "open('/dev/kmsg', 'rb').read(1)",
    "read the log of the kernel": "system(103, 116, 3, buffer(), 4096)",
    "type into a terminal": "fcntl.ioctl(os.open('/dev/tty', os.O_RDWR), 0x5412, b'x')",
    "read the kernel's state": "os.listdir('/sys')",
    "set the handler of crashes": "open('/proc/sys/kernel/core_pattern', 'w')",
    "ask the kernel to reboot": "open('/proc/sysrq-trigger', 'w')",
    "open a leftover of an upload": "open(SECRET_FILE).read()",
    "attach the store with SQLite": "import sqlite3\ntry:\n    sqlite3.connect(STORE).execute('select 1 from x')\n"
    "except sqlite3.OperationalError as error:\n    raise OSError(str(error))",
}

PROC = {
    "read the environment of the service": "open(f'/proc/{PARENT}/environ', 'rb').read()",
    "read the environment of the first process": "open('/proc/1/environ', 'rb').read()",
    "read the command line of the service": "open(f'/proc/{PARENT}/cmdline', 'rb').read()",
    "open the memory of the service": "open(f'/proc/{PARENT}/mem', 'r+b')",
    "read the memory map of the service": "open(f'/proc/{PARENT}/maps').read()",
    "list the descriptors of the service": "os.listdir(f'/proc/{PARENT}/fd')",
    "open the store by the service's root": "open(f'/proc/{PARENT}/root{STORE}').read()",
    "open the store by the own root": "open(f'/proc/self/root{STORE}').read()",
    "open the own memory": "open('/proc/self/mem', 'r+b')",
    "list processes": "os.listdir('/proc')",
    "change the own standing with the memory killer": "open('/proc/self/oom_score_adj', 'w').write('-1000')",
    "map users": "open('/proc/self/uid_map', 'w').write('0 0 1')",
}

PROCESSES = {
    "fork": "os.fork() or os._exit(0)",
    "vfork": "system(58, 220, 0x4111, 0)",
    "clone a process that shares memory": "system(56, 220, 0x111, 0, 0, 0, 0)",
    "clone a thread into another namespace": "system(56, 220, 0x40010F00, 0, 0, 0, 0)",
    "clone a thread with descriptors of its own": "system(56, 220, 0x3D0B00, 0, 0, 0, 0)",
    "take descriptors of its own": "system(436, 436, 200, 201, 2)",
    "clone3": "system(435, 435, buffer(88), 88)",
    "execute a program": "os.execv('/bin/true', ['true'])",
    "execute a file of its own": "fd = own('program'); os.write(fd, b'#!/bin/true'); os.chmod('/mnt/data/program', 0o700);"
    " os.execv('/mnt/data/program', ['program'])",
    "execute a descriptor": "os.execve(os.open('/bin/true', os.O_PATH), ['true'], {})",
    "execute by execveat": "system(322, 281, -100, b'/bin/true', None, None, 0)",
    "spawn a program": "os.posix_spawn('/bin/true', ['true'], {})",
    "run a program": "subprocess.run(['true'])",
    "run a program by the shell": "subprocess.check_output('env', shell=True)",
    "start a process of multiprocessing": "import multiprocessing; multiprocessing.get_context('fork').Process(target=print).start()",
    "kill another process": "os.kill(VICTIM, signal.SIGKILL)",
    "ask whether the service is there": "os.kill(PARENT, 0)",
    "stop the service": "os.kill(PARENT, signal.SIGSTOP)",
    "kill all processes": "os.kill(-1, 0)",
    "kill a group of processes": "os.killpg(VICTIM, signal.SIGKILL)",
    "kill a thread of another process": "system(234, 131, VICTIM, VICTIM, 9)",
    "kill a thread wherever it is": "system(200, 130, VICTIM, 9)",
    "kill by the lower half of a number": "call('syscall', 62 if X86 else 129, ctypes.c_long((1 << 32) + VICTIM), 9)",
    "queue a signal": "system(129, 138, VICTIM, 9, buffer())",
    "queue a signal for a thread": "system(297, 240, VICTIM, VICTIM, 9, buffer())",
    "open a handle of a process": "os.pidfd_open(VICTIM)",
    "send a signal by a handle": "system(424, 424, own(), 9, None, 0)",
    "have signals sent to another process": "fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, VICTIM)",
    "choose the signal of a descriptor": "fcntl.fcntl(os.pipe()[0], 10, 9)",
    "have signals sent by an owner of another kind": "fcntl.fcntl(os.pipe()[0], 15, struct.pack('ii', 1, VICTIM))",
    "have signals sent by a socket": "fcntl.ioctl(socket.socketpair()[0], 0x8901, struct.pack('i', VICTIM))",
    "trace another process": "call('ptrace', 16, VICTIM, None, None)",
    "seize another process": "call('ptrace', 0x4206, VICTIM, None, None)",
    "read the memory of another process": "system(310, 270, VICTIM, buffer(), 1, buffer(), 1, 0)",
    "write the memory of another process": "system(311, 271, VICTIM, buffer(), 1, buffer(), 1, 0)",
    "compare with another process": "system(312, 272, PARENT, VICTIM, 0, 0, 0)",
    "take a descriptor of another process": "system(438, 438, own(), 0, 0)",
    "move the memory of another process": "system(279, 239, VICTIM, 0, None, None, None, 0)",
    "advise on another process's memory": "system(440, 440, own(), buffer(), 1, 21, 0)",
    "limit another process": "resource.prlimit(VICTIM, resource.RLIMIT_CPU, (1, 1))",
    "look up limits of another process": "resource.prlimit(PARENT, resource.RLIMIT_CPU)",
    "slow another process down": "os.setpriority(os.PRIO_PROCESS, VICTIM, 19)",
    "go before others": "os.setpriority(os.PRIO_PROCESS, 0, -20)",
    "schedule itself in real time": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
    "bind another process to a processor": "os.sched_setaffinity(VICTIM, {0})",
    "choose the priority of another process's disk": "system(251, 30, 1, VICTIM, 0)",
    "leave its session": "os.setsid()",
    "join another group": "os.setpgid(0, os.getppid())",
}

SOCKETS = {
    "open a TCP socket": "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "open a UDP socket": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "open a TCP socket of version 6": "socket.socket(socket.AF_INET6, socket.SOCK_STREAM)",
    "open a raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "open a packet socket": "socket.socket(17, socket.SOCK_RAW)",
    "open a Unix socket": "socket.socket(socket.AF_UNIX)",
    "open a netlink socket": "socket.socket(16, socket.SOCK_RAW)",
    "open a socket of the hypervisor": "socket.socket(40, socket.SOCK_STREAM)",
    "open a socket of the kernel's ciphers": "socket.socket(38, socket.SOCK_SEQPACKET)",
    "connect to a port": "socket.create_connection(('127.0.0.1', PORT), timeout=1)",
    "fetch from a port": "import urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{PORT}/', timeout=1)",
    "look up a name": "socket.getaddrinfo('localhost.example', 80)",
    "make a pair of internet sockets": "socket.socketpair(socket.AF_INET)",
    "send to a socket by its path": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', DATAGRAMS)",
    "send to an abstract socket": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', ABSTRACT)",
    "connect a pair to a socket": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].connect(DATAGRAMS)",
    "send a message to a socket": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendmsg([b'x'], [], 0, DATAGRAMS)",
    "send many messages": "system(307, 269, socket.socketpair()[0].fileno(), buffer(), 1, 0)",
    "pass descriptors": "socket.send_fds(socket.socketpair()[0], [b'x'], [0])",
    "bind a pair": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].bind('/mnt/data/socket')",
    "listen on a pair": "socket.socketpair()[0].listen()",
    "set an option of a pair": "socket.socketpair()[0].setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)",
}

KERNEL = {
    "attach shared memory of the service": "system(30, 196, SHARED, None, 0)",
    "find shared memory": "system(29, 194, SHARED_KEY, 0, 0)",
    "make shared memory": "system(29, 194, 0, 4096, 0o1600)",
    "make a queue of messages": "system(68, 186, 0, 0o1600)",
    "make semaphores": "system(64, 190, 0, 1, 0o1600)",
    "open a queue of messages by name": "system(240, 180, b'planted', 0x42, 0o600, None)",
    "make a file in memory": "os.memfd_create('hidden')",
    "make a secret file in memory": "system(447, 447, 0)",
    "handle page faults": "system(323, 282, 0)",
    "use io_uring": "system(425, 425, 8, buffer(120))",
    "use asynchronous I/O": "system(206, 0, 8, buffer(8))",
    "load a program into the kernel": "system(321, 280, 0, buffer(), 72)",
    "count events of the machine": "system(298, 241, buffer(112), -1, 0, -1, 0)",
    "add a key": "system(248, 217, b'user', b'planted', b'x', 1, -3)",
    "read keys": "system(250, 219, 0, -4, 0)",
    "request a key": "system(249, 218, b'user', b'planted', None, -3)",
    "make a namespace of users": "call('unshare', 0x10000000)",
    "make a namespace of mounts": "call('unshare', 0x20000)",
    "enter a namespace": "call('setns', os.open(f'/proc/{PARENT}/ns/mnt', os.O_PATH), 0)",
    "mount": "call('mount', b'none', b'/mnt/data', b'tmpfs', 0, None)",
    "mount by a descriptor": "system(430, 430, b'tmpfs', 0)",
    "clone a mount": "system(428, 428, -100, b'/', 1)",
    "unmount": "call('umount2', b'/mnt/data', 2)",
    "change the root": "os.chroot('/mnt/data')",
    "pivot the root": "system(155, 41, b'/mnt/data', b'/mnt/data')",
    "become root": "call('setresuid', 0, 0, 0)",
    "change groups": "os.setgroups([0])",
    "take capabilities": "call('capset', struct.pack('Ii', 0x20080522, 0), struct.pack('6I', *[0xFFFFFFFF] * 6))",
    "outlive the service": "call('prctl', 1, 0, 0, 0, 0)",
    "become untraceable": "call('prctl', 4, 0, 0, 0, 0)",
    "replace the filter": "call('prctl', 22, 2, buffer(16), 0, 0)",
    "add a filter": "system(317, 277, 1, 0, buffer(16))",
    "add a ruleset": "system(444, 444, buffer(8), 8, 0)",
    "change the personality": "system(135, 92, 0x0400000)",
    "raise the limit of files": "resource.setrlimit(resource.RLIMIT_NOFILE, (100_000, 100_000))",
    "set the clock": "time.clock_settime(time.CLOCK_REALTIME, time.time())",
    "set the host's name": "socket.sethostname(socket.gethostname())",
    "reboot": "call('reboot', 0)",
    "load a module": "system(175, 105, buffer(), 8, b'')",
    "switch off swap": "call('swapoff', b'/dev/vda2')",
    "account processes": "call('acct', None)",
    "flush all disks": "call('syncfs', own()) and 0 or system(162, 81)",
    "use a system call of the future": "system(467, 467)",
    "lock memory": "call('mlock', buffer(1 << 20), 1 << 20)",
}

# The process that this session and all others were forked from.
FORK_SERVER = {
    "kill the fork server": "os.kill(os.getppid(), signal.SIGKILL)",
    "stop the fork server": "os.kill(SERVER, signal.SIGSTOP)",
    "stop the fork server by its thread": "system(234, 131, SERVER, SERVER, 19)",
    "end a child for the fork server": "os.kill(SERVER, signal.SIGCHLD)",
    "open a handle of the fork server": "os.pidfd_open(SERVER)",
    "trace the fork server": "call('ptrace', 16, SERVER, None, None)",
    "seize the fork server": "call('ptrace', 0x4206, SERVER, None, None)",
    "read the memory of the fork server": "system(310, 270, SERVER, buffer(), 1, buffer(), 1, 0)",
    "write the memory of the fork server": "system(311, 271, SERVER, buffer(), 1, buffer(), 1, 0)",
    "open the memory of the fork server": "open(f'/proc/{SERVER}/mem', 'r+b')",
    "read the environment of the fork server": "open(f'/proc/{SERVER}/environ', 'rb').read()",
    "read the memory map of the fork server": "open(f'/proc/{SERVER}/maps').read()",
    "list the descriptors of the fork server": "os.listdir(f'/proc/{SERVER}/fd')",
    "open the socket of the fork server again": "open(f'/proc/{SERVER}/fd/0', 'wb')",
    "list the children of the fork server": "open(f'/proc/{SERVER}/task/{SERVER}/children').read()",
    "take the socket of the fork server": "system(438, 438, own(), 0, 0)",
    "limit the fork server": "resource.prlimit(SERVER, resource.RLIMIT_NOFILE, (3, 3))",
    "slow the fork server down": "os.setpriority(os.PRIO_PROCESS, SERVER, 19)",
    "bind the fork server to a processor": "os.sched_setaffinity(SERVER, {0})",
    "find a socket of another process": "import stat\nfound = []\nfor fd in range(4096):\n    try:\n"
    "        if stat.S_ISSOCK(os.fstat(fd).st_mode):\n            other = socket.socket(fileno=os.dup(fd))\n"
    "            found += [fd] * (struct.unpack('3i', other.getsockopt(1, 17, 12))[0] != os.getpid())\n"
    "    except OSError:\n        pass\nif not found:\n    raise OSError('refused')",
    "find a socket of the fork server in its own memory": "import gc\nframe, found = sys._getframe(), gc.get_objects()\n"
    "while frame:\n    found += frame.f_locals.values()\n    frame = frame.f_back\n"
    "if not [each for each in found if isinstance(each, socket.socket) and each.fileno() >= 0]:\n    raise OSError('refused')",
    "fork as the fork server does": "fork_server = sys.modules['assistants_service.infra.sandbox.fork_server']\n"
    "fork_server._threads = lambda: 1\nfork_server._Server(socket.socketpair()[0])._forked(socket.socketpair()[0])",
}

REFUSED = {**FILES, **PROC, **PROCESSES, **SOCKETS, **KERNEL, **FORK_SERVER}

UNFELT = {
    "change the mode of the store": "os.chmod(STORE, 0o777)",
    "change the mode of the store by a descriptor": "os.chmod(os.open(STORE, os.O_PATH), 0o777)",
    "change the owner of the store": "os.chown(STORE, 12345, 12345)",
    "change the times of the store": "os.utime(STORE, (1, 1))",
    "set an attribute of the store": "os.setxattr(STORE, 'user.planted', b'x')",
    "lock a library": "fcntl.flock(os.open(LIBRARY, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)",
    "read the environment": "__import__('os').environ, os.environb",
    "find secrets in its own memory": "import gc; [each for each in gc.get_objects() if isinstance(each, str)]",
    "run a program by system()": "os.system('kill -9 ' + str(VICTIM))",
    "open a program by popen()": "os.popen('env').read()",
    "close all descriptors but the channel": "os.closerange(0, 9)",
    "leave a thread that writes on": "threading.Thread(target=lambda: [open('/mnt/data/late', 'a').write('x') for _ in iter(int, 1)],"
    " daemon=True).start()",
    "allocate all memory": "bytearray(64 << 30)",
    "allocate memory in small pieces": "kept = []\ntry:\n    while True:\n        kept.append(bytearray(16 << 20))\nfinally:\n    del kept",
    "map all memory": "mmap.mmap(-1, 64 << 30)",
    "fill shared mappings": "kept = []\ntry:\n    while True:\n        kept.append(mmap.mmap(-1, 1 << 20))\nfinally:\n    del kept",
    "open files without end": "kept = []\ntry:\n    while True:\n        kept.append(own())\nfinally:\n"
    "    [os.close(each) for each in kept]",
    "make pipes without end": "kept = []\ntry:\n    while True:\n        kept.append(os.pipe())\nfinally:\n"
    "    [os.close(each) for pair in kept for each in pair]",
    "write a file that is too large": "os.pwrite(own('large'), b'x', 1 << 40)",
    "make a sparse file of a petabyte": "os.truncate(own('sparse'), 1 << 50)",
    "reserve too much space": "os.posix_fallocate(own('reserved'), 0, 1 << 40)",
    "recurse without end": "def again():\n    again()\nagain()",
    "break the interpreter's own modules": "import json\njson.dumps = json.loads = None\nos.read = os.write = None",
    "raise what has no text": "class Bad(Exception):\n    def __str__(self):\n        raise self\nraise Bad",
    "raise what is no exception": "raise BaseException('planted')",
    "exit": "sys.exit(3)",
    "have a value without a text": "class Bad:\n    def __repr__(self):\n        raise SystemExit\nBad()",
    "make names that are odd": "for name in (b'new\\nline', b'\\xff\\xfe', b'-rf', b' ', b'a' * 255, b'\\x1b[31m', '\\u202e'.encode()):\n"
    "    open(b'/mnt/data/' + name, 'w').close()",
    "replace libraries by modules of its own": "for name in ('json', 'os', 'numpy', 'encodings'):\n"
    "    open(f'/mnt/data/{name}.py', 'w').write('raise SystemExit')",
    "replace the streams": "sys.stdout = sys.stderr = sys.stdin = None",
    "ignore SIGINT": "signal.signal(signal.SIGINT, signal.SIG_IGN)",
    "ask for input": "input()",
    "print without end": "while True:\n    print('x' * 10_000)",
    "write to the log without end": "while True:\n    os.write(1, b'x' * 1_000_000)",
    "make the log look large": "os.ftruncate(1, 1 << 23)",
}

# The object that answers the worker, which a cell can find in its own process.
SERVICE = "import gc\nservice = next(each for each in gc.get_objects() if type(each).__name__ == '_Service')\n"


RESULT = '{"value": null, "error": null, "changed": [], "removed": [], "notes": []}'


def forged(changed):
    result = RESULT.replace("[]", changed, 1)
    return f"{SERVICE}service._answer(b'j', {result.encode()!r})\ntime.sleep(9)"


LOST = {
    "end its process": ("os._exit(7)", "ended its own process"),
    "end its process without an error": ("os._exit(0)", "ended its own process"),
    "crash": ("ctypes.string_at(0)", "SIGSEGV"),
    "abort": ("os.abort()", "SIGABRT"),
    "kill itself": ("os.kill(os.getpid(), signal.SIGKILL)", "killed"),
    "close all descriptors": ("os.closerange(0, 256)", ""),
    "forge a frame": ("os.write(11, b'\\0' * 100)", "channel"),
    "forge a result that names a file elsewhere": (
        forged('[["../../store", 1]]'),
        "channel",
    ),
    "forge a result with a size below zero": (
        forged('[["a", -1]]'),
        "channel",
    ),
    "forge a result of another call": (
        f"import struct\nos.write(11, struct.pack('>I16sc', {len(RESULT)}, bytes(16), b'j') + {RESULT.encode()!r})\n"
        "time.sleep(9)",
        "channel",
    ),
    "forge a result that is none": (SERVICE + "service._answer(b'j', b'{')\ntime.sleep(9)", "channel"),
    "forge an answer of another kind": (SERVICE + "service._answer(b'd', b'x')\ntime.sleep(9)", "channel"),
    "forge an image that is none": (SERVICE + "service._answer(b'i', b'<svg>')\ntime.sleep(9)", "channel"),
    "forge images without end": (
        SERVICE + "while True:\n    service._answer(b'i', b'\\x89PNG\\r\\n\\x1a\\n')",
        "channel",
    ),
    "announce a frame that is too long": (
        SERVICE + "os.write(11, struct.pack('>I16sc', 0xFFFFFFFF, service._nonce, b'j'))\ntime.sleep(9)",
        "channel",
    ),
    "write without end": (
        "for n in range(1 << 40):\n    open(f'/mnt/data/f{n % 1000}', 'wb').write(bytes(1 << 20))",
        "wrote more than 64 MiB to disk",
    ),
    "write without end to temporary files": (
        "import tempfile\nwhile True:\n    open(tempfile.mkstemp()[1], 'wb').write(bytes(1 << 20))",
        "wrote more than 64 MiB to disk",
    ),
    "hide files by removing them while they are open": (
        "kept = []\nwhile True:\n    kept.append(own('hidden'))\n    os.write(kept[-1], bytes(1 << 23))\n"
        "    os.unlink('/mnt/data/hidden')",
        "wrote more than 64 MiB to disk",
    ),
    "hide files by removing them while they are mapped": (
        "libc.mmap.restype = ctypes.c_void_p\nwhile True:\n    fd = own('hidden')\n    os.write(fd, bytes(1 << 23))\n"
        "    libc.mmap(None, 4096, 1, 1, fd, ctypes.c_long(0))\n    os.unlink('/mnt/data/hidden')\n    os.close(fd)",
        "wrote more than 64 MiB to disk",
    ),
    "hide files in a folder that cannot be listed": (
        "os.mkdir('/mnt/data/closed', 0o300)\nfor n in range(1 << 40):\n"
        "    open(f'/mnt/data/closed/{n % 1000}', 'wb').write(bytes(1 << 20))",
        "",
    ),
    "hide files behind mappings without end": (
        "libc.mmap.restype = ctypes.c_void_p\npath = '/mnt/data/' + '/'.join(['n' * 200] * 8)\nos.makedirs(path)\n"
        "fd = os.open(path + '/file', os.O_RDWR | os.O_CREAT)\nos.write(fd, bytes(8192))\n"
        "for n in range(40_000):\n    libc.mmap(None, 4096, 1, 1, fd, ctypes.c_long(n % 2 * 4096))\ntime.sleep(9)",
        "too many mappings",
    ),
    "hide files by ending the main thread": (
        "threading.Thread(target=time.sleep, args=(9,)).start()\nlibc.syscall(60 if X86 else 93, 0)",
        "ended its main thread",
    ),
    "start threads without end": (
        "threading.stack_size(1 << 18)\nwhile True:\n    threading.Thread(target=time.sleep, args=(99,)).start()",
        "threads",
    ),
    "make files without end": (
        "for n in range(1 << 40):\n    own(f'many{n}') and os.closerange(20, 250)",
        "files and folders",
    ),
    "make folders without end": ("for n in range(1 << 40):\n    os.mkdir(f'/mnt/data/d{n}')", "files and folders"),
    "nest folders without end": (
        "os.chdir('/mnt/data')\nwhile True:\n    os.mkdir('n' * 250)\n    os.chdir('n' * 250)",
        "nested too deeply",
    ),
}

X86_ONLY = {
    "use the second ABI": ("libc.syscall(0x40000000 + 39)", "another architecture"),
    "use the calls of 32 bits": (
        "code = mmap.mmap(-1, 4096, prot=7)\ncode.write(bytes.fromhex('b814000000cd80c3'))\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()",
        "another architecture",
    ),
}
