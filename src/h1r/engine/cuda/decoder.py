"""Decode steps for the runner: rows up, a graph replayed, tokens back, with at most one step ahead of the host.

Graphs are captured by `warm`, or when a number of rows is first needed, one for each of SIZES; a step of fewer rows fills
up with padding. `launch` returns at once; `Flight.wait` brings its tokens. Without `sampling`, `launch` repeats the flight
before it with the tokens that it drew, which the host need not have seen.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from h1r.engine.request import Sequence
from h1r.model import fold
from h1r.model.cache import Cache
from h1r.ops import kernels
from h1r.ops.linear.coded import Coded, pack

SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)
WARMUPS = 2  # runs before a capture, in which kernels are compiled
WORTH = 1 << 14  # tokens that the rows of a prefix need not read again, from which on that pays a kernel of its own


class Sampling(NamedTuple):
    """What the draw needs of each row, [B]: fp32 temperature, top_p, min_p; int64 top_k, keys, first."""

    reals: npt.NDArray[np.float32]
    whole: npt.NDArray[np.int64]


class Flight(NamedTuple):
    """A step that was launched: its tokens [B] int64 and numbers [B,4] fp32, once `ready` has happened."""

    traces: list[Sequence]
    tokens: Tensor
    numbers: Tensor
    ready: Any

    def wait(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        if self.ready is not None:
            self.ready.synchronize()
        count = len(self.traces)
        return self.tokens.numpy()[:count].copy(), self.numbers.numpy()[:count].copy()


def fits(model: Any, page_size: int) -> bool:
    """Whether steps of this model can be run by the kernels."""
    weight = model.embed_tokens.weight
    folded = all(getattr(layer, "folded", None) is not None for layer in model.layers)
    return kernels.fit(weight) and folded and page_size >= 16 and page_size & (page_size - 1) == 0


class Decoder:
    """Owns the page table on the device, the steps and their graphs. `graphs=False`: kernels are launched one by one.
    `siblings`: pages that traces of one prompt share are read once for all of them."""

    def __init__(
        self, model: Any, cache: Cache, slots: int, capacity: int, graphs: bool = True, siblings: bool = True
    ) -> None:
        """slots: state slots of the cache; capacity: pages a sequence may have."""
        self.model, self.cache, self.graphs, self.siblings = model, cache, graphs, siblings
        self.shares = False  # whether rows of the step before shared pages
        self.device = model.embed_tokens.weight.device
        self.table = torch.zeros(slots, capacity, dtype=torch.int32, device=self.device)
        self.written: dict[int, list[int]] = {}
        self.steps: dict[int, Replays] = {}
        self.pool: Any = None
        self.room = torch.zeros(0, model.config.vocab_size, dtype=torch.float32, device=self.device)  # of logits
        self._last: tuple[int, list[int], bool] | None = None  # rows, traces, whether a row has a top_k and a top_p

    def logits(self, traces: Items[Sequence]) -> Tensor:
        """One token of every trace: logits [B,V] fp32, which the next step overwrites."""
        replays = self._prepare(traces, None)
        replays.forward(self.shares)
        logits: Tensor = replays.step.logits[: len(traces)]
        return logits

    def launch(self, traces: Items[Sequence], sampling: Sampling | None) -> Flight:
        """A step whose tokens are drawn on the device. Without `sampling` it repeats the step before it."""
        if sampling is None:
            assert self._last is not None
            replays = self.steps[self._last[0]]
            self._pages(traces)
        else:
            both = bool(((sampling.whole[0] > 0) & (sampling.reals[1] < 1)).any())
            replays = self._prepare(traces, sampling)
            self._last = replays.step.rows, [id(s) for s in traces], both
        replays.forward(self.shares)
        replays.draw(self._last[2])
        return self._bring(replays.step, list(traces))

    def warm(self, most: int) -> None:
        """Compile the kernels and capture the graphs of up to `most` rows, so that no request waits for it."""
        for size in reversed([n for n in SIZES if n <= most] or [SIZES[0]]):
            replays = self._replays(size)
            replays.forward()
            replays.draw(False)

    def settle(self, slots: Items[int]) -> None:
        """Write what is pending of these slots' states, which a prompt's next chunk or new weights need whole."""
        if self.cache.pending is None or not len(slots):
            return
        from h1r.engine.cuda.step import recent_of
        from h1r.ops.ssd.triton_recent import settle

        recent = recent_of(self.cache)
        if recent is not None and self.cache.ssm is not None:
            a = torch.stack([layer.weights().a for layer in self.model.layers]).float()
            index = self._pinned(torch.tensor(list(slots))).to(self.device, non_blocking=True)
            settle(self.cache.ssm, a, recent, index, self.model.config.mamba_n_groups)

    def chains(self, traces: Items[Sequence]) -> bool:
        """Whether the step before had these very traces."""
        return self._last is not None and self._last[1] == [id(s) for s in traces]

    # Inside

    def _prepare(self, traces: Items[Sequence], sampling: Sampling | None) -> Replays:
        size = next(n for n in (*SIZES, len(traces)) if n >= len(traces))
        self._pages(traces)
        self._last = None
        replays = self._replays(size)
        count = len(traces)
        whole = torch.zeros(6, size, dtype=torch.int64)
        whole[1] = -1
        whole[:3, :count] = torch.tensor([[s.next_token, s.length, s.slot] for s in traces]).t()
        if sampling is not None:
            whole[3:, :count] = torch.from_numpy(sampling.whole)
            reals = torch.ones(3, size)
            reals[:, :count] = torch.from_numpy(sampling.reals)
            replays.step.reals.copy_(self._pinned(reals), non_blocking=True)
        replays.step.whole.copy_(self._pinned(whole), non_blocking=True)
        families = prefixes(traces, self.cache.page_size) if self.siblings else []
        self.shares = bool(families)
        if families:
            self._share(replays.step.shared, families)
        return replays

    def _share(self, shared: Any, families: Items[tuple[list[int], int]]) -> None:
        """Tell the device which rows read a prefix together."""
        tokens, members = (
            torch.zeros(shared.tokens.shape, dtype=torch.int32),
            torch.full(shared.members.shape, -1, dtype=torch.int32),
        )
        size, bundle = members.shape[1], 0
        for rows, count in families:
            tokens[rows] = count
            for begin in range(0, len(rows), size):
                some = rows[begin : begin + size]
                members[bundle, : len(some)] = torch.tensor(some, dtype=torch.int32)
                bundle += 1
        shared.tokens.copy_(self._pinned(tokens), non_blocking=True)
        shared.members.copy_(self._pinned(members), non_blocking=True)

    def _replays(self, size: int) -> Replays:
        if size not in self.steps:
            if len(self.room) < size:
                self.room = self.room.new_zeros(size, self.room.shape[1])
            self.steps[size] = Replays(self, size)
        return self.steps[size]

    def _pages(self, traces: Items[Sequence]) -> None:
        """Bring the rows of the table up to date: only what was added to them, in one transfer."""
        changed: list[tuple[int, int, int]] = []
        for s in traces:
            known = self.written.setdefault(s.slot, [])
            if known != s.pages:
                same = next((i for i, (a, b) in enumerate(zip(known, s.pages, strict=False)) if a != b), len(known))
                same = min(same, len(s.pages))
                changed += [(s.slot, i, s.pages[i]) for i in range(same, len(s.pages))]
                self.written[s.slot] = list(s.pages)
        if changed:
            slots, at, pages = self._pinned(torch.tensor(changed, dtype=torch.int64).t().contiguous()).to(
                self.device, non_blocking=True
            )
            self.table[slots, at] = pages.to(torch.int32)

    def _bring(self, step: Any, traces: list[Sequence]) -> Flight:
        if self.device.type != "cuda":
            return Flight(traces, step.drawn.clone(), step.numbers.clone(), None)
        tokens = torch.empty(step.rows, dtype=torch.int64, pin_memory=True)
        numbers = torch.empty(step.rows, 4, dtype=torch.float32, pin_memory=True)
        tokens.copy_(step.drawn, non_blocking=True)
        numbers.copy_(step.numbers, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        return Flight(traces, tokens, numbers, ready)

    def _pinned(self, t: Tensor) -> Tensor:
        return t.pin_memory() if self.device.type == "cuda" else t


class Replays:
    """The two halves of a step of `size` rows: graphs, captured when first needed, or plain calls."""

    def __init__(self, decoder: Decoder, size: int) -> None:
        from h1r.engine.cuda.step import Step

        self.decoder = decoder
        self.step = Step(decoder.model, decoder.cache, decoder.table, size, decoder.room)
        self.calls: dict[str, Callable[[], None]] = {}

    def forward(self, shared: bool = False) -> None:
        self._call("forward, shared" if shared else "forward", lambda: self.step.forward(shared))

    def draw(self, both: bool) -> None:
        self._call(f"draw {both}", lambda: self.step.draw(both))

    def _call(self, name: str, work: Callable[[], None]) -> None:
        if name not in self.calls:
            self.calls[name] = self._captured(work) if self.decoder.graphs else work
        self.calls[name]()

    def _captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """The inputs are put back afterwards: the runs before a capture (which compile) and it must leave no trace."""
        step, device = self.step, self.decoder.device
        inputs = step.whole.clone()
        step.whole[1] = -1
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream):
            for _ in range(WARMUPS):
                work()
            with torch.cuda.graph(graph, pool=self.decoder.pool, stream=stream):
                work()
        self.decoder.pool = self.decoder.pool or graph.pool()
        torch.cuda.current_stream(device).wait_stream(stream)
        step.whole.copy_(inputs)
        return graph.replay


def prefixes(traces: Items[Sequence], page_size: int) -> list[tuple[list[int], int]]:
    """Rows whose sequences begin with the same pages, and how many tokens those hold: siblings of one prompt, where all of them
    together would read it again for WORTH tokens or more."""
    families: dict[int, list[int]] = {}
    for row, s in enumerate(traces):
        families.setdefault(s.request.id, []).append(row)
    out = []
    for rows in families.values():
        first = traces[rows[0]]
        whole = min(first.request.prompt_length - 1, first.length) // page_size
        pages = first.pages[:whole]
        same = [r for r in rows if traces[r].length >= whole * page_size and traces[r].pages[:whole] == pages]
        if len(same) > 1 and (len(same) - 1) * whole * page_size >= WORTH:
            out.append((same, whole * page_size))
    return out


def quantised(model: Any, dtype: torch.dtype = torch.float8_e4m3fn) -> Any:
    """A folded model with every matrix of its layers in codes of a dtype, fp8 or int8; embedding and head stay as they are."""
    for layer in model.layers:
        given = _packed(layer.folded, dtype)
        del layer.folded  # a module's parameters cannot become a plain dictionary in place
        layer.folded = given
    return model


def _packed(folded: Any, dtype: torch.dtype) -> dict[str, Any]:
    return {k: pack(t.data, dtype) if t.dim() == 2 and min(t.shape) > 16 else t for k, t in folded.items()}


def _codes(model: Any) -> torch.dtype | None:
    """The dtype of a quantised model's codes; None of another one's."""
    folded = model.layers[0].folded
    if not isinstance(folded, dict):
        return None
    return next(t.codes.dtype for t in folded.values() if isinstance(t, Coded))


def nbytes(model: Any) -> int:
    """Bytes of all weights, an embedding that is a gather included."""
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in _tensors(model).values()}.values())


@torch.no_grad()
def overwrite(model: Any, other: Any) -> None:
    """Write the weights of `other`, a model of the same kind, into `model`, whose tensors keep their addresses."""
    if other.layers[0].folded is None:
        other = fold(other, model.embed_tokens.weight.dtype)
    codes = _codes(model)
    given = _tensors(other, codes)
    for name, tensor in _tensors(model, codes).items():
        tensor.copy_(given[name])


def _tensors(model: Any, codes: torch.dtype | None = None) -> dict[str, Tensor]:
    """All weights by name; codes: the layers' in codes of this dtype, which are no parameters."""
    out: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for index, layer in enumerate(model.layers):
        folded = layer.folded
        if codes is not None and not isinstance(folded, dict):
            folded = _packed(folded, codes)
        if isinstance(folded, dict):
            for name, t in folded.items():
                for part, tensor in enumerate(t[:2] if isinstance(t, Coded) else (t,)):
                    out[f"codes.{index}.{name}.{part}"] = tensor
    return {k: t for k, t in out.items() if not (codes is not None and ".folded." in k)}
