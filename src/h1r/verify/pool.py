"""Warm workers that can be killed: the deadline is kept from outside, so it holds for any computation whatsoever.

`Pool.judge` may be called from any thread (and so, through a thread, from asyncio or an actor). Nothing here uses
signals in the calling process. A worker that misses its deadline is killed through its pidfd and replaced by a fork
of the warm zygote; workers are also replaced after RECYCLE verdicts, so that no cache grows for ever, and when they died
or wore out between two verdicts. A deadline missed for want of processor time is the machine's doing, a worker that ends
before it has read the gold is not the answer's: such a verdict is tried once more, then unscored, never incorrect.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from h1r.errors import H1RError
from h1r.verify.policy import Policy

DEADLINE = 1.6  # seconds of wall time for one verdict
STARVED = 0.25  # a worker that got a smaller share of its deadline as processor time was kept waiting by the machine
START = 60.0  # seconds a zygote may take to import everything, on a busy machine
RECYCLE = 2000  # verdicts per worker
WORN = 60.0  # seconds of processor time after which a worker is replaced, well before its own limit


class WorkerError(H1RError):
    """The verifier's own process would not start or broke: the verdict is unscored."""


class _Worker:
    """One forked worker: its socket, its pidfd, how often it was used."""

    def __init__(self, channel: socket.socket, pidfd: int) -> None:
        self.channel, self.pidfd, self.used = channel, pidfd, 0
        self.stream = channel.makefile("rb")

    def processor_seconds(self) -> float:
        """Processor time of the worker's life; infinite where the system does not tell."""
        try:
            with open(f"/proc/self/fdinfo/{self.pidfd}") as f:
                pid = next(int(line.split()[1]) for line in f if line.startswith("Pid:"))
            with open(f"/proc/{pid}/stat") as f:
                fields = f.read().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, StopIteration, ValueError, IndexError):
            return float("inf")

    def fit(self) -> bool:
        """Alive, and far from the limit of its processor time, where the system tells it."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        spent = self.processor_seconds()
        return not poll.poll(0) and (spent < WORN or spent == float("inf"))

    def kill(self) -> None:
        with suppress(OSError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        with suppress(OSError):
            os.close(self.pidfd)
        self.stream.close()
        self.channel.close()


class Pool:
    """Up to `size` workers, started when first needed, ended by `close` or with the interpreter."""

    def __init__(self, size: int | None = None, deadline: float = DEADLINE) -> None:
        self.deadline = deadline
        self.size = size or max(1, min(8, os.cpu_count() or 1))
        self.lock = threading.Lock()
        self.zygote: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None
        self.idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        for _ in range(self.size):
            self.idle.put(None)

    def judge(self, gold: str, answer: str, policy: Policy) -> dict[str, Any]:
        """The worker's verdict; {"verdict": "limit"} when the answer ran it out of time or memory.
        Raises WorkerError when the fault is ours."""
        return self.ask({"gold": gold, "answer": answer, "policy": asdict(policy)})

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """One request, one reply, whatever worker is free."""
        request = json.dumps(message).encode() + b"\n"
        worker = self.idle.get()
        try:
            if worker is not None and not worker.fit():
                worker.kill()
                worker = None
            worker = worker or self._fork()
            reply, worker = self._ask(worker, request)
            if reply["verdict"] == "again":
                worker = self._fork()
                reply, worker = self._ask(worker, request)
            if reply["verdict"] == "again":
                reply = {**reply, "verdict": "unscored"}
        except BaseException:
            if worker is not None:
                worker.kill()
            self.idle.put(None)
            raise
        self.idle.put(worker)
        return reply

    def _ask(self, worker: _Worker, request: bytes) -> tuple[dict[str, Any], _Worker | None]:
        end = time.monotonic() + self.deadline
        before = worker.processor_seconds()
        worker.used += 1
        stage = "gold"
        try:
            worker.channel.settimeout(self.deadline)
            worker.channel.sendall(request)
            while True:
                worker.channel.settimeout(max(0.01, end - time.monotonic()))
                line = worker.stream.readline()
                if line == b"ready\n":
                    stage = "answer"
                    continue
                if not line:
                    raise ConnectionResetError
                reply = json.loads(line)
                break
        except TimeoutError:
            spent = worker.processor_seconds() - before
            worker.kill()
            if spent < STARVED * self.deadline:
                why = f"got {spent:.2f} s of processor time; the machine is overloaded"
                return _limit(stage, why) | {"verdict": "again"}, None
            return _limit(stage, "took too long"), None
        except (ConnectionError, ValueError):
            worker.kill()
            reply = _limit(stage, "ended the worker (memory or processor time)")
            return reply | ({"verdict": "again"} if stage == "gold" else {}), None
        if reply["verdict"] == "limit" or worker.used >= RECYCLE:
            worker.kill()
            return reply, None
        return reply, worker

    def _fork(self) -> _Worker:
        with self.lock:
            for attempt in (0, 1):
                if self.zygote is None or self.zygote.poll() is not None or self.control is None:
                    self._start()
                assert self.control is not None
                try:
                    self.control.settimeout(START)
                    self.control.sendall(b"f")
                    _, fds, _, _ = socket.recv_fds(self.control, 1, 2)
                    if len(fds) == 2:
                        return _Worker(socket.socket(fileno=fds[0]), fds[1])
                except OSError as e:
                    if attempt:
                        raise WorkerError(
                            f"the verifier's worker would not start ({e}); is the machine out of memory?"
                        ) from None
                self._stop()
        raise WorkerError("the verifier's worker would not start; run `python -m h1r.verify.worker` by hand to see why")

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        environment = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "VIRTUAL_ENV", "TMPDIR")}
        environment |= {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "h1r.verify.worker", str(theirs.fileno())]
        self.zygote = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True, env=environment
        )
        theirs.close()
        self.control = ours

    def _stop(self) -> None:
        if self.control is not None:
            self.control.close()
        if self.zygote is not None:
            self.zygote.kill()
            self.zygote.wait()
        self.zygote = self.control = None

    def close(self) -> None:
        """End every idle worker and the zygote (busy workers end with it)."""
        for _ in range(self.size):
            with suppress(queue.Empty):
                worker = self.idle.get_nowait()
                if worker is not None:
                    worker.kill()
                self.idle.put(None)
        with self.lock:
            self._stop()


def _limit(stage: str, what: str) -> dict[str, Any]:
    verdict = "unscored" if stage == "gold" else "limit"
    return {"verdict": verdict, "why": f"limit: the {stage} {what}", "tier": "limit", "gold": "", "answer": ""}


@functools.cache
def _of(pid: int) -> Pool:
    pool = Pool()
    atexit.register(pool.close)
    return pool


def default() -> Pool:
    """This process's pool (a forked child gets its own)."""
    return _of(os.getpid())
