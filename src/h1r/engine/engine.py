"""The serving loop: schedule, run, postprocess, collect.

    engine = Engine(model, config, stop_ids=(2,), decode=tokenizer.decode)
    number = engine.add(prompt, SamplingParams(n=4))
    while engine.busy:
        for event in engine.step(): ...

One step computes a chunk of prompts and one token of every trace. Not thread-safe; `loop.Loop` is, around it.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from collections.abc import Sequence as Items
from typing import Any

import torch

from h1r.engine.cuda import Flight
from h1r.engine.memory import Pool
from h1r.engine.native import statistics
from h1r.engine.native.model import NativeModel, pack
from h1r.engine.options import EngineConfig, memory_for
from h1r.engine.request import Decode, Event, Feed, Request, Sequence, Split, Text, trace_of, windowed
from h1r.engine.runner import Runner
from h1r.engine.sampler import Draws, Forms, Sampler
from h1r.engine.scheduler import Scheduler
from h1r.engine.thinking import Marks, begin, inside
from h1r.errors import CheckpointError, ConfigError, ContextError
from h1r.ops.draw import key
from h1r.types import Constraint, Prompt, SamplingParams, StopReason, Watch

logger = logging.getLogger(__name__)

_ENDED = {1: StopReason.STOP, 2: StopReason.LENGTH}


class Engine:
    """Holds requests in flight, their memory and the weights.

    failures  requests given up because their Watch or Constraint raised: id -> exception
    """

    def __init__(
        self, model: Any, config: Any, options: EngineConfig | None = None, *,
        stop_ids: Items[int] = (), version: int = 0, decode: Decode | None = None,
        feeder: Callable[[], Feed] | None = None, split: Split | None = None, think: Marks | None = None,
    ) -> None:  # fmt: skip
        options = options or EngineConfig()
        self.config, self.options, self.version = config, options, version
        self.stop_ids, self.decode, self.split, self.think = tuple(stop_ids), decode, split, think
        self.feeder = feeder or (None if decode is None else lambda: windowed(decode))
        self.vocab, self.device, self.dtype = config.vocab_size, *_kind(model)
        made_for = config.max_position_embeddings
        self.context = min(options.context or made_for, made_for)
        if (options.context or 0) > made_for:
            logger.warning("context=%d: the model was made for %d tokens, which it gets", options.context, made_for)
        if options.exact and isinstance(model, NativeModel):
            raise ConfigError("exact=True repeats PyTorch's arithmetic: use kernel='torch'")
        self.memory = memory_for(model, config, options, self.dtype, self.device)
        self.runner = Runner(
            model, config, self.memory, dtype=self.dtype, state_dtype=options.state_dtype, device=self.device,
            state_every=options.state_every, siblings=options.siblings,
            poison=options.poison, exact=options.exact, graphs=options.graphs, kv_dtype=options.kv_dtype,
        )  # fmt: skip
        self.scheduler = self._scheduler()
        own = Forms(statistics.look, statistics.thresholds, statistics.pick)
        self.sampler = Sampler(self.vocab, self.device, own if isinstance(model, NativeModel) else None)
        self.seed = secrets.randbits(63) if options.seed is None else options.seed
        self.live: dict[int, dict[int, Sequence]] = {}
        self.failures: dict[int, Exception] = {}
        self._events: list[Event] = []
        # a step whose tokens are not known yet, and its weights' version
        self._flight: tuple[Flight, int] | None = None
        self._added = 0

    @property
    def busy(self) -> bool:
        """Something is in flight, or events wait to be collected."""
        return bool(self._events) or self._flight is not None or not self.scheduler.idle

    def add(
        self, prompt: Prompt, sampling: SamplingParams, watch: Watch | None = None, row: int = 0, stream: bool = False
    ) -> int:
        """Queue a prompt; returns the request's id. Raises ConfigError for what could never run.

        row: the prompt's place in its batch, which selects its random streams where the prompt has no seed of its own
        """
        limit = self._limit(prompt, sampling)
        seed = sampling.seed if prompt.seed is None else prompt.seed
        request = Request(
            id=self._added,
            prompt=prompt,
            sampling=sampling,
            seed=key(self.seed, self._added, 0) if seed is None else seed,
            row=row if prompt.seed is None else 0,
            stop_ids=tuple(dict.fromkeys((*(() if sampling.ignore_eos else self.stop_ids), *sampling.stop_ids))),
            limit=limit,
            marks=_marks(prompt),
            watch=watch,
            stream=stream,
        )
        constraints = self._constraints(prompt, sampling)
        self._added += 1
        self.scheduler.add(request)
        for s in request.traces:
            s.thought = begin(self.think, sampling, prompt.token_ids, limit, self.stop_ids)
            if constraints:
                s.constraint = constraints[s.index]
                s.allowed = s.constraint.mask()
        if sampling.stop or (stream and self.feeder is not None):
            assert self.feeder is not None
            for s in request.traces:
                s.text = Text(self.feeder(), sampling.stop)
        self.live[request.id] = {s.index: s for s in request.traces}
        return request.id

    def step(self) -> list[Event]:
        """One step. Events: every token of streaming requests, and the end of every trace."""
        if self._flight is not None:
            self._land(*self._flight)
        elif not self.scheduler.idle:
            plan = self.scheduler.schedule()
            assert not plan.empty, "the scheduler found nothing to run"
            if plan.decode and self.runner.decoder is not None and self.sampler.simple(plan.decode):
                self._flight = self.runner.launch(plan, self.sampler.settings(plan.decode)), self.version
                logits = None
            else:
                logits = self.runner.run(plan)
            for stem, count in plan.prefill:
                stem.length += count
            if logits is not None:
                draws = self.sampler.draw(logits, plan.decode)
                self._collect(plan.decode, draws, self.version)
        events, self._events = self._events, []
        return events

    def abort(self, request: int, index: int | None = None) -> None:
        """End one trace of a request, or all; the next step's events hold what they had. Unknown ids are ignored."""
        live = self.live.get(request, {})
        for s in [live[index]] if index in live else list(live.values()) if index is None else []:
            self._finish(s, StopReason.ABORT)

    def swap(self, model: Any, version: int) -> None:
        """New weights, between two steps; traces in flight go on with them (`at_swap` says from where) and remember which token
        had which.

        A native engine packs a folded model (fp32 is best) in its own format.
        """
        mine = self.runner.model
        if isinstance(mine, NativeModel) and not isinstance(model, NativeModel):
            model = pack(model, mine.format)
        new, old = _sizes(model), _sizes(mine)
        if new != old:
            raise CheckpointError(
                f"new weights have (layers, width, vocabulary) {new}, the engine's {old}: another model"
            )
        reread = self.options.at_swap == "reread"
        if reread and self._flight is not None:
            self._land(*self._flight, go_on=False)
        self.drop_prefixes()
        self.runner.swap(model)
        self.version = version
        if reread and not self.scheduler.idle:
            traces, tokens = self.scheduler.reread()
            logger.info("weights of version %d: %d traces in flight read %d tokens again", version, traces, tokens)

    def drop_prefixes(self) -> None:
        """Forget the kept states of prompt beginnings, and those to come of requests in flight; they belong to the weights
        that computed them."""
        self.scheduler.prefixes.clear()
        self.scheduler.fresh = self._added

    def check_integrity(self) -> None:
        """When idle: no queue holds anything, only kept prefixes own pages and slots, every other number is free once."""
        assert not self.live and not self._events, "requests are still in flight"
        self.scheduler.check()

    def reset(self) -> None:
        """Forget everything in flight, after a step that failed half-way."""
        self.memory.pages = Pool(self.memory.pages.size, self.memory.pages.limit)
        self.memory.slots = Pool(self.memory.slots.size, self.memory.slots.limit)
        self.scheduler = self._scheduler()
        self.live, self.failures, self._events, self._flight = {}, {}, [], None

    def _scheduler(self) -> Scheduler:
        kept = self.options.prefixes
        gathers = self.runner.decoder is None and not isinstance(self.runner.model, NativeModel)
        return Scheduler(
            self.memory, self.options.chunk, settle=gathers,
            prefixes=self.memory.slots.limit // 8 if kept is None else kept,
        )  # fmt: skip

    # Inside a step

    def _land(self, flight: Flight, version: int, go_on: bool = True) -> None:
        """Start the next step, where it is the same traces again (and `go_on`), then take the tokens of the one in flight.

        A trace that ends here has a token too many in the next step; it is dropped.
        """
        traces, runner = flight.traces, self.runner
        self._flight = None
        alive = [row for row, s in enumerate(traces) if s.stop is None]
        same = len(alive) == len(traces) and runner.decoder is not None and runner.decoder.chains(traces)
        if go_on and same and not self.sampler.last(traces) and self.scheduler.repeats(traces):
            self._flight = runner.chain(traces), self.version
        tokens, numbers = flight.wait()
        if alive:
            traces = [traces[row] for row in alive]
            self._collect(traces, self.sampler.landed(traces, tokens[alive], numbers[alive]), version)

    def _collect(self, traces: Items[Sequence], draws: Draws, version: int) -> None:
        """Write the step's tokens into their traces, then end those that ended."""
        ended = {int(i): _ENDED[int(draws.ended[i])] for i in draws.ended.nonzero()[0]}
        watched: dict[int, tuple[Request, list[int], list[float]]] = {}
        broken: dict[int, tuple[Request, Exception]] = {}
        rows = zip(traces, draws.token_ids, draws.logprobs, draws.raw_logprobs, draws.confidence, strict=True)
        for row, (s, token, logprob, raw, confidence) in enumerate(rows):
            s.length += 1
            if not s.versions or s.versions[-1][1] != version:
                s.versions.append((len(s.token_ids), version))
            s.token_ids.append(token)
            s.logprobs.append(logprob)
            s.raw_logprobs.append(raw)
            s.confidence.append(confidence)
            request = s.request
            if s.thought is not None and s.thought.push(token, len(s.token_ids) - 1):
                ended.setdefault(row, StopReason.LOOP)
            if s.text is not None or request.stream:
                self._show(s, row, ended)
            if s.constraint is not None and row not in ended:
                try:
                    s.constraint.accept(token)
                    s.allowed = s.constraint.mask()
                except Exception as e:  # the edge of one request
                    broken[request.id] = request, e
            if request.watch is not None:
                grown = watched.setdefault(request.id, (request, [], []))
                grown[1].append(s.index)
                grown[2].append(confidence)
        for row, top in draws.top.items():
            traces[row].top.append(top)
        for row, reason in ended.items():
            traces[row].stop = reason
        for request, indices, confidences in watched.values():
            self._consult(request, indices, confidences)
        for request, error in broken.values():
            self._give_up(request, error)
        for row, reason in ended.items():
            if traces[row].index in self.live.get(traces[row].request.id, {}):
                self._finish(traces[row], reason)

    def _show(self, s: Sequence, row: int, ended: dict[int, StopReason]) -> None:
        """Text of the newest token: what may be shown of it, and whether it completes a stop string."""
        request, token, piece = s.request, s.token_ids[-1], ""
        if s.text is not None and not (ended.get(row) is StopReason.STOP and token in request.stop_ids):
            piece = s.text.push(token)
            if s.text.cut >= 0:
                ended[row] = StopReason.STOP
        if s.text is not None and row in ended:
            piece += s.text.flush()
        if request.stream:
            self._events.append(Event(request.id, s.index, token, s.logprobs[-1], s.confidence[-1], piece, None))

    def _consult(self, request: Request, indices: list[int], confidences: list[float]) -> None:
        """Let a request's Watch see the step; it may end any of its traces, also those that wait."""
        live = self.live[request.id]
        verdicts = self._ask(request, "step", indices, confidences) or {}
        for index, reason in verdicts.items():
            s = live.get(index)
            if s is not None and s.stop is None:
                self._finish(s, reason)

    def _ask(self, request: Request, verb: str, *arguments: Any) -> Any:
        """Call a request's Watch. One that raises costs its own traces, not its neighbours'."""
        if request.watch is None:
            return None
        try:
            return getattr(request.watch, verb)(*arguments)
        except Exception as e:  # the edge of one request
            logger.warning("request %d: its watch raised %r; the request is given up", request.id, e)
            self._give_up(request, e)
            return None

    def _give_up(self, request: Request, error: Exception) -> None:
        """End a request whose watch or grammar failed."""
        self.failures[request.id] = error
        request.watch = None
        self.abort(request.id)

    def _finish(self, s: Sequence, reason: StopReason) -> None:
        """End a trace: its memory is free at once, its Trace goes to the watch and into the events."""
        request = s.request
        s.stop = s.stop or reason
        if self._flight is not None and any(s is t for t in self._flight[0].traces):
            s.length += 1  # the step in flight computes its last token as well: memory is that much further
        # One trace that came to its end is a turn of a conversation that may go on.
        self.scheduler.drop(s, keep=reason is StopReason.STOP and request.sampling.n == 1)
        live = self.live[request.id]
        del live[s.index]
        if not live:
            del self.live[request.id]
        trace = trace_of(s, self.decode, self.split)
        self._events.append(
            Event(request.id, s.index, -1, 0.0, 0.0, s.text.flush() if s.text is not None else "", trace)
        )
        self._ask(request, "finish", s.index, trace)

    def _constraints(self, prompt: Prompt, sampling: SamplingParams) -> list[Constraint]:
        """One for each trace, or none. Raises ConfigError for a grammar of another vocabulary."""
        if sampling.grammar is None:
            return []
        opened = inside(self.think, prompt.token_ids, self.stop_ids)
        made = [sampling.grammar.begin(opened) for _ in range(sampling.n)]
        if (wide := len(made[0].mask())) != self.vocab:
            raise ConfigError(
                f"the grammar knows {wide} tokens, the model {self.vocab}: give it the model's vocabulary"
            )
        return made

    def _limit(self, prompt: Prompt, sampling: SamplingParams) -> int:
        """Tokens a trace of this prompt may have. Raises ConfigError when there is no room for one."""
        ids = prompt.token_ids
        if not ids:
            raise ConfigError("the prompt has no token ids: give text with a tokenizer, or at least one token id")
        if min(ids) < 0 or max(ids) >= self.vocab:
            bad = next(i for i in ids if not 0 <= i < self.vocab)
            raise ConfigError(
                f"token id {bad} is outside the vocabulary of {self.vocab}; use the checkpoint's own tokenizer"
            )
        for token in sampling.logit_bias:
            if not 0 <= token < self.vocab:
                raise ConfigError(f"logit_bias names token id {token}, outside the vocabulary of {self.vocab}")
        for token in sampling.stop_ids:
            if not 0 <= token < self.vocab:
                raise ConfigError(f"stop token id {token} is outside the vocabulary of {self.vocab}")
        if sampling.stop and self.feeder is None:
            raise ConfigError("stop strings need a tokenizer; without one, use stop_ids")
        if (sampling.thinking_budget is not None or sampling.answer_reserve) and self.think is None:
            raise ConfigError("thinking_budget and answer_reserve need a tokenizer that knows <think> and </think>")
        room = min(self.context, self.memory.capacity) - len(ids)
        if room < 1:
            which = "context" if self.context <= self.memory.capacity else "cache memory (raise memory_bytes)"
            raise ContextError(
                f"the prompt has {len(ids)} tokens, the {which} holds {room + len(ids)}: shorten the prompt"
            )
        return int(min(sampling.max_tokens, room))


def _marks(prompt: Prompt) -> frozenset[int]:
    """Where to keep the state: after the first and the last marked turn, and at the prompt's end (but for its last token)."""
    end = len(prompt.token_ids) - 1
    inside = [m for m in prompt.marks if 0 < m <= end]
    return frozenset((*inside[:1], *inside[-1:], end)) - {0}


def _kind(model: Any) -> tuple[torch.device, torch.dtype]:
    """Where a model is and what it computes keys and values in."""
    if isinstance(model, NativeModel):
        return model.device, model.dtype
    return model.head[0].device, model.head[0].dtype


def _sizes(model: Any) -> tuple[int, int, int]:
    return model.config.num_hidden_layers, model.config.hidden_size, model.config.vocab_size
