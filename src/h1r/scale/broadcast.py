"""Weights from the process that trains to those that write, over a process group of their own: NCCL where every member has a GPU
to itself, gloo elsewhere. No disk and no shared folder.

    at = meeting(host)                                 # beside the trainer
    give(tensors, version, at, 1 + receivers)          # there too; it may train on meanwhile, when the tensors are a copy
    tensors, version = take(at, rank, 1 + receivers)   # in each receiver, rank 1 and up

Of three ways to spare the folder: tensors through Ray's object store (a copy through shared memory and TCP for each node, never
from GPU to GPU), NCCL straight into the engine's folded matrices (every engine would need a path of its own for it), and this
one, in which a checkpoint's tensors arrive and the engine folds and rounds them as it does those of a folder. A group lives for
one exchange: members come and go between two. PyTorch is imported by who exchanges; a grader's actor does without.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from h1r.errors import WorkerLost
from h1r.scale.cluster import ray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from h1r.model.weights import Held

PATIENCE = 120.0
"""Seconds that members wait for each other."""
ROOT, OFF = 0, "off"


class Meeting(NamedTuple):
    """Where the members of one exchange find each other."""

    host: str
    port: int
    patience: float = PATIENCE


def meeting(host: str, patience: float = PATIENCE) -> Meeting:
    """A free port of this machine, which others reach as `host`."""
    with socket.socket() as s:
        s.bind(("", 0))
        return Meeting(host, int(s.getsockname()[1]), patience)


class _Line(NamedTuple):
    group: Any
    device: torch.device

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The root's tensor, on this member's device."""
        import torch.distributed as dist

        moved = tensor.to(self.device).contiguous()
        options = dist.BroadcastOptions()
        options.rootRank = ROOT
        self.group.broadcast([moved], options).wait()
        return moved


def _join(at: Meeting, rank: int, size: int) -> _Line:
    """Raises WorkerLost when a member does not come."""
    import torch
    import torch.distributed as dist

    patience = timedelta(seconds=at.patience)
    try:
        store = _store(at, size, rank == ROOT, patience)
        gpu = torch.cuda.is_available()
        mine = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid) if gpu else ""
        store.set(f"gpu{rank}", mine)
        _all_here(store, [f"gpu{r}" for r in range(size)], at.patience)
        gpus = [store.get(f"gpu{r}").decode() for r in range(size)]
        if dist.is_nccl_available() and all(gpus) and len(set(gpus)) == size:
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = patience
            device = torch.device("cuda", torch.cuda.current_device())
            return _Line(dist.ProcessGroupNCCL(store, rank, size, options), device)
        return _Line(dist.ProcessGroupGloo(store, rank, size, patience), torch.device("cpu"))
    except RuntimeError as e:  # DistError, of which a timeout is one
        raise WorkerLost(f"weights: a member of the exchange did not come ({str(e).splitlines()[0]})") from None


def _store(at: Meeting, size: int | None, serves: bool, patience: timedelta) -> Any:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(at.host, at.port, size, serves, timeout=patience, wait_for_workers=False)


def _all_here(store: Any, keys: list[str], patience: float) -> None:
    """Raises RuntimeError when a member has not come in time, or the exchange is called off."""
    deadline = time.monotonic() + patience
    while not store.check(keys):
        if store.check([OFF]):
            raise RuntimeError("called off")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{patience:g} s passed")
        time.sleep(0.02)


def call_off(at: Meeting) -> None:
    """Tell those who wait for a member that it will not come."""
    with suppress(RuntimeError):  # nobody waits any more
        _store(at, None, False, timedelta(seconds=1)).set(OFF, "")


def give(tensors: Mapping[str, Tensor], version: int, at: Meeting, size: int) -> None:
    """To size - 1 receivers. Raises WorkerLost when one does not come or goes away."""
    import torch

    line = _join(at, ROOT, size)
    names = [[name, list(t.shape), str(t.dtype).removeprefix("torch.")] for name, t in tensors.items()]
    head = json.dumps({"version": version, "tensors": names}).encode()
    try:
        line.broadcast(torch.tensor([len(head)]))
        line.broadcast(torch.frombuffer(bytearray(head), dtype=torch.uint8))
        for tensor in tensors.values():
            line.broadcast(tensor)
        if line.device.type == "cuda":
            torch.cuda.synchronize(line.device)
    except RuntimeError as e:
        raise WorkerLost(f"weights: a receiver went away ({str(e).splitlines()[0]})") from None


def take(at: Meeting, rank: int, size: int) -> tuple[dict[str, Tensor], int]:
    """What the giver holds, on the processor, and its version. Raises WorkerLost when it, or another receiver, goes away."""
    import torch

    line = _join(at, rank, size)
    try:
        count = int(line.broadcast(torch.zeros(1, dtype=torch.int64)))
        head = json.loads(bytes(line.broadcast(torch.empty(count, dtype=torch.uint8)).tolist()))
        tensors = {}
        for name, shape, dtype in head["tensors"]:
            empty = torch.empty(shape, dtype=getattr(torch, dtype), device=line.device)
            tensors[name] = line.broadcast(empty).to("cpu")
        return tensors, int(head["version"])
    except RuntimeError as e:
        raise WorkerLost(f"weights: the exchange broke ({str(e).splitlines()[0]})") from None


class Source:
    """A trainer's weights, kept beside it under their version until newer ones are, and given away on demand."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._kept: tuple[Held, int] | None = None

    def keep(self, version: int) -> None:
        """Of a trainer over several ranks each must call it; the first one keeps."""
        held = self._trainer.weights()
        self._kept = None if held is None else (held, version)

    def meet(self) -> Meeting:
        """A place for the next exchange."""
        return meeting(str(ray().util.get_node_ip_address()))

    def give(self, at: Meeting, size: int) -> None:
        assert self._kept is not None, "nothing is kept here"
        held, version = self._kept
        give(held.tensors, version, at, size)

    def start(self, size: int) -> tuple[Meeting, Future[None]]:
        """The place, and the exchange that waits there."""
        at, future = self.meet(), Future[None]()

        def work() -> None:
            try:
                self.give(at, size)
                future.set_result(None)
            except BaseException as e:
                future.set_exception(e)

        threading.Thread(target=work, name="h1r-weights", daemon=True).start()
        return at, future
