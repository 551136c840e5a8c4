"""What the caller decides of an engine, and the memory that follows from it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from h1r.engine.memory import Memory, Pool
from h1r.engine.native.model import PAGE as NATIVE_PAGE
from h1r.engine.native.model import NativeModel
from h1r.engine.runner import PAGED, SLOTTED, new_cache
from h1r.errors import ConfigError

PAGE_BYTES = 1 << 20  # of a page whose size nobody chose
GPU_PAGE = 64  # tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How much memory the engine may use, and how it cuts its work.

    sequences     most traces in memory at once
    memory_bytes  cache limit, pages and slots together; None: half of what is free when the engine starts, nine tenths of a
                  GPU's
    page_size     tokens of a K/V page; None: 64 on a GPU and for the native kernel (which needs a multiple of 64), else about
                  1 MiB, 16 to 1024 tokens, so that a small model's traces fit in one
    chunk         prompt tokens one step computes at most
    context       tokens a sequence may have; None: what the model was made for
    prefixes      states of prompt beginnings kept for later prompts, at most; they give way to sequences. None: an eighth
                  of `sequences`; 0: none
    state_dtype   of the SSM state; float32 keeps long traces exact
    state_every   on a GPU, tokens after which a decode step writes the SSM state, 1 to 16; those since lie beside it, which
                  nearly halves the bytes that states move and rounds a bfloat16 state less often
    kv_dtype      of keys and values; None: the model's. torch.float8_e4m3fn holds twice the tokens
    at_swap       what new weights mean for traces in flight: keep (they go on from the keys, values and states that the old ones
                  computed) or reread (all their tokens are computed again first)
    graphs        on a GPU, replay CUDA graphs instead of launching kernels one by one
    siblings      on a GPU, read keys and values that traces of one prompt share once for all of them, where it pays
    exact         decode with the trainer's own arithmetic (`engine.replay`); PyTorch only, many times slower
    seed          stream of requests that bring no seed; None: the machine's entropy
    poison        debugging: free memory is filled with NaN before every step
    """

    sequences: int = 256
    memory_bytes: int | None = None
    page_size: int | None = None
    chunk: int = 1024
    context: int | None = None
    prefixes: int | None = None
    state_dtype: torch.dtype = torch.float32
    state_every: int = 1
    at_swap: str = "keep"
    kv_dtype: torch.dtype | None = None
    graphs: bool = True
    siblings: bool = True
    exact: bool = False
    seed: int | None = None
    poison: bool = False

    def __post_init__(self) -> None:
        for name in ("sequences", "page_size", "chunk"):
            if (getattr(self, name) or 1) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be 1 or more")
        if self.at_swap not in ("keep", "reread"):
            raise ConfigError(f"at_swap={self.at_swap!r}: must be keep or reread")
        if not 1 <= self.state_every <= 16:
            raise ConfigError(f"state_every={self.state_every}: must be 1 to 16")


def memory_for(model: Any, config: Any, options: EngineConfig, dtype: torch.dtype, device: torch.device) -> Memory:
    """Pools sized by what a token's K/V and a slot weigh: slots get half of the limit at most, pages the rest."""
    native = isinstance(model, NativeModel)
    unit = NATIVE_PAGE if native else 1  # tokens of the smallest page
    gpu = device.type == "cuda"
    one = new_cache(
        model, config, 1, unit, 1, dtype, options.state_dtype, device, options.kv_dtype, options.state_every
    )
    paged, slot = (
        sum(t.numel() * t.element_size() for n in names if (t := getattr(one, n, None)) is not None)
        for names in (PAGED, SLOTTED)
    )
    token = paged // unit
    size = options.page_size or (
        unit if native else GPU_PAGE if gpu else min(max(1 << max(PAGE_BYTES // token, 1).bit_length() - 1, 16), 1024)
    )
    free = _free_bytes(device)
    limit = options.memory_bytes if options.memory_bytes is not None else free * 9 // 10 if gpu else free // 2
    slots = options.sequences if slot == 0 else min(options.sequences, limit // 2 // slot)
    pages = (limit - slots * slot) // (token * size)
    if slots < 1 or pages < 1:
        raise ConfigError(
            f"memory_bytes={limit}: too little for one sequence (state {slot}, page {token * size} bytes)"
        )
    # A GPU's pools are whole from the start: what grows would need twice the memory, and new graphs.
    return Memory(size, Pool(pages if gpu else 16, pages), Pool(slots if gpu else 16, slots))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            return int(next(line.split()[1] for line in f if line.startswith("MemAvailable"))) << 10
    except (OSError, StopIteration):  # not Linux
        return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE")) // 2
