"""The outer wall made by bubblewrap: as an ordinary user through user namespaces, as root without them.

As root the mounts are made by root, the server keeps only what it needs to wall in each test, and every test runs as
an unprivileged user of its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

INSIDE = Path(__file__).parent / "inside"
START = "import sys, json; sys.path.insert(0, '/h1r'); from inside import server; server.main(json.loads(sys.argv[1]))"
KEPT = (
    "CAP_SYS_ADMIN",
    "CAP_SETUID",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_KILL",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_SYS_PTRACE",
)


def available() -> str:
    """Path of the program, or nothing. Whether it works is for the self-test to say."""
    return shutil.which("bwrap") or ""


def command(python: str, binds: Mapping[str, str], options: str, root: bool) -> list[str]:
    """The command line that starts the server inside. binds: paths inside, and what is shown there, read-only."""
    words = [
        available() or "bwrap",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
    ]
    words += [] if root else ["--unshare-user"]
    for capability in KEPT:
        words += ["--cap-add", capability]
    for folder in sorted({str(p) for path in binds for p in Path(path).parents if str(p) != "/"}):
        if not any(folder == r or folder.startswith(r + "/") for r in binds):
            words += ["--perms", "0755", "--dir", folder]  # else it would be closed to the users tests run as
    for path, source in binds.items():
        words += ["--symlink", os.readlink(source), path] if os.path.islink(source) else ["--ro-bind", source, path]
    words += [
        "--ro-bind",
        str(INSIDE),
        "/h1r/inside",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--dir",
        "/box/0",
        "--dir",
        "/var",
    ]
    words += ["--perms", "0755", "--size", str(128 << 20), "--tmpfs", "/srv"]
    words += ["--symlink", "/box/0/tmp", "/tmp", "--symlink", "/box/0/tmp", "/var/tmp"]
    words += ["--remount-ro", "/dev", "--remount-ro", "/", "--hostname", "box", "--chdir", "/", "--clearenv"]
    return [*words, "--", python, "-I", "-S", "-B", "-c", START, options]
