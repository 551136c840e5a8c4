"""A program on a pseudo-terminal, typed at and looked at as through tmux: keystrokes in, lines of text out."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import pyte

COLUMNS, ROWS, HISTORY = 160, 40, 10_000
KEYS = {
    "Enter": "\r", "Escape": "\x1b", "Tab": "\t", "Space": " ", "BSpace": "\x7f", "Up": "\x1b[A", "Down": "\x1b[B",
    "Right": "\x1b[C", "Left": "\x1b[D", "Home": "\x1b[H", "End": "\x1b[F", "PageUp": "\x1b[5~", "PageDown": "\x1b[6~",
}  # fmt: skip


def typed(keystrokes: str) -> str:
    """What a terminal sends for a key's name (C-c, Escape, Up); any other text is itself."""
    if keystrokes in KEYS:
        return KEYS[keystrokes]
    if len(keystrokes) == 3 and keystrokes[:2] == "C-" and keystrokes[2].isalpha():
        return chr(ord(keystrokes[2].upper()) - 64)
    return keystrokes.replace("\n", "\r")


class Terminal:
    """One program and its screen. Not thread-safe. `before` runs in the child, before the program."""

    def __init__(self, argv: Sequence[str], env: dict[str, str], before: Callable[[], None] | None = None) -> None:
        self.fd, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))

        def child() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            if before is not None:
                before()

        try:
            self.process = subprocess.Popen(
                argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env, preexec_fn=child, close_fds=True
            )
        finally:
            os.close(theirs)
        self.screen = pyte.HistoryScreen(COLUMNS, ROWS, history=HISTORY, ratio=0.5)
        self.stream = pyte.ByteStream(self.screen)
        self.seen: list[str] = []

    def send(self, keystrokes: str, seconds: float) -> None:
        """Type, then wait. What the program does not read is lost, as at a terminal."""
        data = typed(keystrokes).encode()
        end = time.monotonic() + seconds
        while data and time.monotonic() < end + 5:
            _, ready, _ = select.select([], [self.fd], [], 1)
            if ready:
                try:
                    data = data[os.write(self.fd, data[:1024]) :]
                except OSError:
                    break
            self.wait(0)
        self.wait(max(0.0, end - time.monotonic()))

    def wait(self, seconds: float) -> None:
        """Let time pass and take in what is printed."""
        end = time.monotonic() + seconds
        while True:
            ready, _, _ = select.select([self.fd], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return
            try:
                data = os.read(self.fd, 1 << 16)
            except OSError as e:
                if e.errno == errno.EIO:  # the program ended
                    time.sleep(max(0.0, min(0.05, end - time.monotonic())))
                    return
                raise
            if not data:
                return
            self.stream.feed(data)

    def visible(self) -> str:
        """The screen as it stands."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip("\n")

    def lines(self) -> list[str]:
        """Everything printed, as far back as is kept."""
        gone = ["".join(row[x].data for x in range(COLUMNS)).rstrip() for row in self.screen.history.top]
        return [*gone, *self.visible().split("\n")]

    def new(self) -> str:
        """What was printed since the last look; the whole screen where that cannot be told (it was cleared or redrawn)."""
        lines, before = self.lines(), self.seen
        self.seen = lines
        kept = max(0, len(before) - 1)  # the last line, a prompt, may have been continued
        if before and lines[:kept] == before[:kept] and len(lines) >= len(before):
            fresh = "\n".join(lines[kept:]).strip("\n")
            if fresh:
                return f"New Terminal Output:\n\n{fresh}"
        return f"Current Terminal Screen:\n{self.visible()}"

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(OSError):
            os.close(self.fd)
        self.process.wait()
