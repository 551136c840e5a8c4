"""One JSON line per request, in a file: who (a key's fingerprint), what, how it ended, how long it took, how many tokens.

No prompt and no answer, unless prompts are asked for. A thread writes; a disk that is full or slow costs lines, which are
counted, never a request. The file is opened for every batch of lines, so it may be rotated by moving it away.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from pathlib import Path
from typing import Any

from h1r.errors import ConfigError
from h1r.log import dumps

log = logging.getLogger(__name__)

HELD = 10_000  # lines that wait for the disk before further ones are lost


class Record:
    """The log of one server. prompts: with the bodies of requests; lost: lines that could not be written."""

    def __init__(self, path: str | Path, prompts: bool = False) -> None:
        self.path, self.prompts = Path(path), prompts
        self.lost = 0
        self._lines: queue.Queue[str | threading.Event] = queue.Queue(HELD)
        self._complained = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            open(self.path, "ab").close()
        except OSError as e:
            raise ConfigError(f"--log-file {path}: cannot be written ({e.strerror}); choose another file") from None
        threading.Thread(target=self._write, name="h1r-log", daemon=True).start()

    def put(self, entry: dict[str, Any]) -> None:
        """Queue one line. Returns at once and never raises."""
        try:
            self._lines.put_nowait(dumps({"time": _now()} | entry))
        except queue.Full:
            self.lost += 1

    def flush(self, timeout: float = 5.0) -> None:
        """Wait until what was put is on the disk, or lost."""
        done = threading.Event()
        self._lines.put(done)
        done.wait(timeout)

    def _write(self) -> None:
        while True:
            batch = [self._lines.get()]
            while not self._lines.empty() and len(batch) < 1000:
                batch.append(self._lines.get_nowait())
            lines = [line for line in batch if isinstance(line, str)]
            try:
                if lines:
                    with open(self.path, "ab") as f:
                        f.write("".join(line + "\n" for line in lines).encode(errors="replace"))
                    self._complained = False
            except OSError as e:
                self.lost += len(lines)
                if not self._complained:
                    self._complained = True
                    log.warning("%s: cannot be written (%s); lines are lost until it can", self.path, e.strerror)
            for mark in batch:
                if isinstance(mark, threading.Event):
                    mark.set()


def _now() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03}Z"
