"""Pools of actors that hold any Generator, Grader or Trainer, built where the actor lives by a factory argument.

A call spreads its items over the actors. An actor that dies is replaced, and given the last weights the pool loaded. With `redo`
its share of the call is done again by the replacement, so many times; what is lost even then comes back as aborted traces and
unscored scores, which are never rewards. Without, `WorkerLost` reaches the caller, who knows whether to redo or to drop the call.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from h1r.errors import ConfigError, H1RError, WorkerLost
from h1r.scale import broadcast
from h1r.scale.cluster import ray
from h1r.scale.ranks import DEAD
from h1r.types import Generator, Grader, Problem, Prompt, SamplingParams, Score, StopReason, Trace, Watch

log = logging.getLogger(__name__)

PUSHES = 3  # exchanges that are tried before weights count as not to be given
LOST: Final = object()
"""In the place of an answer whose actor died."""


class _Holder:
    """Lives in an actor: what the factory made, and its methods by name. A factory that refused (a checkpoint, an option) does
    not end the actor, which would only be started again: every call tells why."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        self._held: Any = None
        self._refused: H1RError | None = None
        try:
            self._held = factory()
        except H1RError as e:
            self._refused = e

    def call(self, method: str, *args: Any) -> Any:
        if self._refused is not None:
            raise self._refused
        return getattr(self._held, method)(*args)

    def take(self, at: broadcast.Meeting, rank: int, size: int) -> None:
        """Weights by an exchange, into an engine of ours."""
        from h1r.model.weights import Held

        if self._refused is not None:
            raise self._refused
        tensors, version = broadcast.take(at, rank, size)
        self._held.load(Held(self._held.config, tensors), version)

    def ready(self) -> bool:
        return True


class Source(Protocol):
    """Whoever trains, as a giver of weights: `broadcast.Source`, or a TrainerGroup."""

    def keep(self, version: int) -> None: ...

    def start(self, size: int) -> tuple[broadcast.Meeting, Any]: ...


class Actors:
    """`count` actors around `factory`, kept alive. Two threads may call at once: weights arrive while traces are written."""

    def __init__(self, count: int, factory: Callable[[], Any], cpus: float, gpus: float, redo: int = 0) -> None:
        if count < 1:
            raise ConfigError(f"count={count}: a pool needs one worker or more")
        self._ray = ray()
        self._factory = factory
        self._resources = {"num_cpus": cpus, "num_gpus": gpus, "max_concurrency": 2}
        self._loaded: tuple[str, int] | Source | None = None
        self._lock = threading.Lock()
        self.redo, self.lost = redo, 0
        self.actors = [self._start() for _ in range(count)]

    def _start(self) -> Any:
        return self._ray.remote(_Holder).options(**self._resources).remote(self._factory)

    def call(self, method: str, arguments: Sequence[tuple[Any, ...] | None]) -> list[Any]:
        """Call `method` on actor i with arguments[i] (None: not at all); answers in that order, None where not called.

        Raises the worker's own H1RError as it is; without `redo`, WorkerLost when an actor died, else LOST is its answer.
        """
        out = self._once(method, arguments)
        for _ in range(self.redo):
            if not any(answer is LOST for answer in out):
                break
            missing = [given if answer is LOST else None for given, answer in zip(arguments, out, strict=True)]
            log.warning("%s: the share of %d lost workers is done again", method, sum(m is not None for m in missing))
            again = self._once(method, missing)
            out = [new if answer is LOST else answer for new, answer in zip(again, out, strict=True)]
        if not self.redo and (dead := sum(answer is LOST for answer in out)):
            raise WorkerLost(
                f"{dead} of {len(self.actors)} workers died during {method!r} and were replaced; "
                "the work of this call is lost: redo or discard it"
            )
        return out

    def _once(self, method: str, arguments: Sequence[tuple[Any, ...] | None]) -> list[Any]:
        with self._lock:
            actors = list(self.actors)
        references = [
            None if given is None else actor.call.remote(method, *given)
            for actor, given in zip(actors, arguments, strict=True)
        ]
        out: list[Any] = []
        wrong: H1RError | None = None
        for i, reference in enumerate(references):
            try:
                out.append(None if reference is None else self._ray.get(reference))
            except self._ray.exceptions.RayTaskError as e:
                cause = getattr(e, "cause", None)
                if not isinstance(cause, H1RError):
                    raise
                wrong = cause
                out.append(None)
            except self._ray.exceptions.RayActorError:
                self._replace(i, actors[i])
                out.append(LOST)
        if wrong is not None:
            raise wrong
        return out

    def _replace(self, i: int, dead: Any) -> None:
        """Start another in place i, once however many threads noticed, with the weights loaded last."""
        with self._lock:
            if self.actors[i] is not dead:
                return
            self.lost += 1
            log.warning("worker %d died; starting another", i)
            self.actors[i] = self._start()
            # waited for: calls of an actor may overtake each other, and it must not write with other weights
            try:
                if isinstance(self._loaded, tuple):
                    self._ray.get(self.actors[i].call.remote("load", *self._loaded))
                elif self._loaded is not None and self._exchange(self._loaded, [self.actors[i]]):
                    log.warning("worker %d did not get its weights", i)
            except self._ray.exceptions.RayActorError:
                log.warning("worker %d died again while it loaded its weights", i)

    def load(self, path: str, version: int) -> None:
        """Swap the weights of every actor; one that dies meanwhile begins with them."""
        with self._lock:
            self._loaded = (path, version)
            count = len(self.actors)
        self._once("load", [(path, version)] * count)

    def push(self, source: Source, version: int) -> None:
        """The same from memory to memory. Raises WorkerLost when an exchange fails again and again."""
        source.keep(version)
        for _ in range(PUSHES):
            with self._lock:
                self._loaded = source
                actors = list(self.actors)
            missed = self._exchange(source, actors)
            if not missed:
                return
            for i in missed & {i for i, actor in enumerate(actors) if not self._lives(actor)}:
                self._replace(i, actors[i])
            log.warning("%d workers did not get version %d of the weights; giving them again", len(missed), version)
        raise WorkerLost(f"version {version} of the weights did not reach all workers in {PUSHES} attempts")

    def _exchange(self, source: Source, actors: Sequence[Any]) -> set[int]:
        """One exchange; the places of the actors whose weights did not come."""
        at, giving = source.start(len(actors) + 1)
        taking = {actor.take.remote(at, 1 + i, len(actors) + 1): i for i, actor in enumerate(actors)}
        missed, rest = set(), list(taking)
        while rest:
            ended, rest = self._ray.wait(rest, num_returns=1)
            try:
                self._ray.get(ended)
            except self._ray.exceptions.RayTaskError as e:
                cause = getattr(e, "cause", None)
                if not isinstance(cause, WorkerLost):
                    broadcast.call_off(at)
                    raise cause if isinstance(cause, H1RError) else e from None
                missed.add(taking[ended[0]])
            except self._ray.exceptions.RayActorError:
                missed.add(taking[ended[0]])
                broadcast.call_off(at)
        try:
            giving.result()
        except WorkerLost:  # Ray gives an actor's own error its class
            missed = missed or set(range(len(actors)))
        except self._ray.exceptions.RayActorError:
            raise WorkerLost(DEAD) from None
        return missed

    def _lives(self, actor: Any) -> bool:
        try:
            return bool(self._ray.get(actor.ready.remote()))
        except self._ray.exceptions.RayActorError:
            return False

    def close(self) -> None:
        for actor in self.actors:
            self._ray.kill(actor, no_restart=True)
        self.actors = []


