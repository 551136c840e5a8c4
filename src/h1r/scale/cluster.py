"""Joining a Ray cluster, or starting one on this machine."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from h1r.errors import ConfigError

log = logging.getLogger(__name__)


def ray() -> Any:
    """The ray package. Raises ConfigError where it is not installed."""
    try:
        import ray as package
    except ImportError:
        raise ConfigError("ray is not installed; install the extra: pip install 'open-h1r[ray]'") from None
    return package


@contextmanager
def cluster(address: str | None = None, cpus: int | None = None) -> Iterator[None]:
    """A Ray session for the time of the block: that at `address`, else a fresh one here with `cpus` (default: all).

    A session that runs already in this process is used and left alone.
    """
    package = ray()
    if package.is_initialized():
        yield
        return
    # Ray hides accelerators from actors that ask for none, with a warning that a later version will not
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local: dict[str, Any] = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    try:
        with _uninterrupted():
            package.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False, **local)
        yield
    finally:
        package.shutdown()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits for the block's end; a second one does not.

    Ray's `init` interrupted half-way keeps a thread that `shutdown` does not know, and the process ends by signal 11.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting = False

    def wait(number: int, frame: FrameType | None) -> None:
        nonlocal waiting
        waiting = True
        signal.signal(signal.SIGINT, before)
        log.warning("Ray is starting: the interruption waits for that; once more interrupts it at once")

    before = signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if waiting:
        raise KeyboardInterrupt


def require(needed: Mapping[str, float]) -> None:
    """Raises ConfigError where the session has less of a resource ("CPU", "GPU") in all: its actors would wait for ever."""
    there = ray().cluster_resources()
    for name, amount in needed.items():
        if amount > there.get(name, 0):
            raise ConfigError(
                f"the Ray cluster has {there.get(name, 0):g} {name}, the recipe asks for {amount:g}: lower the number of "
                f"actors or what each reserves (scale.*), or add nodes"
            )
