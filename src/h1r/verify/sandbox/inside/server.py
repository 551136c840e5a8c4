"""The fork-server: requests over one socket, each answered by one dictionary. Runs inside the outer wall, trusted.

    {"op": "hello"}                                             -> what it may do: namespaces, Landlock, seccomp, uid
    {"op": "load", "language", "code", "compile", "run", ...}   -> {"status": "ok"} or {"status": "compile_error", "err"}
    {"op": "test", "mode": "stdin" | "call" | "assert", ...}    -> status, out, err, value, cpu, wall

A status is ok, runtime_error, timeout, memory, output_limit or, for asserts, fail. The server never sees an expected value.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from . import drive, files, jail, official, rpc, seccomp, wire

TICK = 0.05  # seconds between looks at memory
ERR_BYTES = 16_384
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/box/0/work", "TMPDIR": "/box/0/tmp",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
}  # fmt: skip


class Server:
    """Holds the candidate that was loaded last."""

    def __init__(self, channel: socket.socket | wire.Pipes, frame: jail.Frame) -> None:
        self.channel, self.frame = channel, frame
        self.code = ""
        self.argv: list[str] = []
        self.programs = jail.PROGRAMS if frame.nested else jail.fresh_folder()
        if not frame.nested:
            os.chmod(self.programs, 0o755)
            self.frame = frame._replace(readable=(*frame.readable, self.programs))

    def loop(self) -> None:
        while (request := wire.receive(self.channel)) is not None:
            try:
                reply = getattr(self, "do_" + request["op"])(request)
            except Exception as e:  # reported to the host, which counts it as ours
                reply = {"status": "broken", "err": f"{type(e).__name__}: {e}"}
            wire.send(self.channel, reply)
        if not self.frame.nested:
            jail.remove(self.programs)

    def do_hello(self, request: dict[str, Any]) -> dict[str, Any]:
        frame = self.frame
        return {"status": "ok", "nested": frame.nested, "uid": frame.uid, "landlock": frame.landlock, "seccomp": frame.seccomp,
                "python": sys.version.split()[0]}  # fmt: skip

    def do_load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take a candidate; compile it where its language asks for that."""
        self.code, self.argv = request["code"], []
        if request["language"] == "python":
            drive.ready(self.code)
            return {"status": "ok"}
        limits = wire.limits(request["limits"])
        program = os.path.join(self.programs, "program")
        source = request["source"]

        def build() -> None:
            with open(source, "w", encoding="utf-8", errors="surrogateescape") as f:
                f.write(self.code)
            pid = os.fork()
            if pid == 0:
                os.dup2(2, 1)
                drive.execute(request["compile"], ENVIRONMENT | {"TMPDIR": os.getcwd()})
            _, code = os.waitpid(pid, 0)
            if code:
                os._exit(1)
            with open("program", "rb") as f:
                while piece := f.read(1 << 20):
                    view = memoryview(piece)
                    while view:
                        view = view[os.write(drive.RESULT, view) :]

        body = build
        if not request["compile"]:
            data = self.code.encode("utf-8", "surrogateescape")
            wire.write(program, data)
        else:
            reply, result = self.run(body, b"", limits, keep=64 << 20)
            if reply["status"] != "ok" or not result:
                reason = reply["status"] if reply["status"] not in ("ok", "runtime_error") else "compile_error"
                return {**reply, "status": "compile_error" if reason != "timeout" else "timeout"}
            wire.write(program, result)
        self.argv = [a.replace("{program}", program) for a in request["run"]]
        return {"status": "ok"}

    def do_test(self, request: dict[str, Any]) -> dict[str, Any]:
        limits, mode = wire.limits(request["limits"]), request["mode"]
        nonce = os.urandom(16).hex()
        if mode == "assert":
            return self.asserts(request, limits, nonce)
        if mode == "official":
            reply, result = self.run(
                lambda: official.run(self.code, request["fn"], request["tests"], request["seconds"], nonce), b"", limits
            )
            return {**reply, "value": [m for line in result.splitlines() if (m := wire.parsed(line, nonce))]}
        if mode == "call":
            arguments = request["args"]
            reply, result = self.run(lambda: drive.call(self.code, request["fn"], arguments, nonce), b"", limits)
            return wire.called(reply, result, nonce)
        data = request.get("stdin", "").encode("utf-8", "surrogateescape")
        if self.argv:
            body: Callable[[], None] = lambda: drive.execute(self.argv, ENVIRONMENT | {"TMPDIR": os.getcwd()})  # noqa: E731
        else:
            body = lambda: drive.program(self.code)  # noqa: E731
        if request.get("files") or request.get("fetch"):
            carried = files.carry(request.get("files", {}), request.get("fetch", []), body)
            reply, result = self.run(carried, data, limits, keep=64 << 20)
            return {**reply, "value": json.loads(result) if result else {}}
        return self.run(body, data, limits)[0]

    def asserts(self, request: dict[str, Any], limits: jail.Limits, nonce: str) -> dict[str, Any]:
        """Candidate and tester, each in its own process and namespaces, joined by two pipes."""
        to_candidate, to_tester = os.pipe(), os.pipe()
        other = _Child(
            self,
            lambda: rpc.serve(self.code),
            b"",
            limits,
            {rpc.LINK_IN: to_candidate[0], rpc.LINK_OUT: to_tester[1]},
        )
        text, entry = request["text"], request.get("fn")
        child = _Child(
            self,
            lambda: rpc.tester(text, entry, nonce),
            b"",
            limits,
            {rpc.LINK_IN: to_tester[0], rpc.LINK_OUT: to_candidate[1]},
        )
        for fd in (*to_candidate, *to_tester):
            os.close(fd)
        reply, result = child.wait(partner=other)
        candidate, _ = other.end()
        message = wire.parsed(result, nonce)
        merged = {**reply, "err": candidate["err"][-ERR_BYTES:], "cpu": reply["cpu"] + candidate["cpu"]}
        if message is None:
            return {**merged, "status": reply["status"] if reply["status"] != "ok" else "runtime_error"}
        if message.get("gone"):
            bad = candidate["status"] if candidate["status"] not in ("ok", "killed") else "runtime_error"
            return {**merged, "status": bad}
        if message.get("ok"):
            return {**merged, "status": "ok"}
        status = "fail" if "failed" in message else "runtime_error"
        return {**merged, "status": status, "err": message.get("failed") or message.get("error", "")}

    def run(
        self, body: Callable[[], None], stdin: bytes, limits: jail.Limits, keep: int = 0
    ) -> tuple[dict[str, Any], bytes]:
        return _Child(self, body, stdin, limits, {}, keep).wait()


