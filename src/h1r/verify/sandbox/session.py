"""The host's end of one sandbox: start it, send requests, keep the outermost deadline, kill it."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from h1r.errors import ConfigError, SandboxError
from h1r.verify.sandbox import bwrap, container, native

START = 30.0  # seconds to start, on a busy machine
GRACE = 15.0  # seconds beyond a test's own limit before the server counts as hung
RECYCLE = 3000  # tests per session
LEVELS = {
    "bwrap": "strong", "native": "strong", "docker": "strong", "podman": "strong", "runsc": "strong",
    "landlock": "reduced", "none": "none",
}  # fmt: skip
NESTED = ("bwrap", "native")
"""Backends that give every test namespaces of its own."""
CONTAINERS = ("docker", "podman", "runsc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one test: seconds, MiB of memory, of output and of files, processes."""

    timeout_s: float = 5.0
    memory_mb: int = 512
    output_mb: float = 8.0
    processes: int = 32
    disk_mb: int = 64

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value <= 0:
                raise ConfigError(f"{name}={value}: a limit must be above 0")


class Result(NamedTuple):
    """What a test did. status: ok, fail (asserts), runtime_error, timeout, memory, output_limit, disk_limit, compile_error."""

    status: str
    out: str = ""
    err: str = ""
    value: Any = None
    cpu: float = 0.0
    wall: float = 0.0
    code: int | None = None
    backend: str = ""


class Python(NamedTuple):
    """The interpreter inside: its path, and the folders it needs."""

    executable: str
    folders: tuple[str, ...]


def interpreter(world: bool = False) -> Python:
    """The interpreter this process runs on, outside any virtual environment; world: one every user may run."""
    prefix = os.path.realpath(sys.base_prefix)
    executable = os.path.realpath(getattr(sys, "_base_executable", sys.executable) or sys.executable)
    hidden = executable.startswith(COVERED) or prefix.startswith(COVERED)
    if (hidden or (world and not _reachable(executable))) and os.path.exists("/usr/bin/python3"):
        return Python("/usr/bin/python3", ())
    if hidden:
        raise SandboxError(
            f"the interpreter {executable} lies where a sandbox has its own folder; use one outside {COVERED}"
        )
    return Python(executable, () if prefix == "/usr" else (prefix,))


def _reachable(path: str) -> bool:
    """Whether users other than its owner may run a file."""
    folders = [path, *(str(p) for p in Path(path).parents)]
    return all(os.stat(p).st_mode & 0o001 for p in folders)


COVERED = ("/tmp/", "/var/", "/srv/", "/dev/", "/proc/", "/box/", "/h1r/")
"""Places that are a sandbox's own inside: nothing of the host can be shown there."""
PACKAGES = ("numpy", "scipy", "sympy", "mpmath", "pandas", "dateutil", "pytz", "six.py", "networkx", "sortedcontainers")
PLACE = "/h1r/packages"
"""Where they are inside, wherever the environment lies on this machine."""


def packages(python: Python) -> list[str]:
    """Folders of this environment's numeric packages that candidates may import, where the interpreter inside is ours."""
    if python.executable != interpreter().executable:
        return []
    found = []
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for name in PACKAGES:
            found += [p for p in (f"{folder}/{name}", f"{folder}/{name}.libs") if os.path.exists(p)]
    return sorted(os.path.realpath(p) for p in found)


def readable(python: Python) -> list[str]:
    """What is visible inside, read-only, where it is on this machine."""
    paths = [
        "/usr",
        "/bin",
        "/sbin",
        "/lib",
        "/lib64",
        "/lib32",
        "/etc/ld.so.cache",
        "/etc/alternatives",
        *python.folders,
    ]
    return [p for p in paths if os.path.exists(p)]


def shown(python: Python) -> dict[str, str]:
    """Every path inside and what is to be seen there, for backends with a root of their own."""
    return {p: p for p in readable(python)} | {f"{PLACE}/{os.path.basename(p)}": p for p in packages(python)}


class Pipes:
    """Two pipes with the manners of a socket, for servers in containers."""

    def __init__(self, into: int, out_of: int) -> None:
        self.into, self.out_of, self.timeout = into, out_of, START

    def settimeout(self, seconds: float) -> None:
        self.timeout = seconds

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if not select.select([], [self.into], [], self.timeout)[1]:
                raise TimeoutError("timed out")
            view = view[os.write(self.into, view[:4096]) :]

    def recv(self, count: int) -> bytes:
        if not select.select([self.out_of], [], [], self.timeout)[0]:
            raise TimeoutError("timed out")
        return os.read(self.out_of, count)

    def fileno(self) -> int:
        return self.into

    def close(self) -> None:
        for fd in (self.into, self.out_of):
            with suppress(OSError):
                os.close(fd)
        self.into = self.out_of = -1


