"""Append-only JSONL: one format behind metrics, journals, sample stores, verdicts and difficulty tables.

`append` reaches the disk before it returns; `read` drops a torn last line, and refuses any other broken one.
"""

from __future__ import annotations

import glob
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from h1r.errors import DataError


def jsonable(value: Any) -> Any:
    """Plain JSON for our nouns: dataclasses, enums, tuples and numpy values."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")


def dumps(record: Any) -> str:
    """One line of JSON, non-ASCII text kept readable."""
    return json.dumps(record, default=jsonable, ensure_ascii=False, separators=(", ", ": "))


def append(path: str | Path, *records: Mapping[str, Any]) -> None:
    """Write records at the end of `path` in one write, and fsync. A torn tail left by a crash is cut off first."""
    if not records:
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(dumps(r) + "\n" for r in records).encode()
    with open(path, "ab+") as f:
        _cut_torn_tail(f)
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def _cut_torn_tail(f: Any) -> None:
    end = f.seek(0, os.SEEK_END)
    if end == 0:
        return
    f.seek(end - 1)
    if f.read(1) == b"\n":
        return
    position = end
    while position > 0:
        start = max(0, position - 65536)
        f.seek(start)
        newline = f.read(position - start).rfind(b"\n")
        if newline >= 0:
            f.truncate(start + newline + 1)
            return
        position = start
    f.truncate(0)


def read(path: str | Path) -> Iterator[dict[str, Any]]:
    """Records of `path` in order; nothing when it does not exist. A last line without newline is a torn write: dropped.

    Raises DataError, naming the line, when any other line is not a JSON object.
    """
    try:
        f = open(path, "rb")  # noqa: SIM115 (closed below)
    except FileNotFoundError:
        return
    with f:
        for number, line in enumerate(f, 1):
            if not line.endswith(b"\n"):
                return
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as e:
                raise DataError(f"{path}, line {number}: not JSON ({e}); remove the line or restore the file") from None
            if not isinstance(record, dict):
                raise DataError(f"{path}, line {number}: a JSON object was expected, found {type(record).__name__}")
            yield record


def write(path: str | Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write a whole JSONL file atomically (temporary file, fsync, rename); returns the number of records."""
    path, count = Path(path), 0
    with whole(path) as temporary, open(temporary, "w", encoding="utf-8") as f:
        for record in records:
            f.write(dumps(record) + "\n")
            count += 1
        f.flush()
        os.fsync(f.fileno())
    return count


def mark(pid: int) -> str:
    """What the names of a process's unfinished files begin with."""
    return f".{pid}.tmp."


def sweep(path: Path) -> None:
    """Remove what processes that are no more left of `path`, unfinished."""
    for left in path.parent.glob(f".*.tmp.{glob.escape(path.name)}"):
        pid = left.name[1:].partition(".")[0]
        if pid.isdecimal() and not alive(int(pid)):
            left.unlink(missing_ok=True)


def alive(pid: int) -> bool:
    """Whether a process runs here; one that ended, but that nobody has waited for, does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` (with its ending), which becomes `path` when the block ends well and goes when not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(mark(os.getpid()) + path.name)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def handlers(verbose: bool = False) -> None:
    """Send log records to stderr. Called by the command line alone."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(levelname)s %(name)s: %(message)s", force=True
    )
    for chatty in ("httpx2", "httpcore2"):  # a line per request
        logging.getLogger(chatty).setLevel(logging.DEBUG if verbose else logging.WARNING)
