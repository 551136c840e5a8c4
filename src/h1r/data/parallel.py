"""Work on a stream of problems by several processes: results in the stream's order, a bounded number of them in memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
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
    waiting: deque[tuple[list[T], Future[list[R]]]] = deque()
    with processes(workers, work) as pool:
        while block or waiting:
            while block and len(waiting) < AHEAD * workers:
                waiting.append((block, pool.submit(_block, block)))
                block = list(islice(source, BLOCK))
            given, results = waiting.popleft()
            yield from zip(given, results.result(), strict=True)


@contextmanager
def processes(
    count: int, work: Callable[[Any], Any] | None = None, ended: Callable[[int], None] | None = None
) -> Iterator[ProcessPoolExecutor]:
    """Worker processes. After an error those at work finish and nothing else begins; an interruption (Ctrl-C, or a generator
    that is closed) ends them at once, and `ended` is told each one's pid."""
    before = {child.pid for child in multiprocessing.active_children()}
    # spawned: a fork would copy the locks of whatever threads this process has
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=spawn, initializer=_keep, initargs=(work,))
    try:
        yield pool
    except (KeyboardInterrupt, GeneratorExit, SystemExit):
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            if child.pid is not None and child.pid not in before:
                child.kill()
                child.join()
                if ended is not None:
                    ended(child.pid)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _keep(work: Callable[[Any], Any] | None) -> None:
    """What a worker does first. Ctrl-C is for the process that reads; it ends its workers, which end too when it is killed."""
    global _work
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _work = work


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _block(block: list[Any]) -> list[Any]:
    assert _work is not None
    return [_work(item) for item in block]
