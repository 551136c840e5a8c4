"""An app behind a real socket, `h1r serve` as a process, and waiting for what must happen."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2
import uvicorn


@contextmanager
def serving(made) -> Iterator[str]:
    """Serve an ASGI app in this process; yields its address."""
    bound = socket.create_server(("127.0.0.1", 0), backlog=2048)
    server = uvicorn.Server(uvicorn.Config(made, log_level="critical"))
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`h1r serve` with these arguments, once it answers; and its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    vector = [sys.executable, "-m", "h1r", "serve", *arguments, "--port", str(port)]
    running = subprocess.Popen(vector, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert running.poll() is None, running.stderr.read() if running.stderr else ""
        try:
            return httpx2.get(f"{url}/health", timeout=5).status_code == 200
        except httpx2.TransportError:
            return False

    try:
        until(answers, 100)
        yield running, url
    finally:
        running.kill()
        running.wait()


def until(so: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for it; an AssertionError when it does not come."""
    deadline = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
