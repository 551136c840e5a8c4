"""GRPO: generate groups, grade them, train on what differs within a group, give the weights back to the generator.

    trainer = LocalTrainer(model, config.trainer())
    for metrics in grpo.run(engine, grader, trainer, problems, render, config, "runs/grpo"):
        print(metrics["step"], metrics["reward"], metrics["mismatch_kl"])

Recipe: Falcon-H1R (arXiv:2601.02346, section 3): group 16, clip 0.2 / 0.28, no KL, no entropy bonus, token-level
truncated importance sampling with cap 2, groups without variance backfilled from a bounded cache. Every event is in
run_dir/journal.jsonl before it is used; a killed run continues from its newest checkpoint with the same numbers.

With config.ahead, rollouts and grading of the next steps go on while a step trains. New weights reach the generator in the middle
of traces, which keep their state and remember which version wrote which token; token-level importance sampling corrects for it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from h1r import log
from h1r.errors import ConfigError, MismatchError
from h1r.rl.advantage import advantages
from h1r.rl.backfill import Backfill, choose
from h1r.rl.config import GrpoConfig
from h1r.rl.group import Group, centred, trivial
from h1r.rl.journal import Journal, Replay
from h1r.rl.measure import after_training, gap, of_groups
from h1r.rl.rollout import generate, grade
from h1r.rl.sampler import Sampler
from h1r.rl.turns import Turns
from h1r.train import checkpoint
from h1r.train.guard import Guard
from h1r.types import Floats, Generator, Grader, Problem, Prompt, Row, SamplingParams, Trainer

logger = logging.getLogger(__name__)

Metrics = dict[str, float]
Sync = Callable[[Trainer, Generator, int], None]
Reference = Callable[[Sequence[Row]], list[Floats]]


def run(
    generator: Generator,
    grader: Grader,
    trainer: Trainer,
    problems: Sequence[Problem],
    render: Callable[[Problem], Prompt],
    config: GrpoConfig,
    run_dir: str | Path,
    *,
    sync: Sync | None = None,
    reference: Reference | None = None,
    turns: Turns | None = None,
    shares: Mapping[str, float] | None = None,
) -> Iterator[Metrics]:
    """Train until config.steps; yields each step's metrics, also appended to run_dir/metrics.jsonl.

    sync       gives the trainer's weights to the generator, with their version; by default through an exported folder
    reference  log-probabilities of the reference policy (needed when config.kl > 0)
    turns      plays conversations with tools to their end; without it calls end a trace
    shares     of each environment (meta["environment"] of a problem) in every step

    Raises MismatchError when generator and trainer disagree about the generator's own tokens.
    """
    if config.kl > 0 and reference is None:
        raise ConfigError(f"kl={config.kl} needs a reference policy: give `reference`, or set kl=0")
    with closing(
        _Loop(generator, grader, trainer, problems, render, config, Path(run_dir), sync, reference, turns, shares)
    ) as loop:
        saved = done = loop.resume()
        while done < config.steps:
            metrics = loop.step(done + 1)
            done += 1
            if done % config.save_every == 0 or done == config.steps:
                loop.save(done)
                saved = done
            try:
                yield metrics
            except GeneratorExit:
                if saved < done:
                    loop.save(done)
                raise


class _Loop:
    """What survives from one step to the next: the sampler, the cache, the journal, rounds to be replayed."""

    def __init__(
        self,
        generator: Generator,
        grader: Grader,
        trainer: Trainer,
        problems: Sequence[Problem],
        render: Callable[[Problem], Prompt],
        config: GrpoConfig,
        run_dir: Path,
        sync: Sync | None,
        reference: Reference | None,
        turns: Turns | None,
        shares: Mapping[str, float] | None,
    ) -> None:
        self.generator, self.grader, self.trainer = generator, grader, trainer
        self.render, self.config, self.run_dir = render, config, run_dir
        self.sync = sync or _through_folder(run_dir / "weights")
        self.reference, self.turns = reference, turns
        self.problems = {problem.id: problem for problem in problems}
        if len(self.problems) < len(problems):
            raise ConfigError("two problems share an id: ids must be unique within a run")
        self.sampler = Sampler(problems, config.seed, curriculum=config.curriculum, shares=shares)
        self.cache = Backfill(config.cache_capacity, config.cache_age)
        self.journal = Journal(run_dir / "journal.jsonl")
        self.replay = Replay({}, [], {})
        self.version = 0
        self.guard = Guard(config.guard)
        # one thread collects, in the order of the steps: it alone touches the sampler once it runs
        self.collector = ThreadPoolExecutor(1) if config.ahead else None
        self.begun: dict[int, Future[dict[str, Any]]] = {}  # the sampler's state before a step's collection
        self.coming: dict[int, Future[tuple[list[Group], Metrics]]] = {}

    def close(self) -> None:
        """Let the round that is being written finish: it is in the journal then."""
        if self.collector is not None:
            if any(not future.done() for future in self.coming.values()):
                logger.info("waiting for the rollouts in flight; the journal keeps them")
            self.collector.shutdown(wait=True, cancel_futures=True)

    def resume(self) -> int:
        """Take up where the newest checkpoint left off; the number of steps done."""
        done = 0
        if path := checkpoint.latest(self.run_dir / "checkpoints"):
            done = int(path.name.removeprefix("step-"))
            self.trainer.load(str(path))
            logger.info("continuing from %s", path)
        self.replay = self.journal.replay(done, self._problem)
        if done:
            self.sampler.restore(self.replay.record["sampler"])
            self.cache = Backfill(self.config.cache_capacity, self.config.cache_age, self.replay.cache)
        metrics = self.run_dir / "metrics.jsonl"
        records = list(log.read(metrics))
        if any(r["step"] > done for r in records):
            log.write(metrics, [r for r in records if r["step"] <= done])
        norms = (r["grad_norm"] for r in log.read(metrics) if r["groups/trained"])
        self.guard = Guard(self.config.guard, norms)
        self.sync(self.trainer, self.generator, done)
        self.version = done
        return done

    def step(self, step: int) -> Metrics:
        """Step `step` (from 1): its metrics are on disk when it returns, its weights with the generator."""
        config, version = self.config, step - 1
        start = time.perf_counter()
        self._order(step)
        groups, seconds = self.coming.pop(step).result() if self.collector else self._collect(step, len(self.cache))
        waited = time.perf_counter() - start
        useful = [group for group in groups if not trivial(group.rewards)]
        choice = choose(useful, config.wanted, self.cache, config.zero_variance, version)
        metrics = {"step": float(step)} | of_groups(groups, useful, choice, self.cache, version)

        for later in range(step + 1, min(step + self.config.ahead, self.config.steps) + 1):
            self._order(later)
        begin = time.perf_counter()
        metrics |= self._train(choice.groups, version) if choice.groups else self._gap(groups, version)
        trained = time.perf_counter()
        self.sync(self.trainer, self.generator, step)
        self.version = step
        seconds |= {
            "wait": waited,
            "train": trained - begin,
            "sync": time.perf_counter() - trained,
            "step": time.perf_counter() - start,
        }
        metrics |= {f"seconds/{name}": value for name, value in seconds.items()}

        uids = [group.uid for group in choice.groups]
        # a run that goes on from here draws the next step's problems again, and finds what is in the journal already
        state = self.begun[step + 1].result() if step + 1 in self.begun else self.sampler.state()
        self.begun.pop(step, None)
        self.journal.step(
            step, version=version, trained=uids, cache=self.cache.uids, sampler=state, metrics=metrics,
            temperature=self.config.temperature,
        )  # fmt: skip
        log.append(self.run_dir / "metrics.jsonl", metrics)
        if choice.groups:
            self._tell(metrics, choice.groups)
        return metrics

    def _tell(self, metrics: Metrics, groups: Sequence[Group]) -> None:
        """Warn of a step that was skipped or whose gradient stands out, and name the groups that weigh most in it."""
        norm = metrics["grad_norm"]
        if metrics["skipped"] or self.guard.unusual(norm):
            weight = {g.uid: sum(map(abs, centred(g.rewards, self.config.baseline))) for g in groups}
            worst = sorted(groups, key=lambda g: -weight[g.uid])[:4]
            named = ", ".join(f"{g.problem.id} (group {g.uid}, version {g.version})" for g in worst)
            what = "skipped" if metrics["skipped"] else f"{self.guard.times(norm):.1f} times the usual gradient"
            logger.warning("step %d: %s, norm %.3g; groups of most weight: %s", metrics["step"], what, norm, named)
        self.guard.watch(norm)

    def save(self, step: int) -> None:
        """Checkpoint the trainer; sampler and cache are in the journal's record of this step."""
        root = self.run_dir / "checkpoints"
        self.trainer.save(str(checkpoint.folder(root, step)))
        checkpoint.prune(root, self.config.keep)

    def _order(self, step: int) -> None:
        """Have the collector gather a step's groups after those it was told of before."""
        if self.collector is not None and step not in self.begun:
            self.begun[step] = self.collector.submit(self.sampler.state)
            self.coming[step] = self.collector.submit(self._collect, step, len(self.cache))

    def _collect(self, step: int, cached: int) -> tuple[list[Group], Metrics]:
        """Rounds of rollouts until the step has enough groups that teach something, or max_rounds are spent. cached: groups in
        the cache when the collection was ordered."""
        out: list[Group] = []
        seconds = {"generate": 0.0, "grade": 0.0}
        for round in range(self.config.max_rounds):
            groups, generating, grading = self._round(step, round)
            seconds["generate"] += generating
            seconds["grade"] += grading
            out += groups
            for group in groups:
                known = [score.value for score in group.scores if score.value is not None]
                if known:
                    self.sampler.record(group.problem, float(np.mean(known)))
            useful = sum(not trivial(group.rewards) for group in out)
            spare = cached if self.config.zero_variance == "backfill" else 0
            if useful + spare >= self.config.enough:
                break
        return out, seconds

    def _round(self, step: int, round: int) -> tuple[list[Group], float, float]:
        """Draw problems; generate and grade them, or take both from the journal of a killed run."""
        config = self.config
        problems = self.sampler.draw(config.prompts_per_step)
        key = _key(config, problems)
        if (held := self.replay.rounds.get((step, round))) and held[0] == key:
            return held[1], 0.0, 0.0
        seed = int(np.random.SeedSequence((config.seed, step, round)).generate_state(1)[0]) >> 1
        sampling = SamplingParams(
            temperature=config.temperature, max_tokens=config.max_tokens, n=config.group, seed=seed
        )
        uid, version = f"{step}.{round}", self.version
        groups, generating = generate(
            self.generator, problems, self.render, sampling, uid=uid, version=version, redo=config.redo,
            turns=self.turns,
        )  # fmt: skip
        self.journal.rollout(step, round, key, groups)
        groups, grading = grade(self.grader, groups, config.shaping())
        self.journal.score(step, round, groups)
        return groups, generating, grading

    def _train(self, groups: list[Group], version: int) -> Metrics:
        """One optimizer step per share of the groups (config.updates)."""
        config = self.config
        shares = [groups[i :: config.updates] for i in range(config.updates)]
        batches = [rows for share in shares if (rows := advantages(share, config.folding(), version))]
        if config.updates > 1:
            flat = self._with_stream("old", self.trainer.logprobs, [row for rows in batches for row in rows])
            batches = _cut(flat, [len(rows) for rows in batches])
        parts = []
        for rows in batches:
            if config.kl > 0:
                assert self.reference is not None
                rows = self._with_stream("ref", self.reference, rows)
            totals = dict(self.trainer.forward_backward(rows, config.loss))
            self._check(totals, version)
            parts.append(totals | dict(self.trainer.optim_step()))
        return after_training(parts, [row for rows in batches for row in rows])

    def _with_stream(self, name: str, scores: Reference, rows: Sequence[Row]) -> list[Row]:
        values = scores(rows)
        return [replace(r, streams={**r.streams, name: np.nan_to_num(v)}) for r, v in zip(rows, values)]

    def _gap(self, groups: list[Group], version: int) -> Metrics:
        """Nothing to train on: still compare engine and trainer, on the first scored group."""
        totals = {"loss": 0.0, "grad_norm": 0.0, "skipped": 0.0, "rows": 0.0}
        rows = next((rows for g in groups if (rows := advantages([g], self.config.folding(), version))), [])
        if rows:
            totals |= gap(rows, self.trainer.logprobs(rows))
            self._check(totals, version)
        return totals

    def _check(self, totals: Metrics, version: int) -> None:
        """Stop before the update when the generator's log-probabilities are not the trainer's."""
        gap = totals.get("mismatch_kl", 0.0)
        if gap <= self.config.mismatch_limit:
            return
        self.journal.mismatch(version + 1, kl=gap, limit=self.config.mismatch_limit)
        raise MismatchError(
            f"engine and trainer disagree about the engine's own tokens at version {version}: KL {gap:.4f} is above "
            f"mismatch_limit={self.config.mismatch_limit} (mean gap {totals.get('mismatch_abs', 0):.4f} nats); "
            "usual causes: a multiplier the engine drops or applies twice, weights that were not synced, another "
            "temperature, or a lower precision; run `h1r doctor` on the checkpoint, and raise the limit only if "
            "precision is the cause"
        )

    def _problem(self, id: str) -> Problem:
        if id not in self.problems:
            raise ConfigError(
                f"problem {id!r} of {self.journal.path} is not among the problems given: start a new run folder"
            )
        return self.problems[id]


def _key(config: GrpoConfig, problems: Sequence[Problem]) -> str:
    """Names the rollouts of a round: the settings and problems they were made with."""
    named = ("group", "temperature", "max_tokens", "seed", "format_penalty", "language_penalty", "overlong")
    text = json.dumps([[getattr(config, name) for name in named], [problem.id for problem in problems]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _cut(rows: list[Row], sizes: list[int]) -> list[list[Row]]:
    ends = np.cumsum(sizes)
    return [rows[end - size : end] for end, size in zip(ends, sizes)]


def _through_folder(root: Path) -> Sync:
    """Sync by an exported folder per version; the generator has read it when `load` returns, so older ones go."""

    def sync(trainer: Trainer, generator: Generator, version: int) -> None:
        path = root / f"v{version:08d}"
        trainer.export(str(path))
        generator.load(str(path), version)
        for old in root.glob("v*"):
            if old != path:
                shutil.rmtree(old)

    return sync
