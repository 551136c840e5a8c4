"""The outer wall of the native backend: namespaces and a new, read-only root made by system calls, without any program.

Inside: /usr and what the interpreter needs, read-only; an empty /box, /srv, /tmp; a minimal /dev; /proc of its own
process namespace; no network but an unconfigured loopback. Works as root and, where user namespaces are allowed, as anyone.
"""

from __future__ import annotations

import os
import signal
import struct
from typing import Any

from . import jail

NEWUSER, NEWUTS, NEWNET, NEWCGROUP = 0x10000000, 0x04000000, 0x40000000, 0x02000000
MNT_DETACH, AT_RECURSIVE, MOUNT_SETATTR = 2, 0x8000, 442
PIVOT_ROOT = 41 if jail.ARM else 155
DEVICES = ("null", "zero", "full", "random", "urandom")


def enter(options: dict[str, Any]) -> None:
    """Returns inside, as process 1 of the new namespaces; the calling process waits for it and ends as it ends."""
    uid, gid = os.getuid(), os.getgid()
    flags = jail.NEWNS | jail.NEWPID | NEWNET | jail.NEWIPC | NEWUTS | NEWCGROUP
    user = uid != 0
    if user:
        jail.LIBC.prctl(4, 1, 0, 0, 0)  # dumpable, or uid_map cannot be written
    jail.check(jail.LIBC.unshare(flags | (NEWUSER if user else 0)), "unshare")
    if user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as f:
                f.write(text)
    child = os.fork()
    if child:
        os.close(0)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os.kill(child, signal.SIGKILL))
        _, code = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(code) & 0xFF)
    jail.LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)
    _root(options["binds"])
    jail.LIBC.sethostname(b"box", 3)


def _root(binds: dict[str, str]) -> None:
    """Build the new root on a tmpfs and pivot into it."""
    jail.mount(None, "/", None, jail.MS_REC | jail.MS_PRIVATE)
    sources = {path: os.open(source, os.O_PATH) for path, source in binds.items() if not os.path.islink(source)}
    links = {path: os.readlink(path) for path in ("/bin", "/sbin", "/lib", "/lib64", "/lib32") if os.path.islink(path)}
    devices = {name: os.open(f"/dev/{name}", os.O_PATH) for name in DEVICES}
    jail.mount("tmpfs", "/tmp", "tmpfs", jail.MS_NOSUID | jail.MS_NODEV, "size=1m,mode=0755")
    os.chdir("/tmp")
    for path, fd in sources.items():
        target = "/tmp" + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            os.makedirs(target, exist_ok=True)
        else:
            open(target, "w").close()
        jail.mount(f"/proc/self/fd/{fd}", target, None, jail.MS_BIND | jail.MS_REC)
        _read_only(target)
        os.close(fd)
    for path, target in links.items():
        if not os.path.lexists("/tmp" + path):
            os.symlink(target, "/tmp" + path)
    for name in ("box/0", "srv", "proc", "dev", "old", "var"):
        os.makedirs(f"/tmp/{name}", exist_ok=True)
    os.makedirs("/tmp/dev/shm")
    for name, fd in devices.items():
        open(f"/tmp/dev/{name}", "w").close()
        jail.mount(f"/proc/self/fd/{fd}", f"/tmp/dev/{name}", None, jail.MS_BIND)
        os.close(fd)
    for name, target in (("stdin", "0"), ("stdout", "1"), ("stderr", "2")):
        os.symlink(f"/proc/self/fd/{target}", f"/tmp/dev/{name}")
    os.symlink("/proc/self/fd", "/tmp/dev/fd")
    os.symlink("/box/0/tmp", "/tmp/tmp")
    os.symlink("/box/0/tmp", "/tmp/var/tmp")
    jail.mount("tmpfs", "/tmp/srv", "tmpfs", jail.MS_NOSUID | jail.MS_NODEV, "size=128m,mode=0755")
    jail.mount("proc", "/tmp/proc", "proc", jail.MS_NOSUID | jail.MS_NODEV | 8)
    jail.check(jail.LIBC.syscall(PIVOT_ROOT, b"/tmp", b"/tmp/old"), "pivot_root")
    os.chdir("/")
    jail.check(jail.LIBC.umount2(b"/old", MNT_DETACH), "umount of the old root")
    os.rmdir("/old")
    jail.mount(None, "/", None, jail.MS_REMOUNT | jail.MS_BIND | jail.MS_RDONLY | jail.MS_NOSUID | jail.MS_NODEV)


def _read_only(target: str) -> None:
    attributes = struct.pack("QQQQ", 1 | 2 | 4, 0, 0, 0)  # read-only, nosuid, nodev
    jail.check(
        jail.LIBC.syscall(MOUNT_SETATTR, -100, target.encode(), AT_RECURSIVE, attributes, len(attributes)),
        f"read-only {target}",
    )
