"""The system calls of an interpreter, grouped by how the filter answers them, with their numbers.

Each entry is NAME:X86_64:AARCH64, with `-` where a machine has no such call. The numbers are those of
arch/x86/entry/syscalls/syscall_64.tbl and scripts/syscall.tbl of Linux. System calls in no table are refused (EPERM),
among them execve, fork, socket, connect, link, symlink, mknod, truncate, memfd_create, inotify, shmget, mq_open,
ptrace, process_vm_readv, pidfd_open, io_uring_setup, userfaultfd, bpf, keyctl, mount, and those that change ids,
priorities or time."""

from __future__ import annotations

from typing import Final

Numbers = dict[str, int]  # by name, of one machine

X86_64: Final = 0
AARCH64: Final = 1
LAST: Final = 452  # the highest number that was reviewed; newer system calls get ENOSYS


def _table(text: str) -> tuple[Numbers, Numbers]:
    entries = [entry.split(":") for entry in text.split()]
    return (
        {name: int(number) for name, number, _ in entries if number != "-"},
        {name: int(number) for name, _, number in entries if number != "-"},
    )


ALLOWED: Final = _table("""
    read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 preadv:295:69 pwritev:296:70
    preadv2:327:286 pwritev2:328:287 lseek:8:62 close:3:57 dup:32:23 dup2:33:- dup3:292:24
    pipe:22:- pipe2:293:59 creat:85:- fstat:5:80 stat:4:- lstat:6:- newfstatat:262:79 statx:332:291 access:21:-
    faccessat:269:48 faccessat2:439:439 getdents:78:- getdents64:217:61 getcwd:79:17 chdir:80:49 fchdir:81:50
    mkdir:83:- mkdirat:258:34 rmdir:84:- unlink:87:- unlinkat:263:35 rename:82:- renameat:264:38
    readlink:89:- readlinkat:267:78 ftruncate:77:46 fsync:74:82 fdatasync:75:83 fadvise64:221:223
    flock:73:32 sendfile:40:71 copy_file_range:326:285 statfs:137:43 fstatfs:138:44 umask:95:166
    mmap:9:222 munmap:11:215 mprotect:10:226 mremap:25:216 brk:12:214 madvise:28:233 msync:26:227 mlock:149:228
    munlock:150:229 membarrier:324:283 rseq:334:293 exit:60:93 exit_group:231:94 futex:202:98 set_tid_address:218:96
    set_robust_list:273:99 restart_syscall:219:128
    sched_yield:24:124 sched_getaffinity:204:123 sched_getscheduler:145:120 sched_getparam:143:121
    sched_get_priority_max:146:125 sched_get_priority_min:147:126 getpriority:140:141
    rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136 rt_sigsuspend:130:133
    rt_sigtimedwait:128:137 sigaltstack:131:132 wait4:61:260 waitid:247:95 alarm:37:- pause:34:- setitimer:38:103
    getitimer:36:102
    getpid:39:172 gettid:186:178 getppid:110:173 getuid:102:174 geteuid:107:175 getgid:104:176 getegid:108:177
    getresuid:118:148 getresgid:120:150 getgroups:115:158 getpgrp:111:- getpgid:121:155 getsid:124:156 uname:63:160
    sysinfo:99:179 getrusage:98:165 getrlimit:97:163 getcpu:309:168 times:100:153 time:201:- gettimeofday:96:169
    clock_gettime:228:113 clock_getres:229:114 clock_nanosleep:230:115 nanosleep:35:101 getrandom:318:278
    poll:7:- ppoll:271:73 select:23:- pselect6:270:72 epoll_create:213:- epoll_create1:291:20 epoll_ctl:233:21
    epoll_wait:232:- epoll_pwait:281:22 epoll_pwait2:441:441 eventfd2:290:19 timerfd_create:283:85
    timerfd_settime:286:86 timerfd_gettime:287:87 recvfrom:45:207 shutdown:48:210 getsockopt:55:209
    getsockname:51:204 getpeername:52:205
""")
# Allowed with some arguments only: see `seccomp`.
CHECKED: Final = _table("""
    open:2:- openat:257:56 clone:56:220 fcntl:72:25 ioctl:16:29 kill:62:129 tgkill:234:131 prctl:157:167
    prlimit64:302:261 socketpair:53:199 sendto:44:206 renameat2:316:276 close_range:436:436
""")
# They report success and do nothing: Landlock does not control them, and shutil.copy and zipfile call them.
IGNORED: Final = _table("""
    chmod:90:- fchmod:91:52 fchmodat:268:53 chown:92:- lchown:94:- fchown:93:55 fchownat:260:54 utime:132:-
    utimes:235:- futimesat:261:- utimensat:280:88 setxattr:188:5 lsetxattr:189:6 fsetxattr:190:7 removexattr:197:14
    lremovexattr:198:15 fremovexattr:199:16 fchmodat2:452:452
""")
# They get ENOTSUP, as on a file system that cannot do this. shutil.copystat accepts a lack of extended attributes, and
# libc's posix_fallocate writes instead: fallocate could reserve the whole disk in one call.
UNSUPPORTED: Final = _table("""
    fallocate:285:47
    getxattr:191:8 lgetxattr:192:9 fgetxattr:193:10 listxattr:194:11 llistxattr:195:12 flistxattr:196:13
""")
# They get ENOSYS, as on an older kernel, and libc uses other system calls instead. A filter cannot read their
# arguments, which are in memory.
MISSING: Final = _table("""
    clone3:435:435 openat2:437:437
""")
