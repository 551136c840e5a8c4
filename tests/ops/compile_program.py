"""Run by test_triton in a process of its own: every kernel compiled for a Hopper GPU (sm_90) in the 7B's shapes, without one.

The interpreter runs what the compiler refuses (two types of one name, say). Prints a line per kernel: name, registers, bytes of
stack (a kernel that needs one spills), bytes of shared memory.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from h1r.ops import Layout
from h1r.ops.attention import Rotation
from h1r.ops.attention import triton as attention
from h1r.ops.conv import triton as conv
from h1r.ops.draw import triton as draw
from h1r.ops.linear import triton as linear
from h1r.ops.norm import triton as norm
from h1r.ops.ssd import triton as ssd
from h1r.ops.ssd import triton_backward as ssd_backward
from h1r.ops.ssd import triton_recent as ssd_recent

ROOMS = (attention, conv, draw, linear, norm, ssd, ssd_backward, ssd_recent)
NAMES = {
    torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.int64: "i64", torch.int32: "i32",
    torch.float8_e4m3fn: "fp8e4nv", torch.int8: "i8",
}  # fmt: skip
BF16, FP32, FP8 = torch.bfloat16, torch.float32, torch.float8_e4m3fn
B = 64


class Compiled:
    """Stands for a kernel: a launch compiles it for the argument types instead."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return self.launch

    def launch(self, *args: Any, num_warps: int, num_stages: int = 3, **more: Any) -> None:
        given = dict(zip(self.kernel.arg_names, args)) | more
        types, constants, attributes = {}, {}, {}
        for i, p in enumerate(self.kernel.params):
            value = given[p.name]
            if p.is_constexpr or value is None or (type(value) is int and value == 1):
                types[p.name], constants[(i,)] = "constexpr", value
            elif isinstance(value, Tensor):
                types[p.name], attributes[(i,)] = "*" + NAMES[value.dtype], [["tt.divisibility", 16]]
            elif isinstance(value, float):
                types[p.name] = "fp32"
            else:
                types[p.name] = "i32" if abs(value) < 1 << 31 else "i64"
                if value % 16 == 0:
                    attributes[(i,)] = [["tt.divisibility", 16]]
        made = triton.compile(
            ASTSource(self.kernel, types, constexprs=constants, attrs=attributes), target=GPUTarget("cuda", 90, 32),
            options={"num_warps": num_warps, "num_stages": num_stages},
        )  # fmt: skip
        print(self.kernel.__name__, *resources(made.asm["cubin"]), made.metadata.shared)


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes of a compiled kernel."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(cubin)
        f.flush()
        told = subprocess.run(
            [tool, "--dump-resource-usage", f.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    assert found is not None, told
    return int(found.group(1)), int(found.group(2))


def room(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
    return torch.empty(shape, dtype=dtype)


def decode_step() -> None:
    where, table, row = torch.zeros(B, dtype=torch.int64), torch.zeros(128, 4096, dtype=torch.int32), room(B, 8728)
    turn = Rotation(room(B, 1, 64, dtype=FP32), room(B, 1, 64, dtype=FP32))
    joined = room(B, 4608)
    for cache in (BF16, FP8):
        keys = room(16, 64, 2, 128, dtype=cache)
        values = keys if cache == BF16 else room(16, 2, 128, 64, dtype=cache).permute(0, 3, 1, 2)
        q = room(B, 12, 128)
        attention.write(row[:, 6680:], turn, keys, values, where, where, table, q)
        attention.decode(q, keys, values, where, where, table, joined[:, 3072:], 17)
        shared = attention.Shared(room(B, dtype=torch.int32), room(32, attention.BUNDLE, dtype=torch.int32), 16)
        attention.decode(q, keys, values, where, where, table, joined[:, 3072:], 17, shared)
    mixed, vector = room(B, 3584), room(24, dtype=FP32)
    state = room(8, 3, 3584).transpose(1, 2)
    conv.step(row[:, 3072:6656], room(3584, 4, dtype=FP32), room(3584, dtype=FP32), state, where, where, mixed)
    y = room(B, 3072, dtype=FP32)
    for kind in (BF16, FP32):
        pool = room(4, 24, 128, 256, dtype=kind)
        ssd.step(mixed, row[:, 6656:6680], vector, vector, vector, (0.0, float("inf")), pool, where, where, 1, y)
        recent = ssd_recent.Recent(room(4, 16, 3328), room(4, 16, 24, dtype=FP32), torch.zeros(4, dtype=torch.int32))
        given = mixed, row[:, 6656:6680], vector, vector, vector, (0.0, float("inf")), pool, recent
        ssd_recent.step(*given, where, where, 1, y)
        ssd_recent.advance(recent, where, where)
        layered = ssd_recent.Recent(recent.rows[None], recent.steps[None], recent.pending)
        ssd_recent.settle(pool[None], vector[None], layered, where[:2], 1)
    norm.gated(y, row[:, :3072], 1e-5, 1, False, True, joined[:, :3072])
    h, scale, both = room(B, 3072), room(B, 1, dtype=FP32), room(B, 24576)
    norm.rms(h, h, None, 1e-5, h)
    sums = norm.Sums(room(5, B, 3072, dtype=FP32), scale, room(1, 3072, dtype=FP32))
    norm.rms(h, sums, None, 1e-5, norm.Codes(room(B, 3072, dtype=FP8), scale))
    linear.glu(both[:, :12288], both[:, 12288:], room(B, 12288))
    for kind in (FP8, torch.int8):
        linear.glu(both[:, :12288], both[:, 12288:], room(B, 12288, dtype=kind), scale)
        linear.quantise(h, room(B, 3072, dtype=kind), scale)
        for n, k in ((8736, 3072), (3072, 12288)):
            linear.product(room(B, k, dtype=kind), room(n, k, dtype=kind), scale, room(1, n, dtype=FP32), BF16)
    f, numbers = room(B, dtype=FP32), room(B, 4, dtype=FP32)
    draw.draw(room(B, 130048, dtype=FP32), f, f, f, where, where, where, where, where, numbers)


def prompt() -> None:
    layout, vector = Layout.of((4000, 96)), room(24, dtype=FP32)
    row, b = room(4096, 8728), room(4096, 1, 256)
    conv.conv(
        row[:, 3072:6656], room(3584, 4, dtype=FP32), room(3584, dtype=FP32), layout, room(2, 3584, 3), final=False
    )
    conv.backward(row[:, 3072:6656], room(3584, 4, dtype=FP32), room(3584), layout, row[:, :3584])
    x, dt, state = room(4096, 24, 128), room(4096, 24, dtype=FP32), room(2, 24, 128, 256, dtype=FP32)
    ssd.forward(x, dt, vector, b, b, layout, state)
    ssd_backward.backward(x, dt, vector, b, b, layout, None, x, None)
    ssd_backward.backward(x.float(), dt, vector, b.float(), b.float(), layout, None, x, None)


def main() -> None:
    for module in ROOMS:
        for name, kernel in list(vars(module).items()):
            if isinstance(kernel, JITFunction) and name in LAUNCHED:
                setattr(module, name, Compiled(kernel))
    linear.splits_for = lambda tiles, steps, device: 5 if tiles < 100 else 1  # type: ignore[assignment]
    decode_step()
    prompt()


LAUNCHED = (
    "_write", "_split", "_prefix", "_join", "_step", "_conv", "_rms", "_gated", "_glu", "_local", "_carry", "_outputs", "_peaks",
    "_sums", "_narrow", "_keep", "_pick", "_product", "_add", "_quantise", "_carry_back", "_scores", "_pairs", "_shares",
    "_inputs", "_backward", "_recent_step", "_advance", "_settle",
)  # fmt: skip

main()
