"""Backends that need a program an operator has set up: docker or podman with an image, runsc (gVisor) with this machine's files.

The container is the outer wall, one per session: no network, no capability, read-only but for small tmpfs folders, an
unprivileged user. Inside runs the same server over pipes; Landlock (where the kernel offers it), seccomp and rlimits hold each
test, and its process tree is killed by looking for it. Named, never chosen: `docker`, `docker:IMAGE`, `podman:IMAGE`, `runsc`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from h1r.errors import SandboxError
from h1r.verify.sandbox.bwrap import INSIDE, START

IMAGE = "python:3.12-slim"
ENGINES = ("docker", "podman")
VISIBLE = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/alternatives", "/opt")
NOBODY = 65534
MEMORY = 4 << 30  # bytes of the whole container
FOLDERS = {"/tmp": 256, "/dev/shm": 32}  # MiB of what may be written


def command(backend: str, python: str, binds: Mapping[str, str], options: str) -> tuple[list[str], str]:
    """(command line that starts the server inside, a folder to delete afterwards or ""). Raises SandboxError."""
    name, _, image = backend.partition(":")
    if shutil.which(name) is None:
        raise SandboxError(f"sandbox {name}: no such program here; install it, or choose another backend")
    if name == "runsc":
        return _gvisor(python, binds, options)
    limits = [f"--memory={MEMORY}", "--pids-limit=256", "--ulimit=nofile=1024:1024", "--ulimit=nproc=512:512"]
    folders = [f"--tmpfs={path}:rw,exec,nosuid,nodev,size={size}m,mode=1777" for path, size in FOLDERS.items()]
    walls = ["--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", f"--user={NOBODY}"]
    mount = f"--volume={INSIDE}:/h1r/inside:ro"
    start = ["python3", "-I", "-S", "-B", "-c", START, options]
    return [name, "run", "--rm", "--interactive", *walls, *limits, *folders, mount, image or IMAGE, *start], ""


def _gvisor(python: str, binds: Mapping[str, str], options: str) -> tuple[list[str], str]:
    """An OCI bundle: an empty root in which only what the interpreter needs is bound, read-only."""
    folder = tempfile.mkdtemp(prefix="h1r-runsc-")
    root = Path(folder, "root")
    mounts = [{"destination": "/proc", "type": "proc", "source": "proc"}]
    for path, source in binds.items():
        if os.path.islink(source):
            link = root / path.lstrip("/")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.readlink(source))
            continue
        mounts.append({"destination": path, "type": "bind", "source": source, "options": ["rbind", "ro"]})  # type: ignore[dict-item]
    mounts.append(
        {"destination": "/h1r/inside", "type": "bind", "source": str(INSIDE), "options": ["rbind", "ro"]}  # type: ignore[dict-item]
    )
    for path, size in FOLDERS.items():
        size_of = [f"size={size}m", "mode=1777"]
        mounts.append({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": size_of})  # type: ignore[dict-item]
    for mount in mounts:
        place = root / str(mount["destination"]).lstrip("/")
        if mount["type"] == "bind" and Path(str(mount["source"])).is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        else:
            place.mkdir(parents=True, exist_ok=True)
    bundle = {
        "ociVersion": "1.0.0",
        "root": {"path": "root", "readonly": True},
        "mounts": mounts,
        "hostname": "box",
        "process": {
            "terminal": False, "cwd": "/", "user": {"uid": NOBODY, "gid": NOBODY}, "noNewPrivileges": True,
            "args": [python, "-I", "-S", "-B", "-c", START, options], "env": ["PATH=/usr/bin:/bin"], "capabilities": {},
        },
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "resources": {"memory": {"limit": MEMORY}},
        },
    }  # fmt: skip
    Path(folder, "config.json").write_text(json.dumps(bundle))
    state = f"--root={folder}/state"
    ours = [] if os.geteuid() == 0 else ["--rootless"]
    return [
        "runsc", *ours, state, "--network=none", "--ignore-cgroups", "run", f"--bundle={folder}", Path(folder).name
    ], folder  # fmt: skip
