"""Runs programs of models. First lines say what it covers, and what it does not.

COVERED, at level strong (backends bwrap and native), for each single test: no network, no host files beyond a read-only
/usr and interpreter, no host process visible or reachable, no inherited environment, a fresh folder, a fresh process
tree that dies with the test, limits on time, memory, processes, output and files, no system call for mounts, tracing,
namespaces, keys. At level reduced (landlock): files, TCP, signals and system calls are fenced and the tree is killed,
but processes of the host can be counted and UDP is stopped by seccomp alone. At level none: limits, nothing else.
NOT COVERED: a hole in the kernel itself, side channels, wear of the processor. Who fears those puts a virtual machine around it.

    open() -> Sandbox            the strongest backend whose self-test, an attempt to escape, fails to escape
    Sandbox.session()            a started sandbox for one candidate at a time
"""

from __future__ import annotations

import atexit
import functools
import os
import queue
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from h1r.errors import SandboxError
from h1r.verify.sandbox.session import LEVELS, RECYCLE, Limits, Result, Session

ORDER = ("bwrap", "native")


class Sandbox:
    """A backend and its warm sessions, one per worker, started when first needed. Safe to use from many threads."""

    def __init__(self, backend: str, size: int | None = None) -> None:
        self.backend, self.level = backend, LEVELS[backend.partition(":")[0]]
        self.size = size or max(1, os.cpu_count() or 1)
        self.idle: queue.LifoQueue[tuple[int, Session | None]] = queue.LifoQueue()
        for slot in range(self.size):
            self.idle.put((slot, None))

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session of one's own for the time of the block; a broken one is replaced next time."""
        slot, session = self.idle.get()
        try:
            if session is None or not session.alive or session.tests >= RECYCLE:
                if session is not None:
                    session.close()
                session = None
                session = Session(self.backend, slot)
            yield session
        finally:
            self.idle.put((slot, session if session is not None and session.alive else None))

    def close(self) -> None:
        """End all idle sessions."""
        held = []
        with suppress(queue.Empty):
            while True:
                held.append(self.idle.get_nowait())
        for slot, session in held:
            if session is not None:
                session.close()
            self.idle.put((slot, None))


def open(backend: str | None = None, *, unsafe: bool = False, size: int | None = None) -> Sandbox:
    """The named backend, or the strongest that proves itself. landlock, docker:IMAGE, podman:IMAGE, runsc and the URL of a
    SandboxFusion server only by name; none only with unsafe=True.

    Raises SandboxError, saying what failed and what to do, when none proves itself.
    """
    from h1r.verify.sandbox import probe

    if backend == "none" or (backend is None and unsafe):
        if not unsafe:
            raise SandboxError("backend none isolates nothing: it needs --unsafe-no-sandbox")
        if backend == "none":
            return _keep(Sandbox("none", size))
    if backend and backend.startswith(("http://", "https://")):
        from h1r.verify.sandbox.fusion import Fusion

        return Fusion(backend, size or 8)  # type: ignore[return-value]  # stands in for a Sandbox: session, level, close
    reasons = []
    for name in (backend,) if backend else ORDER:
        trouble = probe.trouble(name)
        if not trouble:
            return _keep(Sandbox(name, size))
        reasons.append(f"{name}: {trouble}")
    if unsafe:
        return _keep(Sandbox("none", size))
    if backend:
        raise SandboxError(f"{'; '.join(reasons)}; mend that, or leave the choice to h1r by naming no sandbox")
    raise SandboxError(
        f"no sandbox holds here ({'; '.join(reasons)}); install bubblewrap or allow user namespaces, "
        "or choose --sandbox landlock, or take the risk with --unsafe-no-sandbox"
    )


def _keep(sandbox: Sandbox) -> Sandbox:
    atexit.register(sandbox.close)
    return sandbox


@functools.cache
def _of(pid: int) -> Sandbox:
    return open()


def default() -> Sandbox:
    """This process's sandbox, chosen once."""
    return _of(os.getpid())


__all__ = ["LEVELS", "ORDER", "Limits", "Result", "Sandbox", "Session", "default", "open"]
