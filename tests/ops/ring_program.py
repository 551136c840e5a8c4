"""Run by test_ring on every rank: each operator over 2, 3 and 4 ranks against the whole row, values and gradients."""

from __future__ import annotations

import torch
import torch.distributed as dist

import h1r.ops.attention.ring as attention_ring
from h1r.ops import Layout, attention, conv, ssd
from h1r.ops.ring import shard

LENGTHS = ((97,), (5, 90, 2), (1, 1, 60, 31, 7), (33, 32, 31), (2, 3, 2))


def operators(groups: int, generator: torch.Generator, tokens: int):
    """Name -> (function of a layout and tensors, tensors cut by tokens, tensors that are whole on every rank)."""
    r = lambda *s: torch.randn(*s, generator=generator, dtype=torch.float64)  # noqa: E731
    heads, channels, size, width = 4, 3, 5, 6
    return {
        "ssd": (
            lambda layout, x, dt, b, c, a: ssd.ssd(x, dt, a, b, c, layout, final=False).y,
            [r(tokens, heads, channels), r(tokens, heads).abs() / 4, r(tokens, groups, size), r(tokens, groups, size)],
            [-r(heads).abs()],
        ),
        "conv": (
            lambda layout, u, w, bias: conv.conv(u, w, bias, layout, final=False).out,
            [r(tokens, width)],
            [r(width, 4), r(width)],
        ),
        "attention": (
            lambda layout, q, k, v: attention.attention(q, k, v, layout),
            [r(tokens, 4, 8), r(tokens, 2, 8), r(tokens, 2, 8)],
            [],
        ),
    }


def check(group, rank: int, size: int) -> None:
    for number, lengths in enumerate(LENGTHS):
        tokens = sum(lengths)
        if tokens < size:
            continue
        generator = torch.Generator().manual_seed(number)
        whole, mine = Layout.of(lengths), shard(lengths, group, rank, size)
        here = slice(mine.ring.begin, mine.ring.end)
        assert torch.equal(mine.positions, whole.positions[here])
        for name, (f, cut, shared) in operators(1 + number % 2, generator, tokens).items():
            want_in = [t.clone().requires_grad_() for t in (*cut, *shared)]
            want = f(whole, *want_in)
            weight = torch.randn(want.shape, generator=generator, dtype=torch.float64)
            (want * weight).sum().backward()
            got_in = [t[here].clone().requires_grad_() for t in cut] + [t.clone().requires_grad_() for t in shared]
            got = f(mine, *got_in)
            (got * weight[here]).sum().backward()
            for t in got_in[len(cut) :]:
                dist.all_reduce(t.grad, group=group)
            pairs = [(got, want[here])]
            pairs += [(g.grad, w.grad[here]) for g, w in zip(got_in[: len(cut)], want_in)]
            pairs += [(g.grad, w.grad) for g, w in zip(got_in[len(cut) :], want_in[len(cut) :])]
            for place, (g, w) in enumerate(pairs):
                gap = float((g - w).detach().abs().max()) / max(float(w.abs().max()), 1e-3)
                assert gap <= 1e-12, f"{name}, {size} ranks, documents {lengths}, tensor {place}: {gap:.1e}"


def main() -> None:
    torch.set_num_threads(1)
    attention_ring.BLOCK = 16
    dist.init_process_group("gloo")
    for size in range(1, dist.get_world_size() + 1):
        group = dist.new_group(range(size))
        if dist.get_rank() < size:
            check(group, dist.get_rank(), size)
    dist.barrier()


main()