class Session:
    """One started sandbox. Not thread-safe: one user at a time."""

    def __init__(self, backend: str, slot: int = 0) -> None:
        if backend.partition(":")[0] not in LEVELS:
            raise ConfigError(f"sandbox {backend!r} is unknown; there are {', '.join(LEVELS)}")
        self.backend, self.slot = backend, slot
        self.tests = 0
        self.started = time.monotonic()
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the session)
        self.folder = ""
        self.channel: socket.socket | Pipes
        python = interpreter(world=backend in ("landlock", "none") and os.geteuid() == 0)
        start: dict[str, Any] = {
            "stderr": self.log, "env": {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, "start_new_session": True, "cwd": "/"
        }  # fmt: skip
        try:
            command = self._command(python)
            if backend.partition(":")[0] in CONTAINERS:
                start["env"] = dict(os.environ)  # where an engine's client finds its engine; nothing of it goes inside
                self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **start)
                assert self.process.stdin and self.process.stdout
                self.channel = Pipes(os.dup(self.process.stdin.fileno()), os.dup(self.process.stdout.fileno()))
                self.process.stdin.close()
                self.process.stdout.close()
            else:
                self.channel, theirs = socket.socketpair()
                with theirs:
                    self.process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, **start)
        except OSError as e:
            self.log.close()
            raise SandboxError(f"sandbox {backend} would not start ({e})") from None
        self.hello = self.request({"op": "hello"}, START)
        if backend in NESTED and not self.hello.get("nested"):
            self.close()
            raise SandboxError(f"sandbox {backend} starts, but may not give each test namespaces of its own")

    def _command(self, python: Python) -> list[str]:
        root = os.geteuid() == 0
        name = self.backend.partition(":")[0]
        own = self.backend in NESTED or name == "runsc"  # a root of its own
        binds, beside = shown(python), packages(python)
        options = {
            "nested": self.backend in NESTED,
            "uid": _user(self.slot) if root else 0,
            "readable": [*readable(python), *([PLACE] if own else beside), *(("/proc", "/srv") if own else ())],
            "binds": binds,
            "site": [PLACE] if own else sorted({os.path.dirname(p) for p in beside}),
            "landlock": self.backend != "none",
            "seccomp": self.backend != "none",
        }
        if name in CONTAINERS:
            visible = options["readable"] if name == "runsc" else list(container.VISIBLE)
            options |= {"readable": visible, "uid": 0, "lenient": name == "runsc"}
            words, self.folder = container.command(self.backend, python.executable, binds, json.dumps(options))
            return words
        if self.backend == "bwrap":
            return bwrap.command(python.executable, binds, json.dumps(options), root)
        return native.command(python.executable, json.dumps(options), walls=self.backend == "native")

    def request(self, message: dict[str, Any], timeout: float) -> dict[str, Any]:
        """One answer, or SandboxError; after an error the session is dead."""
        data = json.dumps(message).encode()
        end = time.monotonic() + timeout
        try:
            self.channel.settimeout(timeout)
            self.channel.sendall(struct.pack("!I", len(data)) + data)
            size = struct.unpack("!I", self._read(4, end))[0]
            reply: dict[str, Any] = json.loads(self._read(size, end))
        except (OSError, ValueError, struct.error) as e:
            why = self.complaint() or f"{type(e).__name__} {e}"
            self.close()
            raise SandboxError(f"sandbox {self.backend} broke: {why}") from None
        if reply.get("status") == "broken":
            self.close()
            raise SandboxError(f"sandbox {self.backend} broke: {reply.get('err', '')[:300]}")
        return reply

    def _read(self, count: int, end: float) -> bytes:
        data = bytearray()
        while len(data) < count:
            self.channel.settimeout(max(0.01, end - time.monotonic()))
            piece = self.channel.recv(min(1 << 20, count - len(data)))
            if not piece:
                raise ConnectionResetError("it ended")
            data += piece
        return bytes(data)

    def complaint(self) -> str:
        """The last line it wrote on stderr, advice to read a program's help apart."""
        with suppress(OSError, ValueError):
            self.log.seek(0)
            written = self.log.read(20_000).decode("utf-8", "replace").splitlines()
            lines = [line.strip() for line in written if line.strip() and "--help" not in line]
            return lines[-1][:300] if lines else ""
        return ""

    def load(self, message: dict[str, Any], timeout: float) -> Result:
        return self._result(self.request({"op": "load", **message}, timeout + GRACE))

    def test(self, message: dict[str, Any], limits: Limits) -> Result:
        self.tests += 1
        return self._result(self.request({"op": "test", **message, "limits": asdict(limits)}, limits.timeout_s + GRACE))

    def _result(self, reply: dict[str, Any]) -> Result:
        known = {k: reply[k] for k in ("out", "err", "value", "cpu", "wall", "code") if k in reply}
        return Result(reply["status"], backend=self.backend, **known)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None and self.channel.fileno() >= 0

    def close(self) -> None:
        """End it and everything in it."""
        self.channel.close()
        process = getattr(self, "process", None)
        if process is not None:
            try:
                process.wait(0.3)
            except subprocess.TimeoutExpired:
                with suppress(OSError):
                    os.killpg(process.pid, 9)
                process.wait()
        self.log.close()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def _user(slot: int) -> int:
    """A user id for one session's tests, unlike that of any other running session: limits on processes count per user."""
    top = 0
    with suppress(OSError, ValueError), open("/proc/self/uid_map") as f:
        top = max(int(line.split()[0]) + int(line.split()[2]) for line in f)
    base, room = (200_000, 400_000) if top > 700_000 else (20_000, 30_000)
    return base + (os.getpid() * 16 + slot) % room
