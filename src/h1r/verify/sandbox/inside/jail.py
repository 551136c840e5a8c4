"""The inner wall around one test: a fresh process in fresh namespaces (where the server may make them), without
privileges, under rlimits, Landlock and seccomp. Standard library and ctypes only.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import shutil
import signal
import struct
import tempfile
from collections.abc import Callable
from typing import NamedTuple

from . import seccomp

LIBC = ctypes.CDLL(None, use_errno=True)
ARM = platform.machine() == "aarch64"
CLONE = 220 if ARM else 56
NEWNS, NEWPID, NEWIPC = 0x00020000, 0x20000000, 0x08000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
READ_RIGHTS = 1 | 4 | 8  # execute, read file, read dir
FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # rights known to each ABI
SLACK = 1 << 30  # bytes of address space beyond the memory limit: what is reserved (stacks of threads) is not yet used
BOXES, BOX, PROGRAMS = "/box", "/box/0", "/srv"


class Frame(NamedTuple):
    """What the server knows about where it runs."""

    nested: bool  # it may make namespaces: each test gets its own
    uid: int  # tests run as this user; 0: as the server's own
    readable: tuple[str, ...]  # paths a test may read
    landlock: bool
    seccomp: bool
    lenient: bool = (
        False  # limits this kernel (gVisor's) does not know are left out; the server counts processes itself
    )
    ruleset: int = -1  # a Landlock ruleset made once, where every test sees the same paths


class Limits(NamedTuple):
    timeout: float
    memory: int  # bytes
    output: int  # bytes
    processes: int
    disk: int  # bytes


def check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    def coded(text: str | None) -> bytes | None:
        return None if text is None else text.encode()

    check(
        LIBC.mount(coded(source), target.encode(), coded(kind), ctypes.c_ulong(flags), coded(data)), f"mount {target}"
    )


def spawn(frame: Frame, limits: Limits, body: Callable[[], None], status: int, fds: dict[int, int]) -> int:
    """Start `body` behind the wall; its pid (that of its namespace's init, where it has one).

    fds: {number inside: our descriptor}. status: a pipe end that receives struct "if": wait status and cpu seconds.
    """
    if not frame.nested:
        if not frame.uid:  # the count is of all this user's processes, wherever they run
            limits = limits._replace(processes=limits.processes + owned(os.getuid()))
        pid = os.fork()
        if pid == 0:
            _inside(frame, limits, body, fds, os.environ["H1R_WORK"])
        return pid
    pid = check(LIBC.syscall(CLONE, NEWNS | NEWPID | NEWIPC | signal.SIGCHLD, None, None, None, None), "clone")
    if pid == 0:
        try:
            _init(frame, limits, body, status, fds)
        finally:
            os._exit(125)
    return pid


def _init(frame: Frame, limits: Limits, body: Callable[[], None], status: int, fds: dict[int, int]) -> None:
    """Process 1 of a test's namespaces: mounts a fresh folder, starts the test, ends with it, and all else with it."""
    LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)
    owner = f",uid={frame.uid},gid={frame.uid}" if frame.uid else ""
    mount("tmpfs", BOX, "tmpfs", MS_NOSUID | MS_NODEV, f"size={limits.disk},nr_inodes=20000,mode=0700{owner}")
    for name in ("work", "tmp", "shm"):
        os.mkdir(f"{BOX}/{name}", 0o700)
        if frame.uid:
            os.chown(f"{BOX}/{name}", frame.uid, frame.uid)
    mount(f"{BOX}/shm", "/dev/shm", None, MS_BIND)
    if not frame.uid:
        mount(None, PROGRAMS, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    child = os.fork()
    if child == 0:
        _inside(frame, limits, body, fds, f"{BOX}/work")
    os.closerange(0, status)
    os.closerange(status + 1, 1024)
    while True:
        pid, code = os.wait()
        if pid == child:
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            os.write(status, struct.pack("if", code, used.ru_utime + used.ru_stime))
            os._exit(0)


def _inside(frame: Frame, limits: Limits, body: Callable[[], None], fds: dict[int, int], work: str) -> None:
    """Descriptors, limits, privileges; then the body. Never returns."""
    try:
        os.setsid()
        top = max([*fds, *fds.values()]) + 1
        moved = {inside: _high(ours, top) for inside, ours in fds.items()}
        for inside, ours in moved.items():
            os.dup2(ours, inside, inheritable=True)
        fence(frame, work)
        os.closerange(max(fds) + 1, 1024)
        os.chdir(work)
        restrict(frame, limits)
    except BaseException as e:
        os.write(2, f"h1r-jail: {e}".encode())
        os._exit(126)
    try:
        body()
    except BaseException as e:
        os.write(2, f"{type(e).__name__}: {e}".encode())
        os._exit(124)
    os._exit(0)


def _high(fd: int, top: int) -> int:
    """A copy of fd above `top`, out of the way of the dup2 calls to come."""
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD, top)


def fence(frame: Frame, work: str) -> None:
    """No new privileges; Landlock."""
    check(LIBC.prctl(38, 1, 0, 0, 0), "no_new_privs")
    if frame.ruleset >= 0:
        check(LIBC.syscall(LANDLOCK_RESTRICT, ctypes.c_int(frame.ruleset), ctypes.c_uint(0)), "landlock")
    elif frame.landlock:
        ruleset = landlock(frame.readable, (work,))
        check(LIBC.syscall(LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint(0)), "landlock")


