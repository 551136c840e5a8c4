"""What runs in the next step. Pure bookkeeping: knows requests and memory as numbers, never tensors.

Order of rights, oldest first: a trace's next page; sequences parked for lack of memory; forks of finished prompts; new
prompts. Nobody reserves room for max_tokens: when pages run out the youngest sequence is parked (its pages and state
copied out, later copied back), so nothing is lost or computed twice. The oldest sequence is never parked for a younger
one, and alone it fits, so every schedule makes progress.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from h1r.engine.memory import Memory
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
    """Holds the queues. `chunk` is the most prompt tokens one step computes; `settle`: keep sequences side by side."""

    def __init__(self, memory: Memory, chunk: int, settle: bool = True) -> None:
        self.memory, self.chunk, self.settle = memory, chunk, settle
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
        while True:
            self._make_room(plan)
            self._fork_ready(plan)
            self._continue_prompts(plan)
            came_back = self._bring_back(plan)
            self._start_prompts(plan)
            plan.decode = sorted((s for s in self.resident if not s.is_stem), key=_slot)
            if not plan.empty or not self.resident:
                return plan
            if not came_back:
                # Stems hold all the memory and none can go on: the youngest makes way.
                self._park(self.resident[-1], plan)

    def drop(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is; its memory is free at once."""
        request = sequence.request
        if sequence.slot >= 0:
            self.resident.remove(sequence)
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

    def check(self) -> None:
        """Idle invariant: queues are empty and so is the memory."""
        assert self.idle, "check_integrity is for an idle engine"
        self.memory.check()

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

    def _make_room(self, plan: Plan) -> None:
        """A page for every trace whose next token needs one."""
        size, pages = self.memory.page_size, self.memory.pages
        for sequence in [s for s in self.resident if s.length == len(s.pages) * size and not s.is_stem]:
            while sequence.slot >= 0 and not pages.available:
                self._park(self.resident[-1], plan)
            if sequence.slot >= 0:
                sequence.pages.append(pages.take())
                sequence.dirty = True

    def _bring_back(self, plan: Plan) -> bool:
        """Copy parked sequences back in, oldest first, each with room for its next token. Tells whether any came."""
        memory, waited = self.memory, len(self.parked)
        while self.parked:
            sequence = self.parked[0]
            need = memory.pages_for(sequence.length + 1)
            if not memory.slots.available or memory.pages.available < need + self._margin():
                break
            del self.parked[0]
            sequence.slot = memory.slots.take()
            sequence.pages = [memory.pages.take() for _ in range(need)]
            sequence.dirty = True
            plan.moves.append(Load(sequence, sequence.slot, tuple(sequence.pages)))
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
            if (not room and not memory.pages.available) or (not last and not memory.slots.available):
                return
            if not room and memory.pages.available <= self._margin() and not all(s.is_stem for s in self.resident):
                return
            trace = request.traces[-request.unborn]
            trace.length, trace.dirty = stem.length, True
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
        for stem in [s for s in self.resident if s.is_stem and not s.ready]:
            budget -= self._prefill(stem, budget, plan)

    def _start_prompts(self, plan: Plan) -> None:
        """New prompts, unless older ones still wait for memory."""
        memory = self.memory
        budget = self.chunk - sum(n for _, n in plan.prefill)
        while self.waiting and budget > 0 and not self.parked:
            request = self.waiting[0]
            # Slots that the stems in memory will fork into are spoken for.
            slots = memory.slots.available - sum(s.request.unborn - 1 for s in self.resident if s.is_stem)
            pages = memory.pages.available - memory.pages_for(request.prompt_length) - self._margin()
            if slots < 1 or pages < 0:
                return
            self.waiting.popleft()
            stem = Sequence(request=request, index=STEM, slot=memory.slots.take())
            request.stem = stem
            insort(self.resident, stem, key=_age)
            plan.moves.append(Clear(stem.slot))
            stem.pages.append(memory.pages.take())
            if stem.ready:
                self._fork(stem, plan)
            else:
                budget -= self._prefill(stem, budget, plan)

    def _prefill(self, stem: Sequence, budget: int, plan: Plan) -> int:
        """Plan the stem's next chunk, as long as budget and pages allow. Returns its tokens."""
        memory = self.memory
        room = (len(stem.pages) + memory.pages.available) * memory.page_size - stem.length
        count = min(stem.request.prompt_length - 1 - stem.length, budget, room)
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

    def _release(self, sequence: Sequence) -> None:
        self.memory.slots.drop(sequence.slot)
        for page in sequence.pages:
            self.memory.pages.drop(page)
        sequence.slot, sequence.pages = -1, []


def _age(s: Sequence) -> tuple[int, int]:
    return s.key


def _slot(s: Sequence) -> int:
    return s.slot
