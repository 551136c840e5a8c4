"""A model as the kernel wants it: matrices packed once, vectors in fp32, and the methods of `FalconH1`.

Matrices are packed from the folded fp32 weights, layer by layer, so that memory peaks at the packed model and one layer.
Letters: B sequences, T rows, D width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from h1r.engine.native import library as lib
from h1r.engine.native import statistics
from h1r.engine.native.library import Batch, CacheView, Layer, Mat, Shape, pointer
from h1r.errors import ConfigError
from h1r.model import weights
from h1r.model.cache import Sequences
from h1r.model.config import Config, H1Config
from h1r.ops import Layout, attention

FORMATS = {"float32": 0, "bfloat16": 1, "int8": 2, "int4": 3}
HUGE = 1 << 21  # bytes of a huge page
PAGE = 64  # keys of a block: a page is a multiple of it
ROWS = 1024  # of one pass through the layers: more would only spill out of the processor's cache


def fits(config: Config, page_size: int | None = None) -> str:
    """Why the kernel cannot run this model; empty when it can."""
    if page_size is not None and page_size % PAGE:
        return f"page_size={page_size} is no multiple of {PAGE}"
    if config.head_dim > 256 or config.head_dim % 2:
        return f"head_dim={config.head_dim}: even and 256 at most"
    if config.num_attention_heads // config.num_key_value_heads > 48:
        return "more than 48 query heads to a key/value head"
    if isinstance(config, H1Config) and config.mamba_d_conv > 8:
        return f"mamba_d_conv={config.mamba_d_conv}: 8 at most"
    return ""


def pack(model: Any, format: str = "bfloat16", machine: str = "native") -> NativeModel:
    """A folded model (best in fp32: integers are rounded from it) packed in `format`; `model` is unchanged."""
    assert model.layers[0].folded is not None, "the kernel takes a folded model"
    out = NativeModel(model.config, format, machine)
    for layer in model.layers:
        out.add(layer.weights())
    out.finish(model)
    return out


def load(
    path: str | Path | weights.Held, format: str = "bfloat16", machine: str = "native"
) -> tuple[NativeModel, Config]:
    """A checkpoint, packed as it is read. Raises CheckpointError or ConfigError."""
    made: list[NativeModel] = []

    def take(layer: Any) -> None:
        if not made:
            made.append(NativeModel(layer.config, format, machine))
        made[0].add(layer.weights())
        layer.folded = None

    model, config = weights.load(path, torch.float32, fold=True, each=take)
    made[0].finish(model)
    give_back(made[0].table)
    return made[0], config


def give_back(mapped: Tensor | None = None) -> None:
    """Return to the system what work has left: freed memory, and the pages of a mapped file (they come back from it)."""
    process = ctypes.CDLL(None)
    if hasattr(process, "malloc_trim"):
        process.malloc_trim(0)
    if mapped is None or not hasattr(mmap, "MADV_DONTNEED"):
        return
    with contextlib.suppress(OSError), open("/proc/self/maps", encoding="utf-8") as f:
        for line in f:
            begin, end = (int(x, 16) for x in line.split()[0].split("-"))
            if begin <= mapped.data_ptr() < end and line.rstrip().endswith(".safetensors"):
                process.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


class Memory:
    """Pages of the system for packed weights, huge ones where it has them, handed out one after another."""

    def __init__(self, size: int) -> None:
        whole = (size + HUGE - 1) // HUGE * HUGE
        private = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)  # shared memory has small pages
        self.map = mmap.mmap(-1, whole, flags=private) if private else mmap.mmap(-1, whole)
        advise = getattr(mmap, "MADV_HUGEPAGE", None)
        if advise is not None:
            self.map.madvise(advise)
        self.bytes = torch.frombuffer(self.map, dtype=torch.uint8)
        self.used = 0

    def take(self, size: int) -> Tensor:
        begin = (self.used + 63) // 64 * 64
        self.used = begin + size
        assert self.used <= len(self.bytes), "the arena was measured too small"
        return self.bytes[begin : self.used]


class NativeCache:
    """The kernel's cache (layouts: kernel/model.h). k, v [L,pages,...] by page; conv, ssm [L,slots,...] by slot."""

    whole_pages = True  # a page's inside is the kernel's own: pages are copied whole

    def __init__(
        self, config: Config, pages: int, page_size: int, slots: int, dtype: torch.dtype, state_dtype: torch.dtype
    ) -> None:
        layers, kv, d = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
        self.page_size = page_size
        self.k = _zeros((layers, pages, kv, page_size * d), dtype)
        self.v = _zeros((layers, pages, kv, page_size * _up(d, 16)), dtype)
        self.conv: Tensor | None = None
        self.ssm: Tensor | None = None
        if isinstance(config, H1Config):
            heads, lanes = config.mamba_n_heads, _up(config.mamba_d_head, 16)
            self.conv = _zeros((layers, slots, config.mamba_d_conv - 1, config.conv_channels), torch.float32)
            self.ssm = _zeros((layers, slots, heads, config.mamba_d_state, lanes), state_dtype)

    def view(self) -> CacheView:
        """Addresses and strides for the kernel."""
        view = CacheView()
        for name, unit in (("k", "page"), ("v", "page"), ("conv", "slot"), ("ssm", "slot")):
            tensor = getattr(self, name)
            if tensor is not None:
                setattr(view, name, tensor.data_ptr())
                setattr(view, f"{name}_layer", tensor.stride(0) * tensor.element_size())
                setattr(view, f"{name}_{unit}", tensor.stride(1) * tensor.element_size())
        return view


