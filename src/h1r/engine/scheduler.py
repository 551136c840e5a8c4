"""What runs in the next step. Pure bookkeeping: knows requests and memory as numbers, never tensors.

Order of rights, oldest first: a trace's next page; sequences parked for lack of memory; forks of finished prompts; new
prompts. Nobody reserves room for max_tokens: when pages run out the youngest sequence is parked (its pages and state
copied out, later copied back), so nothing is lost or computed twice. The oldest sequence is never parked for a younger
one, and alone it fits, so every schedule makes progress.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import NamedTuple

from h1r.engine.memory import Memory
from h1r.engine.prefix import Prefixes, Snapshot
from h1r.engine.request import STEM, Request, Sequence


class Clear(NamedTuple):
    """Zero a slot that a new sequence takes."""

    slot: int


class Copy(NamedTuple):
    """Copy one slot to another, and the first `used` tokens of one page to another; a pair of -1 is not copied."""

    slot: int
    to_slot: int
    page: int = -1
    to_page: int = -1
    used: int = 0


class Save(NamedTuple):
    """Copy a sequence out to the host, into `sequence.host`, and for the `heirs` that share it."""

    sequence: Sequence
    slot: int
    pages: tuple[int, ...]
    heirs: tuple[Sequence, ...]


class Load(NamedTuple):
    """Copy `sequence.host` back into a slot and pages."""

    sequence: Sequence
    slot: int
    pages: tuple[int, ...]


Move = Clear | Copy | Save | Load


@dataclass(slots=True)
class Plan:
    """One step: memory moves in order, then prompt chunks (sequence, tokens), then one token of every trace."""

    moves: list[Move] = field(default_factory=list)
    prefill: list[tuple[Sequence, int]] = field(default_factory=list)
    decode: list[Sequence] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not self.prefill and not self.decode


class Scheduler:
    """Holds the queues.

    chunk     the most prompt tokens one step computes
    settle    keep sequences side by side in the pools
    prefixes  how many snapshots of prefixes are kept at most
    fresh     requests with a smaller id began under other weights: no state of theirs is kept
    forked    prompt tokens that traces took over from their stem instead of computing them
    """

    def __init__(self, memory: Memory, chunk: int, settle: bool = True, prefixes: int = 0) -> None:
        self.memory, self.chunk, self.settle = memory, chunk, settle
        self.prefixes = Prefixes(memory, min(prefixes, memory.slots.limit - 1))
        self.forked = self.fresh = 0
        self.waiting: deque[Request] = deque()
        self.resident: list[Sequence] = []  # in memory, oldest first
        self.parked: list[Sequence] = []  # copied out, oldest first

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.resident or self.parked)

    def add(self, request: Request) -> None:
        request.traces = [Sequence(request=request, index=i) for i in range(request.sampling.n)]
        request.unborn = request.sampling.n
        self.waiting.append(request)

    def schedule(self) -> Plan:
        plan = Plan()
        if self.settle:
            self._settle(plan)
        self._snapshot(plan)
        while True:
            self._make_room(plan)
            self._fork_ready(plan)
            self._continue_prompts(plan)
            came_back = self._bring_back(plan)
            self._start_prompts(plan)
            plan.decode = sorted((s for s in self.resident if not s.is_stem and s.ready), key=_slot)
            if not plan.empty or not self.resident:
                return plan
            if not came_back:
                # Stems hold all the memory and none can go on: the youngest makes way.
                self._park(self.resident[-1], plan)

    def repeats(self, traces: Items[Sequence]) -> bool:
        """Whether the next step is these traces once more, before their newest tokens are known: nobody else waits, and
        each has, or now gets, a page for the token after next."""
        size, pages = self.memory.page_size, self.memory.pages
        if self.waiting or self.parked or len(self.resident) != len(traces) or any(s.slot < 0 for s in traces):
            return False
        short = [s for s in traces if s.length + 1 == len(s.pages) * size]
        if len(short) > len(pages.free):
            return False
        for s in short:
            s.pages.append(pages.take())
            s.dirty = True
        return True

    def drop(self, sequence: Sequence, keep: bool = False) -> None:
        """Forget a sequence, wherever it is; its memory is free at once, or (`keep`) becomes a snapshot's."""
        request = sequence.request
        if sequence.slot >= 0:
            self.resident.remove(sequence)
            if not (keep and self._bequeath(sequence)):
                self._release(sequence)
        elif sequence in self.parked:
            self.parked.remove(sequence)
            sequence.host = None
        elif not sequence.is_stem:
            # Not forked yet. The unborn are the last traces; keep them so.
            assert request.unborn > 0
            request.traces.remove(sequence)
            request.unborn -= 1
            if request.unborn == 0 and request.stem is not None:
                self.drop(request.stem)
                request.stem = None
            if request.unborn == 0 and request in self.waiting:
                self.waiting.remove(request)

    def reread(self) -> tuple[int, int]:
        """Have everything in flight compute its tokens again, in the memory it has. Traces, and tokens to be computed."""
        everyone = [*self.resident, *self.parked]
        tokens = sum(s.length for s in everyone)
        for s in everyone:
            s.length, s.host = 0, None
        return sum(not s.is_stem for s in everyone), tokens

    def check(self) -> None:
        """Idle invariant: queues are empty and so is the memory."""
        assert self.idle, "check_integrity is for an idle engine"
        kept = self.prefixes.kept.values()
        self.memory.check([p for s in kept for p in s.pages], [s.slot for s in kept])

    # Steps of `schedule`

    def _settle(self, plan: Plan) -> None:
        """Keep sequences side by side in the lowest slots, and those of one page in the page of their slot's number.

        The model then reads the pools as they lie; with holes between them it would have to gather in every step.
        """
        slots, pages = self.memory.slots, self.memory.pages
        while slots.free and slots.free[0] < len(self.resident):
            last = max(self.resident, key=_slot)
            to = slots.take()
            plan.moves.append(Copy(last.slot, to))
            slots.drop(last.slot)
            last.slot, last.dirty = to, True
        stray = [s for s in self.resident if len(s.pages) == 1 and s.pages[0] != s.slot and pages.refs[s.pages[0]] == 1]
        while free := [s for s in stray if s.slot < pages.size and not pages.refs[s.slot]]:
            for s in free:
                old, s.pages[0], s.dirty = s.pages[0], pages.take(s.slot), True
                plan.moves.append(Copy(-1, -1, old, s.slot, s.length))
                pages.drop(old)
            stray = [s for s in stray if s not in free]

    def _snapshot(self, plan: Plan) -> None:
        """Keep the states of stems that stand at a mark, before they go on."""
        memory, prefixes = self.memory, self.prefixes
        for stem in [s for s in self.resident if s.is_stem and s.length in s.request.marks]:
            tokens = tuple(stem.request.prompt.token_ids[: stem.length])
            shared, used = divmod(stem.length, memory.page_size)
            if stem.request.id < self.fresh or not prefixes.wanted(stem.length) or prefixes.touch(tokens):
                continue
            if not prefixes.make_room(1, 1 if used else 0):
                continue
            slot, pages, pair = memory.slots.take(), [memory.pages.share(p) for p in stem.pages[:shared]], (-1, -1)
            if used:
                pages.append(memory.pages.take())
                pair = (stem.pages[shared], pages[-1])
            plan.moves.append(Copy(stem.slot, slot, *pair, used))
            prefixes.add(tokens, slot, pages)

    def _make_room(self, plan: Plan) -> None:
        """A page for every trace whose next token needs one."""
        size, pages = self.memory.page_size, self.memory.pages
        for sequence in [s for s in self.resident if s.length == len(s.pages) * size and not s.is_stem]:
            while sequence.slot >= 0 and not self.prefixes.make_room(0, 1):
                self._park(self.resident[-1], plan)
            if sequence.slot >= 0:
                sequence.pages.append(pages.take())
                sequence.dirty = True

    def _bring_back(self, plan: Plan) -> bool:
        """Copy parked sequences back in, oldest first, each with room for its next token. Tells whether any came."""
        memory, waited = self.memory, len(self.parked)
        while self.parked:
            sequence = self.parked[0]
            need = memory.pages_for((sequence.length if sequence.is_stem else sequence.target) + 1)
            if not self.prefixes.make_room(1, need + self._margin()):
                break
            del self.parked[0]
            sequence.slot = memory.slots.take()
            sequence.pages = [memory.pages.take() for _ in range(need)]
            sequence.dirty = True
            load: Move = Load(sequence, sequence.slot, tuple(sequence.pages))
            plan.moves.append(load if sequence.length else Clear(sequence.slot))
            insort(self.resident, sequence, key=_age)
        return len(self.parked) < waited

    def _fork_ready(self, plan: Plan) -> None:
        for stem in [s for s in self.resident if s.is_stem and s.ready]:
            if self.parked and self.parked[0].key < stem.key:
                return
            self._fork(stem, plan)

    def _fork(self, stem: Sequence, plan: Plan) -> None:
        """Give birth to as many of a stem's traces as memory allows; the last one takes the stem's own place."""
        request, memory = stem.request, self.memory
        shared = stem.length // memory.page_size
        while request.unborn:
            last = request.unborn == 1
            room = last and shared < len(stem.pages)
            need = 0 if last else 1, 0 if room else 1
            if not self.prefixes.make_room(need[0], need[1] + need[1] * self._margin()):
                self.prefixes.make_room(*need)
            if (not room and not memory.pages.available) or (not last and not memory.slots.available):
                return
            if not room and memory.pages.available <= self._margin() and not all(s.is_stem for s in self.resident):
                return
            trace = request.traces[-request.unborn]
            trace.length, trace.dirty = stem.length, True
            self.forked += 0 if last else stem.length
            if last:
                self.resident.remove(stem)
                trace.slot, trace.pages = stem.slot, stem.pages
                stem.slot, stem.pages, request.stem = -1, [], None
                if not room:
                    trace.pages.append(memory.pages.take())
            else:
                trace.slot = memory.slots.take()
                trace.pages = [memory.pages.share(p) for p in stem.pages[:shared]] + [memory.pages.take()]
                used = stem.length - shared * memory.page_size
                pair = (stem.pages[shared], trace.pages[-1]) if used else (-1, -1)
                plan.moves.append(Copy(stem.slot, trace.slot, *pair, used))
            request.unborn -= 1
            insort(self.resident, trace, key=_age)

    def _continue_prompts(self, plan: Plan) -> None:
        budget = self.chunk
        for stem in [s for s in self.resident if not s.ready]:
            budget -= self._prefill(stem, budget, plan)

    def _start_prompts(self, plan: Plan) -> None:
        """New prompts, unless older ones still wait for memory."""
        memory = self.memory
        budget = self.chunk - sum(n for _, n in plan.prefill)
        while self.waiting and budget > 0 and not self.parked:
            request = self.waiting[0]
            hit = self.prefixes.find(request.prompt.token_ids, request.prompt_length - 1)
            # Slots that the stems in memory will fork into are spoken for.
            slots = 1 + sum(s.request.unborn - 1 for s in self.resident if s.is_stem)
            pages = memory.pages_for(request.prompt_length) + self._margin()
            if not self.prefixes.make_room(slots, pages - (hit.length // memory.page_size if hit else 0), hit):
                # Alone, a prompt may have the room of its own prefix too.
                if hit is None or self.resident or not self.prefixes.make_room(slots, pages):
                    return
                hit = None
            self.waiting.popleft()
            stem = Sequence(request=request, index=STEM, slot=memory.slots.take())
            request.stem = stem
            insort(self.resident, stem, key=_age)
            self._begin(stem, hit, plan)
            if stem.ready:
                self._fork(stem, plan)
            else:
                budget -= self._prefill(stem, budget, plan)

    def _begin(self, stem: Sequence, hit: Snapshot | None, plan: Plan) -> None:
        """A new stem's memory: empty, or that of the prefix it begins with."""
        memory = self.memory
        if hit is None:
            plan.moves.append(Clear(stem.slot))
            stem.pages.append(memory.pages.take())
            return
        shared, used = divmod(hit.length, memory.page_size)
        stem.pages = [memory.pages.share(p) for p in hit.pages[:shared]]
        pair = (-1, -1)
        if used:
            stem.pages.append(memory.pages.take())
            pair = (hit.pages[shared], stem.pages[-1])
        plan.moves.append(Copy(hit.slot, stem.slot, *pair, used))
        stem.length = hit.length
        self.prefixes.hits += 1
        self.prefixes.tokens += hit.length

    def _prefill(self, stem: Sequence, budget: int, plan: Plan) -> int:
        """Plan the next chunk of a stem, or of a trace that reads itself again, as long as budget and pages allow. Returns its
        tokens."""
        memory = self.memory
        marks = stem.request.marks if stem.is_stem else ()
        end = min((m for m in marks if m > stem.length), default=stem.target)
        count = min(end - stem.length, budget)
        self.prefixes.make_room(0, memory.pages_for(stem.length + count) - len(stem.pages))
        count = min(count, (len(stem.pages) + memory.pages.available) * memory.page_size - stem.length)
        if count <= 0:
            return 0
        while len(stem.pages) * memory.page_size < stem.length + count:
            stem.pages.append(memory.pages.take())
        stem.dirty = True
        plan.prefill.append((stem, count))
        return count

    # Memory

    def _margin(self) -> int:
        """Pages left free for those in memory before another comes in: four tokens each, against thrashing."""
        return self.memory.pages_for(4 * len(self.resident))

    def _park(self, sequence: Sequence, plan: Plan) -> None:
        """Copy a sequence out. A finished stem dissolves: its unborn traces share the one copy."""
        request = sequence.request
        heirs: tuple[Sequence, ...] = ()
        if sequence.is_stem and sequence.ready:
            heirs = tuple(request.traces[-request.unborn :])
            request.unborn, request.stem = 0, None
            for trace in heirs:
                trace.length = sequence.length
        used = tuple(sequence.pages[: self.memory.pages_for(sequence.length)])
        plan.moves.append(Save(sequence, sequence.slot, used, heirs))
        self.resident.remove(sequence)
        self._release(sequence)
        for parked in heirs or (sequence,):
            insort(self.parked, parked, key=_age)

    def _bequeath(self, sequence: Sequence) -> bool:
        """Make a finished trace's memory a snapshot of all it computed: the next turn of a chat begins with it."""
        memory, prefixes = self.memory, self.prefixes
        written = sequence.length - sequence.request.prompt_length
        tokens = (*sequence.request.prompt.token_ids, *sequence.token_ids[: max(written, 0)])
        if sequence.request.id < self.fresh or written < 0:
            return False
        if not prefixes.wanted(sequence.length) or prefixes.touch(tokens):
            return False
        used = memory.pages_for(sequence.length)
        for page in sequence.pages[used:]:
            memory.pages.drop(page)
        slot, pages = sequence.slot, sequence.pages[:used]
        sequence.slot, sequence.pages = -1, []
        prefixes.add(tokens, slot, pages)
        return True

    def _release(self, sequence: Sequence) -> None:
        self.memory.slots.drop(sequence.slot)
        for page in sequence.pages:
            self.memory.pages.drop(page)
        sequence.slot, sequence.pages = -1, []


def _age(s: Sequence) -> tuple[int, int]:
    return s.key


def _slot(s: Sequence) -> int:
    return s.slot
