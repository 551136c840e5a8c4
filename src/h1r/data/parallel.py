"""Work on a stream of problems by several processes: results in the stream's order, a bounded number of them in memory."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

BLOCK = 32  # items that travel together
AHEAD = 4  # blocks in flight for each process
ALONE = 256  # items done here before processes are worth their start

_work: Callable[[Any], Any] | None = None  # of a worker


def ordered(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[tuple[T, R]]:
    """(item, work(item)) for every item, in order, whatever the number of processes; `workers` below 2: in this one.

    With several, `work` (sent to each once) and the items must be picklable. An exception of `work` is raised where its item's
    turn comes.
    """
    source = iter(items)
    for item in islice(source, ALONE) if workers > 1 else source:
        yield item, work(item)
    block = list(islice(source, BLOCK))
    if not block:
        return
    # spawned: a fork would copy the locks of whatever threads this process has
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_keep, initargs=(work,))
    waiting: deque[tuple[list[T], Future[list[R]]]] = deque()
    try:
        while block or waiting:
            while block and len(waiting) < AHEAD * workers:
                waiting.append((block, pool.submit(_block, block)))
                block = list(islice(source, BLOCK))
            given, results = waiting.popleft()
            yield from zip(given, results.result(), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _keep(work: Callable[[Any], Any]) -> None:
    """What a worker does first. Ctrl-C is for the process that reads; it ends its workers."""
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _work = work


def _block(block: list[Any]) -> list[Any]:
    assert _work is not None
    return [_work(item) for item in block]