class _Child:
    """One test's process: pipes, memory of what came out of them, its end."""

    def __init__(
        self,
        server: Server,
        body: Callable[[], None],
        stdin: bytes,
        limits: jail.Limits,
        links: dict[int, int],
        keep: int = 0,
    ) -> None:
        self.server, self.limits, self.keep = server, limits, keep or limits.output
        memory = os.memfd_create("stdin", os.MFD_CLOEXEC)
        wire.write_all(memory, stdin)
        source = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY) if os.path.exists("/proc/self/fd") else os.dup(memory)
        os.lseek(source, 0, os.SEEK_SET)
        os.close(memory)
        pipes = {1: os.pipe(), 2: os.pipe(), drive.RESULT: os.pipe()}
        status = os.pipe()
        self.work = "" if server.frame.nested else jail.fresh_folder(server.frame.uid)
        os.environ["H1R_WORK"] = self.work
        self.start = time.monotonic()
        fds = {0: source, **{n: p[1] for n, p in pipes.items()}, **links}
        self.pid = jail.spawn(server.frame, limits, body, status[1], fds)
        self.read = {p[0]: n for n, p in pipes.items()}
        self.got: dict[int, bytearray] = {n: bytearray() for n in pipes}
        self.status = status[0]
        for fd in (source, status[1], *(p[1] for p in pipes.values())):
            os.close(fd)
        self.ended = -1
        if not server.frame.nested:
            with suppress(OSError):  # gVisor has none: then it is looked after more often
                self.ended = os.pidfd_open(self.pid)
        self.tick = TICK if server.frame.nested or self.ended >= 0 else TICK / 25
        self.code: int | None = None
        self.cpu = 0.0
        self.reason = ""
        self.done = False

    def wait(self, partner: _Child | None = None) -> tuple[dict[str, Any], bytes]:
        """Until it ends or breaks a limit."""
        watch = [self, *([partner] if partner else [])]
        deadline = self.start + self.limits.timeout
        while not self.reason and self.code is None:
            left = deadline - time.monotonic()
            if left <= 0:
                self.reason = "timeout"
                break
            owners = {fd: c for c in watch for fd in (*c.read, c.status) if fd >= 0}
            ends = [c.ended for c in watch if c.ended >= 0]
            ready, _, _ = select.select([*owners, *ends], [], [], min(self.tick, left))
            for fd in ready:
                if fd in owners:
                    owners[fd].drain(fd)
            if not self.server.frame.nested:
                self.reap()
            if self.server.frame.lenient and len(jail.tree(os.getpid())) > self.limits.processes + 4:
                self.reason = "memory"
            if time.monotonic() - self.start > TICK and self.overweight():
                self.reason = "memory"
        return self.end()

    def drain(self, fd: int) -> None:
        if fd == self.status:
            data = os.read(fd, 64)
            if len(data) == struct.calcsize("if"):
                self.code, self.cpu = struct.unpack("if", data)
            elif self.code is None and self.server.frame.nested:
                self.code = 9  # its init died: whatever happened, it did not end well
            os.close(fd)
            self.status = -1
            return
        number = self.read[fd]
        data = os.read(fd, 1 << 20)
        if not data:
            os.close(fd)
            del self.read[fd]
            return
        limit = ERR_BYTES * 4 if number == 2 else self.keep
        room = limit - len(self.got[number])
        self.got[number] += data[: max(0, room)]
        if len(data) > room and number != 2:
            self.reason = "output_limit"

    def reap(self) -> None:
        pid, code, used = os.wait4(self.pid, os.WNOHANG)
        if pid:
            self.code, self.cpu = code, used.ru_utime + used.ru_stime

    def overweight(self) -> bool:
        """Whether its processes together hold more than the limit, what they inherited from the server not counted."""
        pids = jail.tree(os.getpid())
        inherited = jail.resident([os.getpid()]) * len(pids)
        return len(pids) > 0 and jail.resident(pids) - inherited > self.limits.memory

    def end(self) -> tuple[dict[str, Any], bytes]:
        """Kill what is left, read what is still in the pipes, and say how it went."""
        if self.done:
            return self.summary()
        self.done = True
        killed = self.code is None and not self.reason
        if self.reason == "timeout":
            self.cpu = jail.processor(jail.tree(os.getpid()))
        if self.server.frame.nested:
            self.kill()
        else:
            self.kill_tree()
        for fd in list(self.read):
            os.set_blocking(fd, False)
            try:
                while fd in self.read:
                    self.drain(fd)
                    if self.reason == "output_limit":
                        break
            except BlockingIOError:
                pass
        for fd in (*self.read, self.status):
            if fd >= 0:
                os.close(fd)
        self.read, self.status = {}, -1
        if self.ended >= 0:
            os.close(self.ended)
            self.ended = -1
        if self.work:
            jail.remove(self.work)
        if killed:
            self.reason = "killed"
        return self.summary()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        if self.status >= 0 and self.code is None:
            ready, _, _ = select.select([self.status], [], [], 0)
            if ready:
                self.drain(self.status)
        os.waitpid(self.pid, 0)

    def kill_tree(self) -> None:
        """Without namespaces: every descendant, again and again until none is left (the server is their subreaper)."""
        for _ in range(2000):
            for pid in jail.tree(os.getpid()):
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            try:
                while True:
                    pid, code, used = os.wait4(-1, os.WNOHANG)
                    if pid == 0:
                        break
                    if pid == self.pid and self.code is None and not self.reason:
                        self.code, self.cpu = code, used.ru_utime + used.ru_stime
            except ChildProcessError:
                return
            time.sleep(0.001)

    def summary(self) -> tuple[dict[str, Any], bytes]:
        wall = time.monotonic() - self.start
        err = bytes(self.got[2]).decode("utf-8", "replace")
        reply = {
            "status": self.verdict(err), "code": self.code, "out": bytes(self.got[1]).decode("utf-8", "replace"),
            "err": err[-ERR_BYTES:], "cpu": round(self.cpu, 4), "wall": round(wall, 4),
        }  # fmt: skip
        return reply, bytes(self.got[drive.RESULT])

    def verdict(self, err: str) -> str:
        if self.reason:
            return self.reason
        code = self.code or 0
        if code == 0:
            return "ok"
        if "h1r-jail:" in err[:200]:
            return "broken"
        if os.WIFSIGNALED(code):
            signals = {signal.SIGXCPU: "timeout", signal.SIGXFSZ: "disk_limit"}
            if os.WTERMSIG(code) == signal.SIGKILL and self.cpu >= self.limits.timeout * 0.95:
                return "timeout"
            return signals.get(signal.Signals(os.WTERMSIG(code)), "runtime_error")
        last = err.rstrip().rsplit("\n", 1)[-1]
        return (
            "memory" if last.startswith(("MemoryError", "std::bad_alloc")) or "bad_alloc" in last else "runtime_error"
        )


def main(options: dict[str, Any]) -> None:
    """Serve on descriptor 0 until it closes. options: nested, uid, readable, landlock, seccomp."""
    sock = stat.S_ISSOCK(os.fstat(0).st_mode)
    channel: Any = socket.socket(fileno=os.dup(0)) if sock else wire.Pipes(os.dup(0), os.dup(1))
    empty = os.open("/dev/null", os.O_RDWR)
    os.dup2(empty, 0)
    os.dup2(empty, 1)
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    jail.LIBC.prctl(36, 1, 0, 0, 0)  # subreaper
    nested = jail.nesting(options["nested"])
    uid = options["uid"] if os.getuid() == 0 and options["uid"] else 0
    fenced, paths = options["landlock"] and jail.landlock_abi() > 0, tuple(options["readable"])
    ruleset = jail.landlock(paths, (jail.BOXES, "/dev")) if fenced and nested else -1
    frame = jail.Frame(nested, uid, paths, fenced, options["seccomp"], options.get("lenient", False), ruleset)
    if options["seccomp"]:
        seccomp.program()
    drive.warm()
    sys.path += [p for p in options.get("site", ()) if p not in sys.path]
    gc.collect()
    gc.freeze()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Server(channel, frame).loop()