class _Pool:
    """`count` actors, each holding what `factory` makes."""

    def __init__(
        self, count: int, factory: Callable[[], Any], *, cpus: float = 1, gpus: float = 0, redo: int = 0
    ) -> None:
        self._actors = Actors(count, factory, cpus, gpus, redo)

    @property
    def lost(self) -> int:
        """Workers that died so far."""
        return self._actors.lost

    def __len__(self) -> int:
        return len(self._actors.actors)

    def close(self) -> None:
        """End the actors."""
        self._actors.close()


class GeneratorPool(_Pool):
    """A Generator over several actors: prompts are dealt out in turn, answers come back in order."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingParams, watches: Sequence[Watch | None] | None = None
    ) -> list[list[Trace]]:
        """As Generator.generate. A Watch lives in one process, so watched prompts need a single local Generator.

        With a seed, worker w draws from seed + 7919 w, so that the traces of a run depend on the number of workers.
        """
        if watches is not None and any(watches):
            raise ConfigError(
                "a Watch does not travel to workers: use a local engine or an Endpoint for watched prompts"
            )
        count = len(self)
        dealt = [list(prompts[i::count]) for i in range(count)]
        answers = self._actors.call(
            "generate", [(hand, _seeded(sampling, worker)) if hand else None for worker, hand in enumerate(dealt)]
        )
        out: list[list[Trace]] = [[] for _ in prompts]
        for worker, groups in enumerate(answers):
            if groups is LOST:
                groups = [[Trace(prompt=p, token_ids=(), stop=StopReason.ABORT)] * sampling.n for p in dealt[worker]]
            for place, group in enumerate(groups or ()):
                out[worker + place * count] = group
        return out

    def load(self, path: str, version: int) -> None:
        """Swap the weights of every worker, also while it writes traces; replacements load the same."""
        self._actors.load(path, version)

    def push(self, source: Source, version: int) -> None:
        """The same without a folder: what `source` keeps goes to every worker, and to replacements (see scale.broadcast)."""
        self._actors.push(source, version)


class GraderPool(_Pool):
    """A Grader over several actors."""

    def grade(self, items: Sequence[tuple[Problem, Trace]]) -> list[Score]:
        """Scores in the order of `items`; None-valued where their grader died, also when it was done again."""
        count = len(self)
        dealt = [list(items[i::count]) for i in range(count)]
        answers = self._actors.call("grade", [(hand,) if hand else None for hand in dealt])
        out: list[Score] = [Score(None, "unscored: the grader died")] * len(items)
        for worker, scores in enumerate(answers):
            for place, score in enumerate(() if scores is LOST else scores or ()):
                out[worker + place * count] = score
        return out


def generators(
    count: int, factory: Callable[[], Generator], *, cpus: float = 1, gpus: float = 0, redo: int = 0
) -> GeneratorPool:
    """`count` actors, each holding what `factory` builds there. Needs a session: `with cluster():`."""
    return GeneratorPool(count, factory, cpus=cpus, gpus=gpus, redo=redo)


def graders(
    count: int, factory: Callable[[], Grader], *, cpus: float = 1, gpus: float = 0, redo: int = 0
) -> GraderPool:
    """`count` actors, each holding what `factory` builds there."""
    return GraderPool(count, factory, cpus=cpus, gpus=gpus, redo=redo)


def _seeded(sampling: SamplingParams, worker: int) -> SamplingParams:
    from dataclasses import replace

    return sampling if sampling.seed is None or worker == 0 else replace(sampling, seed=sampling.seed + 7_919 * worker)
