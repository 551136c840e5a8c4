"""Carries out a plan on tensors: memory moves, prompt chunks, one token of every trace. Knows no policy.

Letters: B traces of the step, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from itertools import groupby
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from h1r.engine import cuda, replay
from h1r.engine.memory import Memory
from h1r.engine.native.model import NativeCache, NativeModel
from h1r.engine.request import Sequence
from h1r.engine.scheduler import Clear, Copy, Load, Plan, Save
from h1r.model.cache import Cache, Sequences
from h1r.ops.layout import Layout

PAGED = ("k", "v")  # [L, pages, page_size, K, d]
SLOTTED = ("conv", "ssm", "recent_rows", "recent_steps", "pending")  # [L, slots, ...]


class Host(NamedTuple):
    """A parked sequence: its pages and its slot, on the host."""

    pages: dict[str, Tensor]
    slot: dict[str, Tensor]


AnyCache = Cache | NativeCache


def new_cache(
    model: Any, config: Any, pages: int, page_size: int, slots: int, dtype: torch.dtype, state_dtype: torch.dtype,
    device: torch.device, kv_dtype: torch.dtype | None = None, state_every: int = 1,
) -> AnyCache:  # fmt: skip
    """An empty cache of the kind the model reads."""
    if isinstance(model, NativeModel):
        return model.cache(pages, page_size, slots, state_dtype)
    return Cache(
        config, pages, page_size, slots, dtype=dtype, state_dtype=state_dtype, device=device, kv_dtype=kv_dtype,
        state_every=state_every,
    )  # fmt: skip


class Runner:
    """Owns the model and its cache tensors, which follow the pools' sizes."""

    def __init__(
        self, model: Any, config: Any, memory: Memory, *, dtype: torch.dtype, state_dtype: torch.dtype,
        device: torch.device, poison: bool = False, exact: bool = False, graphs: bool = True,
        kv_dtype: torch.dtype | None = None, state_every: int = 1, siblings: bool = True,
    ) -> None:  # fmt: skip
        self.siblings = siblings
        self.chunk = replay.chunk_of(config) if exact else 0
        self.model, self.config, self.memory, self.device, self.poison = model, config, memory, device, poison
        self.dtype, self.state_dtype, self.kv_dtype, self.state_every = dtype, state_dtype, kv_dtype, state_every
        self.graphs = graphs and device.type == "cuda"
        self.cache = self._new_cache()
        self.table = torch.zeros(memory.slots.size, 1, dtype=torch.int64)
        self.decoder = self._new_decoder()

    def swap(self, model: Any) -> None:
        """Other weights of the same shapes; on a GPU they are written over the old ones, which the graphs read."""
        if self.decoder is not None:
            self.decoder.settle(range(self.memory.slots.size))  # what is pending decays by the weights that wrote it
            cuda.overwrite(self.model, model)
        else:
            self.model = model

    def _new_decoder(self) -> cuda.Decoder | None:
        """Decoding by the GPU's kernels, where they fit."""
        memory = self.memory
        if self.chunk or isinstance(self.cache, NativeCache) or not cuda.fits(self.model, memory.page_size):
            return None
        capacity = min(memory.pages.limit, memory.pages_for(self.config.max_position_embeddings) + 1)
        return cuda.Decoder(self.model, self.cache, memory.slots.size, capacity, self.graphs, self.siblings)

    @torch.inference_mode()
    def run(self, plan: Plan) -> Tensor | None:
        """Logits [B,V] fp32 of the plan's traces, or None when it decodes nothing."""
        self._ready(plan)
        if self.chunk:
            return self._replay(plan)
        if plan.prefill and isinstance(self.model, NativeModel):
            return self._together(plan.prefill, plan.decode)
        if plan.prefill:
            self._prefill(plan.prefill)
        if not plan.decode:
            return None
        return self._decode(plan.decode) if self.decoder is None else self.decoder.logits(plan.decode)

    @torch.inference_mode()
    def warm(self) -> None:
        """On a GPU, do now what the first requests would wait for."""
        if self.decoder is not None and self.graphs:
            self.decoder.warm(self.memory.slots.limit)

    @torch.inference_mode()
    def launch(self, plan: Plan, sampling: cuda.Sampling) -> cuda.Flight:
        """The plan, its tokens drawn on the device; returns before they are known."""
        assert self.decoder is not None
        self._ready(plan)
        if plan.prefill:
            self._prefill(plan.prefill)
        return self.decoder.launch(plan.decode, sampling)

    @torch.inference_mode()
    def chain(self, traces: Items[Sequence]) -> cuda.Flight:
        """The step before once more, from the tokens that it drew."""
        assert self.decoder is not None
        return self.decoder.launch(traces, None)

    def _ready(self, plan: Plan) -> None:
        self._fit()
        self._move(plan)
        if self.poison:
            self._poison()

    def _together(self, chunks: Items[tuple[Sequence, int]], traces: Items[Sequence]) -> Tensor | None:
        """Prompt chunks and single tokens in one pass: the weights are read once."""
        ids: list[int] = []
        for s, count in chunks:
            ids += s.tokens(s.length, s.length + count)
        ids += [s.next_token for s in traces]
        rows = [s for s, _ in chunks] + list(traces)
        layout = Layout.of([n for _, n in chunks] + [1] * len(traces), offsets=[s.length for s in rows])
        hidden = self.model.forward(torch.tensor(ids), layout, self.cache, self._rows(rows))
        logits: Tensor | None = self.model.logits(hidden[len(hidden) - len(traces) :]) if traces else None
        return logits

    def _replay(self, plan: Plan) -> Tensor | None:
        """The plan by `replay.extend`: states stay at chunk boundaries."""
        hidden = None
        for group in (plan.prefill, [(s, 1) for s in plan.decode]):
            if group:
                rows = [s for s, _ in group]
                ends, tables = [s.length + n for s, n in group], self._rows(rows)
                assert isinstance(self.cache, Cache)
                hidden = replay.extend(self.model, self.cache, rows, ends, tables, self.chunk)
        if hidden is None or not plan.decode:
            return None
        logits: Tensor = self.model.logits(F.pad(hidden, (0, 0, 0, max(0, replay.ALIKE - len(hidden)))))
        return logits[: len(hidden)]

    def _prefill(self, chunks: Items[tuple[Sequence, int]]) -> None:
        ids: list[int] = []
        for s, count in chunks:
            ids += s.tokens(s.length, s.length + count)
        layout = Layout.of(tuple(n for _, n in chunks), offsets=tuple(s.length for s, _ in chunks), device=self.device)
        if self.decoder is not None:
            self.decoder.settle([s.slot for s, _ in chunks])
        self.model.forward(
            torch.tensor(ids, device=self.device), layout, self.cache, self._rows([s for s, _ in chunks])
        )

    def _decode(self, traces: Items[Sequence]) -> Tensor:
        rows = self._rows(traces)
        tokens = torch.tensor([s.next_token for s in traces], device=self.device)
        hidden: Tensor = self.model.decode(tokens, rows.lengths, self.cache, rows)
        logits: Tensor = self.model.logits(hidden)
        return logits

    def _rows(self, sequences: Items[Sequence]) -> Sequences:
        width = 1
        for s in sequences:
            width = max(width, len(s.pages))
            if s.dirty:
                self._write(s)
        slots = torch.tensor([s.slot for s in sequences])
        lengths = torch.tensor([s.length for s in sequences])
        pages = self.table[slots, :width]
        return Sequences(slots.to(self.device), pages.to(self.device), lengths.to(self.device))

    def _write(self, s: Sequence) -> None:
        """A sequence's row of the page table; its tail is page 0, which is read but never counted."""
        if len(s.pages) > self.table.shape[1]:
            wider = self.table.new_zeros(len(self.table), 2 * len(s.pages))
            wider[:, : self.table.shape[1]] = self.table
            self.table = wider
        row = self.table[s.slot]
        row[: len(s.pages)] = torch.tensor(s.pages)
        row[len(s.pages) :] = 0
        s.dirty = False

    # Memory

    def _move(self, plan: Plan) -> None:
        """The moves in order; a run of clears or of independent copies goes in one operation."""
        for kind, group in groupby(plan.moves, key=type):
            moves: list[Any] = list(group)
            if kind is Clear:
                slots = torch.tensor([m.slot for m in moves], device=self.device)
                for tensor in self._tensors(SLOTTED).values():
                    tensor[:, slots] = 0
            elif kind is Copy:
                self._copy(moves)
            elif kind is Save:
                for move in moves:
                    self._save(move)
            else:
                assert kind is Load
                for move in moves:
                    self._load(move)

    def _copy(self, moves: Items[Copy]) -> None:
        begin, written = 0, set[tuple[str, int]]()
        for i, m in enumerate(moves):
            # A source that was just written must be read after that.
            if ("slot", m.slot) in written or ("page", m.page) in written:
                self._copy_at_once(moves[begin:i])
                begin, written = i, set()
            written |= {("slot", m.to_slot), ("page", m.to_page)} - {("slot", -1), ("page", -1)}
        self._copy_at_once(moves[begin:])

    def _copy_at_once(self, moves: Items[Copy]) -> None:
        slots = torch.tensor([(m.slot, m.to_slot) for m in moves if m.slot >= 0], dtype=torch.int64, device=self.device)
        if len(slots):
            for tensor in self._tensors(SLOTTED).values():
                tensor[:, slots[:, 1]] = tensor[:, slots[:, 0]]
        pages = torch.tensor([(m.page, m.to_page) for m in moves if m.page >= 0], dtype=torch.int64, device=self.device)
        if len(pages):
            used = max(m.used for m in moves)
            for tensor in self._tensors(PAGED).values():
                if isinstance(self.cache, NativeCache):  # a page's inside is the kernel's own
                    tensor[:, pages[:, 1]] = tensor[:, pages[:, 0]]
                else:
                    tensor[:, pages[:, 1], :used] = tensor[:, pages[:, 0], :used]

    def _save(self, move: Save) -> None:
        pages = torch.tensor(move.pages, dtype=torch.int64, device=self.device)
        host = Host(
            {name: tensor[:, pages].cpu() for name, tensor in self._tensors(PAGED).items()},
            {name: tensor[:, move.slot].to("cpu", copy=True) for name, tensor in self._tensors(SLOTTED).items()},
        )
        for s in move.heirs or (move.sequence,):
            s.host = host

    def _load(self, move: Load) -> None:
        host: Host = move.sequence.host
        move.sequence.host = None
        for name, tensor in self._tensors(SLOTTED).items():
            tensor[:, move.slot] = host.slot[name].to(self.device)
        for name, tensor in self._tensors(PAGED).items():
            saved = host.pages[name]
            pages = torch.tensor(move.pages[: saved.shape[1]], dtype=torch.int64, device=self.device)
            tensor[:, pages] = saved.to(self.device)

    def _tensors(self, names: Items[str]) -> dict[str, Tensor]:
        """The cache's tensors of a kind; a model without state has none of the second."""
        return {n: t for n in names if (t := getattr(self.cache, n, None)) is not None and t.numel()}

    def _new_cache(self) -> AnyCache:
        memory = self.memory
        return new_cache(
            self.model, self.config, memory.pages.size, memory.page_size, memory.slots.size, self.dtype,
            self.state_dtype, self.device, self.kv_dtype, self.state_every,
        )  # fmt: skip

    def _fit(self) -> None:
        """Follow the pools' growth."""
        pages, slots = self.memory.pages.size, self.memory.slots.size
        if self.cache.k.shape[1] < pages or len(self.table) < slots:
            old = {**self._tensors(PAGED), **self._tensors(SLOTTED)}
            self.cache = self._new_cache()
            for name, new in {**self._tensors(PAGED), **self._tensors(SLOTTED)}.items():
                new[:, : old[name].shape[1]] = old[name]
            self.table = torch.cat((self.table, self.table.new_zeros(slots - len(self.table), self.table.shape[1])))
            self.decoder = self._new_decoder()

    def _poison(self) -> None:
        """Debugging: whatever nobody holds becomes NaN, so that reading it shows."""
        pages = torch.tensor(self.memory.pages.free, dtype=torch.int64, device=self.device)
        slots = torch.tensor(self.memory.slots.free, dtype=torch.int64, device=self.device)
        for names, free in ((PAGED, pages), (SLOTTED, slots)):
            for tensor in self._tensors(names).values():
                if tensor.is_floating_point():
                    tensor[:, free] = torch.nan