class NativeModel:
    """Packed weights and the forward step. Thread-safe: one step at a time.

    format     of the matrices: a key of FORMATS (the head of int4 is int8: it decides every token, and a tied one embeds
               them too); K/V are float32 beside float32 matrices, else bfloat16
    nbytes     of everything packed
    """

    def __init__(self, config: Config, format: str, machine: str = "native") -> None:
        if format not in FORMATS:
            raise ConfigError(f"weight format {format!r}: one of {', '.join(FORMATS)}")
        why = fits(config)
        if why:
            raise ConfigError(f"the CPU kernel cannot run this model: {why}; use kernel='torch'")
        self.config, self.format = config, format
        self.kernel = lib.library(machine)
        self.dtype = torch.float32 if format == "float32" else torch.bfloat16
        self.device = torch.device("cpu")
        self.vocab = config.vocab_size
        self.layers: list[Layer] = []
        self._memory: list[Memory] = []
        self._kept: list[Tensor] = []
        self._handles: dict[tuple[int, torch.dtype, torch.dtype], int] = {}
        self._lock = threading.Lock()
        self.table: Tensor | None = None  # embedding [V,D]; None: the head's rows
        self.head_mat = Mat()
        self.final_norm = torch.ones(0)
        self.multipliers = (1.0, 1.0)  # on the embedding, on the logits

    def __del__(self) -> None:
        for handle in getattr(self, "_handles", {}).values():
            self.kernel.h1r_close(handle)

    @property
    def nbytes(self) -> int:
        kept = sum(t.numel() * t.element_size() for t in self._kept)
        table = 0 if self.table is None else self.table.numel() * self.table.element_size()
        return sum(m.used for m in self._memory) + kept + table

    # Packing

    def add(self, w: Any) -> None:
        """The next layer's `Weights`."""
        c = self.config
        hybrid = isinstance(c, H1Config)
        half = c.intermediate_size
        order = _interleaved(half)
        gate_up = F.pad(w.gate_up.float(), (0, 0, 0, 1))[order]
        gate_bias = getattr(w, "gate_up_bias", None)
        gate_bias = None if gate_bias is None else F.pad(gate_bias.float(), (0, 1))[order]
        parts = [
            (w.enter, getattr(w, "enter_bias", None)), (w.leave, getattr(w, "leave_bias", None)),
            (gate_up, gate_bias), (w.down, getattr(w, "down_bias", None)),
        ]  # fmt: skip
        memory = Memory(sum(self._size(m.shape) + 64 for m, _ in parts))
        self._memory.append(memory)
        layer = Layer()
        for name, (matrix, bias) in zip(("enter", "leave", "gate_up", "down"), parts, strict=True):
            setattr(layer, name, self._pack(matrix, bias, memory))
        if hybrid:
            for name in ("conv_bias", "dt_bias", "a", "skip"):
                setattr(layer, name, self._vector(getattr(w, name)))
            layer.taps = self._vector(w.taps.t())
        else:
            layer.q_norm, layer.k_norm = self._vector(w.q_norm), self._vector(w.k_norm)
        self.layers.append(layer)

    def finish(self, model: Any) -> None:
        """The head, the embedding and the final norm of `model`."""
        c = self.config
        head, times = model.head
        kind = "int8" if self.format == "int4" else self.format
        memory = Memory(self._size(head.shape, kind) + 64)
        self._memory.append(memory)
        self.head_mat = self._pack(head, None, memory, kind)
        self.multipliers = (c.embedding_multiplier if isinstance(c, H1Config) else 1.0, times)
        if not c.tie_word_embeddings:
            self.table = model.embed_tokens.weight.detach()
        norm = model.final_layernorm if isinstance(c, H1Config) else model.norm
        self.final_norm = norm.weight.detach().float().contiguous().clone()
        self._kept.append(self.final_norm)

    def _size(self, shape: Sequence[int], format: str = "") -> int:
        return int(self.kernel.h1r_packed_bytes(*shape, FORMATS[format or self.format]))

    def _pack(self, matrix: Tensor, bias: Tensor | None, memory: Memory, format: str = "") -> Mat:
        (n, k), code = matrix.shape, FORMATS[format or self.format]
        out = memory.take(self._size(matrix.shape, format))
        step = max(PAGE, (1 << 24) // k // PAGE * PAGE)  # rows in fp32 at once: 64 MiB
        stride = self._size((PAGE, k), format)
        for begin in range(0, n, step):
            part = matrix[begin : begin + step].detach().float().contiguous()
            place = out[begin // PAGE * stride :]
            self.kernel.h1r_pack(pointer(part), k, len(part), k, code, pointer(place), torch.get_num_threads())
        padded = None if bias is None else F.pad(bias.detach().float(), (0, _up(n, PAGE) - n))
        return Mat(pointer(out), self._vector(padded), stride, n, k, code, 0)

    def _vector(self, values: Tensor | None) -> int | None:
        if values is None:
            return None
        kept = values.detach().float().contiguous().clone()
        self._kept.append(kept)
        return kept.data_ptr()

    # The three methods of a model

    def cache(
        self, pages: int, page_size: int = PAGE, slots: int = 1, state_dtype: torch.dtype = torch.float32
    ) -> NativeCache:
        """An empty cache; page_size a multiple of 64, state_dtype float32 or bfloat16."""
        if page_size % PAGE or state_dtype not in (torch.float32, torch.bfloat16):
            raise ConfigError(
                f"page_size={page_size}, state_dtype={state_dtype}: a multiple of {PAGE}, float32 or bfloat16"
            )
        return NativeCache(self.config, pages, page_size, slots, self.dtype, state_dtype)

    @torch.inference_mode()
    def forward(
        self, token_ids: Tensor, layout: Layout, cache: NativeCache | None = None, slots: Sequences | None = None
    ) -> Tensor:
        """token_ids [T] -> hidden [T,D] fp32 after the final norm. With a cache, document s continues sequence s."""
        if cache is None or slots is None:
            cache, slots = self._own(layout.lengths)
        hidden = []
        for begin in range(0, layout.tokens, ROWS):
            end = min(begin + ROWS, layout.tokens)
            documents, counts = layout.segments[begin:end].unique_consecutive(return_counts=True)
            starts = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
            positions = layout.positions[begin:end]
            here = Sequences(slots.slots[documents], slots.pages[documents], positions[starts[:-1]])
            hidden.append(self._run(token_ids[begin:end], positions, starts, cache, here))
        return torch.cat(hidden) if len(hidden) > 1 else hidden[0]

    @torch.inference_mode()
    def decode(self, token_ids: Tensor, positions: Tensor, cache: NativeCache, slots: Sequences) -> Tensor:
        """token_ids, positions [B] (tokens cached before each) -> hidden [B,D]; the cache is updated in place."""
        return self._run(
            token_ids, positions, torch.arange(len(token_ids) + 1), cache, slots._replace(lengths=positions)
        )

    __call__ = forward

    @torch.inference_mode()
    def logprob(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """hidden [T,D], targets [T] -> log softmax(logits) at the targets [T], the [T,V] matrix never whole."""
        rows = max(1, (1 << 22) // self.vocab)
        out = []
        for h, t in zip(hidden.split(rows), targets.split(rows), strict=True):
            logits = self.logits(h)
            out.append(logits.gather(1, t[:, None])[:, 0] - statistics.look(logits, 1)[0])
        return torch.cat(out)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [...,D] -> logits [...,V] fp32."""
        flat = hidden.reshape(-1, hidden.shape[-1]).float().contiguous()
        out = torch.empty(len(flat), self.vocab)
        if len(flat) and self.kernel.h1r_head(
            ctypes.byref(self.head_mat),
            pointer(flat),
            len(flat),
            self.multipliers[1],
            pointer(out),
            torch.get_num_threads(),
        ):
            raise MemoryError("no memory for the head's activations")
        return out.view(*hidden.shape[:-1], self.vocab)

    def _run(self, token_ids: Tensor, positions: Tensor, starts: Tensor, cache: NativeCache, s: Sequences) -> Tensor:
        c = self.config
        h = self._embed(token_ids)
        cosine, sine = attention.rotation(positions, c.head_dim, c.rope_theta)
        tables = [t.to(torch.int32).contiguous() for t in (starts, s.lengths, s.slots, s.pages)]
        cosine, sine = cosine.contiguous(), sine.contiguous()
        batch = Batch(
            len(s.slots), len(token_ids), tables[3].shape[1], torch.get_num_threads(),
            *(pointer(t) for t in (*tables, cosine, sine, h, self.final_norm)),
        )  # fmt: skip
        view = cache.view()
        with self._lock:
            failed = self.kernel.h1r_forward(self._handle(cache), ctypes.byref(view), ctypes.byref(batch))
        if failed:
            raise MemoryError(f"no memory for a step of {len(token_ids)} rows; lower `chunk`")
        return h

    def _embed(self, token_ids: Tensor) -> Tensor:
        if self.table is not None:
            h = F.embedding(token_ids, self.table).float()
        else:
            h = torch.empty(len(token_ids), self.config.hidden_size)
            ids = token_ids.to(torch.int64).contiguous()
            self.kernel.h1r_unpack_rows(ctypes.byref(self.head_mat), pointer(ids), len(ids), pointer(h))
        return h.mul_(self.multipliers[0]).contiguous()

    def _own(self, lengths: Sequence[int]) -> tuple[NativeCache, Sequences]:
        """A cache for documents that nobody continues."""
        needs = [_up(n, PAGE) // PAGE for n in lengths]
        table = torch.zeros(len(lengths), max(needs), dtype=torch.int64)
        first = 0
        for row, need in zip(table, needs, strict=True):
            row[:need] = torch.arange(first, first + need)
            first += need
        cache = self.cache(first, PAGE, len(lengths))
        return cache, Sequences(torch.arange(len(lengths)), table, torch.zeros(len(lengths), dtype=torch.int64))

    def _handle(self, cache: NativeCache) -> int:
        """The kernel's own object for caches of this kind."""
        state = torch.float32 if cache.ssm is None else cache.ssm.dtype
        key = (cache.page_size, cache.k.dtype, state)
        if key not in self._handles:
            layers = (Layer * len(self.layers))(*self.layers)
            shape = _shape(self.config, FORMATS[self.format], *key)
            self._handles[key] = self.kernel.h1r_open(ctypes.byref(shape), layers)
        return self._handles[key]


def _shape(c: Config, format: int, page: int, kv: torch.dtype, state: torch.dtype) -> Shape:
    s = Shape(
        layers=c.num_hidden_layers, width=c.hidden_size, mlp=c.intermediate_size, query_heads=c.num_attention_heads,
        kv_heads=c.num_key_value_heads, head_dim=c.head_dim, format=format, page=page, kv_bf16=kv == torch.bfloat16,
        state_bf16=state == torch.bfloat16, eps=c.rms_norm_eps, qk_norm=not isinstance(c, H1Config), bc_groups=1,
    )  # fmt: skip
    if isinstance(c, H1Config):
        s.inner, s.heads, s.channels, s.state = c.mamba_d_ssm, c.mamba_n_heads, c.mamba_d_head, c.mamba_d_state
        s.bc_groups, s.taps = c.mamba_n_groups, c.mamba_d_conv
        s.gated_norm, s.norm_before_gate = c.mamba_rms_norm, c.mamba_norm_before_gate
        s.dt_low, s.dt_high = c.time_step_limit
    return s


def _interleaved(half: int) -> Tensor:
    """Rows of [gates; ups; a row of zeros] in blocks of 32 gates and their 32 ups."""
    blocks = torch.arange(_up(half, 32)).view(-1, 1, 32)
    gates = torch.where(blocks < half, blocks, 2 * half)
    ups = torch.where(blocks < half, blocks + half, 2 * half)
    return torch.cat((gates, ups), 1).flatten()


def _zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros in memory of huge pages, touched only when written."""
    count = math.prod(shape)
    return Memory(max(count, 1) * dtype.itemsize).bytes[: count * dtype.itemsize].view(dtype).view(shape)


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
