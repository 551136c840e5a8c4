"""Ranks that torchrun would start, as actors of a Ray cluster: a Trainer over several of them, or any function on each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from h1r.errors import ConfigError, H1RError, WorkerLost
from h1r.scale.broadcast import Meeting, Source
from h1r.scale.cluster import ray

DEAD = "a trainer's rank died: start the run again, it goes on from its last checkpoint"
GIVING = "giving"
"""The thread of a rank that gives its weights away while another trains."""


class TrainerGroup:
    """A Trainer over `count` ranks, an actor each: every call goes to all of them, the first one answers.

    factory(rank) runs there with the variables of torchrun set (RANK, WORLD_SIZE, MASTER_ADDR, ...), joins and makes the trainer.
    A rank that dies leaves the others waiting in an exchange, so the group is over: WorkerLost, and the run goes on from its last
    checkpoint when it is started again.
    """

    def __init__(self, count: int, factory: Callable[[int], Any], *, cpus: float = 1, gpus: float = 0) -> None:
        if count < 1:
            raise ConfigError(f"trainers={count}: must be 1 or more")
        self._ray = ray()
        options = {"num_cpus": cpus, "num_gpus": gpus}
        self._ranks = [
            self._ray.remote(concurrency_groups={GIVING: 1})(_Rank).options(**options).remote(rank, count)
            for rank in range(count)
        ]
        address = self._ray.get(self._ranks[0].address.remote())
        self._all("start", factory, address)

    def _all(self, method: str, *args: Any) -> Any:
        given = [self._ray.put(a) for a in args]
        waiting = [getattr(rank, method).remote(*given) for rank in self._ranks]
        try:
            done, rest = [], list(waiting)
            while rest:
                ready, rest = self._ray.wait(rest, num_returns=1)
                done += self._ray.get(ready)  # the first failure ends the wait
            return self._ray.get(waiting[0])
        except self._ray.exceptions.RayTaskError as e:
            cause = getattr(e, "cause", None)
            raise cause if isinstance(cause, H1RError) else e from None
        except self._ray.exceptions.RayActorError:
            raise WorkerLost(DEAD) from None

    def held(self) -> Any:
        """What the factory returned on the first rank."""
        return self._ray.get(self._ranks[0].held.remote())

    def forward_backward(self, rows: Sequence[Any], loss: str) -> Mapping[str, float]:
        return self._all("call", "forward_backward", list(rows), loss)  # type: ignore[no-any-return]

    def optim_step(self) -> Mapping[str, float]:
        return self._all("call", "optim_step")  # type: ignore[no-any-return]

    def logprobs(self, rows: Sequence[Any]) -> list[Any]:
        return self._all("call", "logprobs", list(rows))  # type: ignore[no-any-return]

    def export(self, path: str) -> None:
        self._all("call", "export", path)

    def save(self, path: str) -> None:
        self._all("call", "save", path)

    def load(self, path: str) -> None:
        self._all("call", "load", path)

    def keep(self, version: int) -> None:
        """A copy of the weights on the first rank, to give away while training goes on (see scale.broadcast)."""
        self._all("keep", version)

    def start(self, size: int) -> tuple[Meeting, Any]:
        """As broadcast.Source.start: the place, and the exchange that waits there."""
        first = self._ranks[0]
        try:
            at = self._ray.get(first.meet.options(concurrency_group=GIVING).remote())
        except self._ray.exceptions.RayActorError:
            raise WorkerLost(DEAD) from None
        return at, first.give.options(concurrency_group=GIVING).remote(at, size).future()

    def close(self) -> None:
        """End the ranks."""
        for rank in self._ranks:
            self._ray.kill(rank, no_restart=True)
        self._ranks = []


class _Rank:
    """Lives in an actor: one rank of a TrainerGroup."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._held: Any = None

    def address(self) -> tuple[str, int]:
        """Where the ranks meet: this machine, a free port."""
        import socket

        with socket.socket() as s:
            s.bind(("", 0))
            return str(ray().util.get_node_ip_address()), int(s.getsockname()[1])

    def start(self, factory: Callable[[int], Any], address: tuple[str, int]) -> None:
        import os

        here = {"MASTER_ADDR": address[0], "MASTER_PORT": address[1], "RANK": self.rank, "WORLD_SIZE": self.size}
        os.environ.update({name: str(value) for name, value in here.items()} | {"LOCAL_RANK": "0"})
        self._held = factory(self.rank)
        self._source = Source(self._held)

    def held(self) -> Any:
        return self._held

    def call(self, method: str, *args: Any) -> Any:
        return getattr(self._held, method)(*args)

    def keep(self, version: int) -> None:
        self._source.keep(version)

    def meet(self) -> Meeting:
        return self._source.meet()

    def give(self, at: Meeting, size: int) -> None:
        self._source.give(at, size)


def on_ranks(count: int, work: Callable[[int], Any], *, cpus: float = 1, gpus: float = 0) -> Any:
    """work(rank) on `count` ranks, each with the variables of torchrun; what the first returned. Needs a session."""
    group = TrainerGroup(count, work, cpus=cpus, gpus=gpus)
    try:
        return group.held()
    finally:
        group.close()
