"""Run a command so that nothing of it outlives whoever started it: `python keeper.py COMMAND ...`.

The command gets a process group of its own, which is ended when the command ends (a server's workers often stay), when this
process is told to end, and when the other end of its standard input closes, as it does when its holder is killed.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

GRACE = 15.0  # seconds between asking a group to end and ending it


def main(command: list[str]) -> int:
    """The command's exit code."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, frame: asked.append(n))
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    held = True
    while held and not asked and child.poll() is None:
        readable, _, _ = select.select([0], [], [], 0.2)
        held = not readable or bool(os.read(0, 1))
    end(child)
    return child.wait()


def end(child: subprocess.Popen[bytes]) -> None:
    """End the group, first politely."""
    deadline = time.monotonic() + GRACE
    tell(child.pid, signal.SIGTERM)
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    tell(child.pid, signal.SIGKILL)


def tell(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
