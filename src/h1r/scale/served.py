"""A vLLM server that writes traces for reinforcement learning: started here, given new weights in place, restarted when it dies.

How new weights reach it, of three ways: restarting it on every version's folder costs its start (half a minute and more) in each
step; our own POST /admin/weights it does not know; its development routes (VLLM_SERVER_DEV_MODE=1) freeze what is in flight, read
another folder into the tensors as they lie, forget cached prefixes and go on. The third is taken; a server that died is started
on the newest folder.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from h1r.endpoint import Endpoint
from h1r.errors import EndpointError, WorkerLost
from h1r.scale.vllm import Server, launch
from h1r.types import Prompt, SamplingParams, Trace, Watch

logger = logging.getLogger(__name__)


class Served:
    """A Generator over a vLLM server of its own (or of `arguments`, for tests). Close it."""

    def __init__(
        self, server: Server, log: str | Path, *, redo: int = 1, concurrency: int = 256, patience: float = 900.0,
        arguments: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        """redo: how often a call is made again after the server died and was started anew."""
        self.server, self.log, self.redo, self.lost = replace(server, learning=True), log, redo, 0
        self._concurrency, self._patience, self._arguments = concurrency, patience, arguments
        self._version = 0
        self._restarting = threading.Lock()
        self._start()

    def _start(self) -> None:
        self.server = replace(self.server, port=_free_port(self.server.host))
        self._stack = ExitStack()
        given = None if self._arguments is None else [a.format(s=self.server) for a in self._arguments]
        url = self._stack.enter_context(launch(self.server, self.log, self._patience, given))
        self._endpoint = self._stack.enter_context(
            Endpoint(url, self.server.name, k=1, concurrency=self._concurrency, retries=1)
        )

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingParams, watches: Sequence[Watch | None] | None = None
    ) -> list[list[Trace]]:
        """As Generator.generate. Traces bear the version that the server had when they began. Raises WorkerLost when the server
        dies more often than `redo`."""
        for left in range(self.redo, -1, -1):
            version, lost = self._version, self.lost
            try:
                found = self._endpoint.generate(prompts, sampling, watches)
                # the server is told to report the distribution that it draws from; what it says are therefore not raw ones
                return [[replace(t, version=version, logprobs=t.raw_logprobs) for t in group] for group in found]
            except EndpointError as e:
                if self._alive():
                    raise
                if not left:
                    raise WorkerLost(f"the vLLM server died again and again ({e}); see {self.log}") from None
                self._restart(lost)
        raise AssertionError

    def load(self, path: str, version: int) -> None:
        """New weights, in place; a server that died is started on them."""
        self.server = replace(self.server, model=path)
        self._version, lost = version, self.lost
        try:
            self._endpoint.load(path, version)
        except EndpointError:
            if self._alive():
                raise
            self._restart(lost)

    def _alive(self) -> bool:
        try:
            self._endpoint.models()
        except EndpointError:
            return False
        return True

    def _restart(self, lost: int) -> None:
        """Once, however many calls noticed: `lost` is what each had seen when it began."""
        with self._restarting:
            if self.lost != lost:
                return
            logger.warning("the vLLM server is gone; starting another on %s", self.server.model)
            self._stack.close()
            self._start()
            self.lost += 1

    def close(self) -> None:
        """End the server."""
        self._stack.close()


def _free_port(host: str) -> int:
    with socket.socket() as s:
        s.bind((host, 0))
        return int(s.getsockname()[1])