def restrict(frame: Frame, limits: Limits) -> None:
    """Give up everything a test does not need. Cannot be undone."""
    processor = max(1, int(limits.timeout + 0.999))
    wanted = {
        resource.RLIMIT_AS: 2 * limits.memory + SLACK, resource.RLIMIT_CPU: processor, resource.RLIMIT_FSIZE: limits.disk,
        resource.RLIMIT_NOFILE: 256, resource.RLIMIT_NPROC: limits.processes, resource.RLIMIT_CORE: 0,
        resource.RLIMIT_STACK: min(limits.memory // 2, 256 << 20), resource.RLIMIT_MEMLOCK: 1 << 20,
        resource.RLIMIT_MSGQUEUE: 0,
    }  # fmt: skip
    for name, value in wanted.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        over = 1 if name == resource.RLIMIT_CPU and hard in (-1, value + 1) else 0
        try:
            resource.setrlimit(name, (value, value + over))
        except (ValueError, OSError):
            if not frame.lenient:
                raise
    drop(frame.uid)
    if frame.seccomp:
        seccomp.install()


def drop(uid: int) -> None:
    """No capability, now or after exec; another user where we may become one. A non-dumpable process stays unreadable."""
    for capability in range(41):
        LIBC.prctl(24, capability, 0, 0, 0)
    LIBC.prctl(47, 4, 0, 0, 0)
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = struct.pack("II", 0x20080522, 0)
    check(LIBC.capset(header, struct.pack("IIIIII", 0, 0, 0, 0, 0, 0)), "capset")


def landlock_abi() -> int:
    """0 when the kernel has none."""
    return max(0, int(LIBC.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1))))


def landlock(readable: tuple[str, ...], writable: tuple[str, ...]) -> int:
    """A ruleset: read and execute below `readable`, everything below `writable`, nothing else; no TCP; no signal out.

    A rule on a folder holds for what is mounted below it later (not on it: that place itself is then hidden), so one
    ruleset serves every test of a server with namespaces.
    """
    abi = landlock_abi()
    if not abi:
        raise OSError("no Landlock in this kernel")
    everything = (1 << FS_BITS.get(abi, 16)) - 1
    attributes = [everything]
    if abi >= 4:
        attributes.append(3)  # bind and connect TCP
    if abi >= 6:
        attributes.append(3)  # abstract sockets, signals
    rules = struct.pack(f"{len(attributes)}Q", *attributes)
    ruleset = check(LIBC.syscall(LANDLOCK_CREATE, rules, ctypes.c_size_t(len(rules)), ctypes.c_uint(0)), "landlock")
    devices = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
    file_rights = 1 | 2 | 4 | ((1 << 14) if abi >= 3 else 0)
    granted = [
        *((p, READ_RIGHTS) for p in readable),
        *((p, 8) for p in {os.path.dirname(p) for p in readable if "site-packages" in p}),  # to be listed, not read
        *((p, everything) for p in writable),
        *((p, file_rights & ~1) for p in devices),
    ]
    for path, rights in granted:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        if not os.path.isdir(path):
            rights &= file_rights
        rule = struct.pack("=Qi", rights, fd)
        check(
            LIBC.syscall(LANDLOCK_ADD, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0)),
            f"landlock {path}",
        )
        os.close(fd)
    high = _high(ruleset, 900)  # out of the way of the descriptors a test gets
    os.close(ruleset)
    return high


def tree(root: int) -> list[int]:
    """Living descendants of a process, from /proc."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as f:
                    fields = f.read().rpartition(b")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(name))
            except (OSError, IndexError):
                continue
    found, todo = [], [root]
    while todo:
        for child in parents.get(todo.pop(), ()):
            found.append(child)
            todo.append(child)
    return found


def owned(uid: int) -> int:
    """Threads that run as a user, as far as /proc shows them."""
    count = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue
    return count


def processor(pids: list[int]) -> float:
    """Seconds of processor time a set of living processes has used."""
    ticks = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as f:
                fields = f.read().rpartition(b")")[2].split()
            ticks += sum(int(x) for x in fields[11:15])
        except (OSError, IndexError):
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def resident(pids: list[int]) -> int:
    """Bytes of memory a set of processes has, shared pages counted for each."""
    pages = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm", "rb") as f:
                fields = f.read().split()
            pages += int(fields[1]) - int(fields[2])
        except (OSError, IndexError):
            continue
    return pages * resource.getpagesize()


def fresh_folder(uid: int = 0) -> str:
    """A new folder for one test of a server without namespaces; `remove` it afterwards."""
    path = tempfile.mkdtemp(prefix="h1r-box-", dir="/tmp")
    if uid:
        os.chown(path, uid, uid)
    return path


def remove(path: str) -> None:
    """Delete a tree of any depth: what is too deep for a path is first moved up."""
    for _ in range(10_000):
        try:
            shutil.rmtree(path)
            return
        except FileNotFoundError:
            return
        except (OSError, RecursionError):
            _shorten(path)


def _shorten(path: str) -> None:
    inner = path
    for _ in range(40):
        folders = [e.path for e in os.scandir(inner) if e.is_dir(follow_symlinks=False)]
        if not folders:
            return
        inner = folders[0]
    os.rename(inner, os.path.join(path, f"moved-{os.urandom(8).hex()}"))


def nesting(want: bool) -> bool:
    """Whether this process may give each test its own namespaces."""
    if not want:
        return False
    pid = LIBC.syscall(CLONE, NEWNS | NEWPID | NEWIPC | signal.SIGCHLD, None, None, None, None)
    if pid == 0:
        os._exit(0)
    if pid < 0:
        return False
    os.waitpid(pid, 0)
    return True
