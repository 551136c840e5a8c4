"""The processes behind `pool`: a zygote that has everything imported, and workers forked from it in milliseconds.

    python -m h1r.verify.worker FD     FD: a unix socket; each byte "f" asks for a worker, and is answered with two
                                       descriptors, the worker's socket and its pidfd

A worker reads one JSON line per request, {"gold", "answer", "policy"}, writes "ready" once the gold is read, then its verdict.
It lives under its own address-space and CPU limits, and ends when its socket closes.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import socket
import sys
from typing import Any

from h1r.verify.policy import Policy

MEMORY = 1536 << 20  # bytes of address space
CPU = 120  # seconds in a worker's life
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def main(fd: int) -> None:
    """The zygote's loop: fork on demand until the socket closes, as it does when its holder ends in whatever way.
    (A death signal would come with the *thread* that started this process, which may be long gone before the holder.)"""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from h1r.verify.latex import judge, symbolic  # warm: everything a verdict needs is imported before the first fork

    symbolic.same(("sym", "x"), ("sym", "y"))
    symbolic.math_verify("1", "x+1")
    judge.judge("\\frac{1}{3}", "x", Policy())
    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=fd)
    while control.recv(1) == b"f":
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            control.close()
            ours.close()
            serve(theirs)
            os._exit(0)
        theirs.close()
        pidfd = os.pidfd_open(pid)
        socket.send_fds(control, [b"w"], [ours.fileno(), pidfd])
        os.close(pidfd)
        ours.close()


def serve(channel: socket.socket) -> None:
    """Answer requests until the socket closes."""
    from h1r.verify.latex import judge, symbolic

    _die_with_parent()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setrecursionlimit(4000)
    sys.set_int_max_str_digits(0)
    stream = channel.makefile("rwb")

    def ready() -> None:
        stream.write(b"ready\n")
        stream.flush()

    for line in stream:
        request = json.loads(line)
        verdict: dict[str, Any]
        try:
            if request.get("shadow"):
                opinion = symbolic.math_verify(request["gold"], request["answer"])
                verdict = {"verdict": "shadow", "shadow": opinion}
            else:
                verdict = judge.judge(request["gold"], request["answer"], Policy(**request["policy"]), ready)
        except (MemoryError, RecursionError) as e:
            verdict = {
                "verdict": "limit",
                "why": f"limit: {type(e).__name__}",
                "tier": "limit",
                "gold": "",
                "answer": "",
            }
        stream.write(json.dumps(verdict).encode() + b"\n")
        stream.flush()


def _die_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
