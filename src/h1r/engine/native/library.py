"""The compiled kernel's functions, and the structures it reads. Fields stand as in kernel/model.h; sizes are compared."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_double, c_float, c_int32, c_int64, c_void_p
from functools import cache
from typing import Any

import torch
from torch import Tensor

from h1r.engine.native.build import BuildError, compiled

_WORDS = (
    "layers", "width", "inner", "heads", "channels", "state", "bc_groups", "taps", "mlp", "query_heads", "kv_heads",
    "head_dim", "format", "gated_norm", "norm_before_gate", "qk_norm", "page", "kv_bf16", "state_bf16",
)  # fmt: skip


class Mat(Structure):
    """Packed weights [n,k]."""

    _fields_ = [
        ("data", c_void_p), ("bias", c_void_p), ("stride", c_int64), ("n", c_int32), ("k", c_int32),
        ("format", c_int32), ("unused", c_int32),
    ]  # fmt: skip


class Shape(Structure):
    """What is the same in every layer and step."""

    _fields_ = [*((name, c_int32) for name in _WORDS), ("eps", c_float), ("dt_low", c_float), ("dt_high", c_float)]


class Layer(Structure):
    """One layer's weights."""

    _fields_ = [
        *((name, Mat) for name in ("enter", "leave", "gate_up", "down")),
        *((name, c_void_p) for name in ("taps", "conv_bias", "dt_bias", "a", "skip", "q_norm", "k_norm")),
    ]


class CacheView(Structure):
    """Where keys, values and states lie."""

    _fields_ = [
        *((name, c_void_p) for name in ("k", "v", "conv", "ssm")),
        *((f"{name}_layer", c_int64) for name in ("k", "v", "conv", "ssm")),
        *((name, c_int64) for name in ("k_page", "v_page", "conv_slot", "ssm_slot")),
    ]


class Batch(Structure):
    """The rows of one step."""

    _fields_ = [
        *((name, c_int32) for name in ("sequences", "rows", "table_width", "threads")),
        *((name, c_void_p) for name in ("starts", "before", "slots", "table", "cosine", "sine", "h", "final_norm")),
    ]


@cache
def library(machine: str = "native") -> Any:
    """The loaded kernel. Raises BuildError or OSError."""
    kernel: Any = ctypes.CDLL(str(compiled(machine)))
    sizes = (c_int32 * 6)()
    kernel.h1r_sizes(sizes)
    mine = [ctypes.sizeof(s) for s in (Shape, Layer, CacheView, Batch, Mat)]
    if list(sizes)[:5] != mine:
        raise BuildError(f"structures of {list(sizes)[:5]} bytes, here {mine}")
    p, i, n, f = c_void_p, c_int32, c_int64, c_float
    for name, result, arguments in (
        ("h1r_open", p, [POINTER(Shape), POINTER(Layer)]),
        ("h1r_close", None, [p]),
        ("h1r_forward", i, [p, POINTER(CacheView), POINTER(Batch)]),
        ("h1r_head", i, [POINTER(Mat), p, i, f, p, i]),
        ("h1r_packed_bytes", n, [i, i, i]),
        ("h1r_pack", None, [p, n, i, i, i, p, i]),
        ("h1r_unpack_rows", None, [POINTER(Mat), p, i, p]),
        ("h1r_read_bandwidth", c_double, [p, n, i, i]),
        ("h1r_statistics", None, [p, i, i, i, p, p, p, p, i]),
        ("h1r_floors", None, [p, i, i, p, p, p, p, p, i]),
        ("h1r_draw", None, [p, i, i, p, p, p, p, p, i]),
    ):
        function = getattr(kernel, name)
        function.restype, function.argtypes = result, arguments
    return kernel


def read_bandwidth(megabytes: int = 512, rounds: int = 5, threads: int | None = None) -> float:
    """Bytes a second of reading memory with all threads, best of `rounds`."""
    data = torch.ones(megabytes << 18)
    return float(
        library().h1r_read_bandwidth(pointer(data), data.numel() * 4, rounds, threads or torch.get_num_threads())
    )


def pointer(tensor: Tensor | None) -> int | None:
    """Address of a tensor's first element."""
    return None if tensor is None else tensor.data_ptr()
