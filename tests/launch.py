"""Several processes of one program, joined as torchrun joins them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence


def launch(command: Sequence[str], size: int, timeout: float = 240, **env: str) -> list[tuple[int, str]]:
    """Run `python command...` on `size` ranks; (exit code, the end of what it wrote to stderr) of each."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    shared |= {"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": str(size)} | env
    ranks = [
        subprocess.Popen(
            [sys.executable, *command],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        return [(p.returncode, err[-3000:]) for p, err in [(p, p.communicate(timeout=timeout)[1]) for p in ranks]]
    finally:
        for p in ranks:
            p.kill()
