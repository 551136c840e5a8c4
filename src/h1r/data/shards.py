"""One corpus as many files, worked on by many processes: deterministic, resumable, in constant memory.

    for done in transform(files, "out/", keep_good, processes=8): print(done.tokens / done.seconds)

Each input file gives one output file of the same stem, written whole or not at all, so a killed run repeats unfinished
files only. A small record beside each output says what was done; another input or another `version` is worked on again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import NamedTuple

from h1r import log
from h1r.data import parallel
from h1r.data.curate import text_of
from h1r.data.readers import ENDINGS, read, write
from h1r.errors import ConfigError
from h1r.types import Problem

Work = Callable[[Iterator[Problem]], Iterable[Problem]]
Count = Callable[[str], int]


class Shard(NamedTuple):
    """One finished file: problems read and written, tokens written, seconds (0 when it was done before)."""

    source: str
    path: str
    read: int
    written: int
    tokens: int
    seconds: float


def transform(
    files: Sequence[str | Path],
    out: str | Path,
    work: Work,
    *,
    processes: int = 1,
    version: str = "1",
    count: Count | None = None,
    format: str = "",
) -> Iterator[Shard]:
    """Apply `work` to every file; yields each as it is finished. With several processes `work` and `count` are pickled.

    version   names what `work` does: change it and every file is worked on again
    count     tokens of a text, words by default
    """
    out = Path(out)
    names = [_stem(Path(f).name) for f in files]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ConfigError(f"{out}: two input files would give {twice[0]}.jsonl; rename one")
    jobs = []
    for file, name in zip(files, names, strict=True):
        target, key = out / f"{name}.jsonl", _key(Path(file), version)
        done = next(iter(log.read(_record(target))), None)
        if done and done["key"] == key and target.is_file():
            yield Shard(str(file), str(target), done["read"], done["written"], done["tokens"], 0.0)
        else:
            jobs.append((str(file), str(target), key, work, count, format))
            log.sweep(target)
    if processes <= 1:
        yield from (_one(*job) for job in jobs)
        return

    def tidy(pid: int) -> None:
        for left in out.glob(f"{log.mark(pid)}*"):
            left.unlink(missing_ok=True)

    with parallel.processes(processes, ended=tidy) as pool:
        waiting = {pool.submit(_one, *job) for job in jobs}
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (f.result() for f in finished)


def _one(file: str, target: str, key: str, work: Work, count: Count | None, format: str) -> Shard:
    start, seen, tokens = time.perf_counter(), 0, 0

    def incoming() -> Iterator[Problem]:
        nonlocal seen
        for problem in read(file, format=format):
            seen += 1
            yield problem

    def outgoing() -> Iterator[Problem]:
        nonlocal tokens
        for problem in work(incoming()):
            text = text_of((*problem.messages, *problem.solution))
            tokens += count(text) if count else len(text.split())
            yield problem

    written = write(target, outgoing())
    log.write(_record(Path(target)), [{"key": key, "read": seen, "written": written, "tokens": tokens}])
    return Shard(file, target, seen, written, tokens, time.perf_counter() - start)


def _record(target: Path) -> Path:
    return target.with_name(f".{target.name}.done")


def _stem(name: str) -> str:
    return next((name[: -len(e)] for e in ENDINGS if name.endswith(e)), name)


def _key(file: Path, version: str) -> str:
    state = file.stat()
    return hashlib.sha256(f"{version} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:16]
