"""Chunked scan: inside a chunk the recurrence is a masked matrix product, between chunks a short recurrence over
states.

With s_i the sum of dt a from its document's first token in the chunk up to token i, xdt = dt x, and j <= i of one
document:

    y_i  = sum_j exp(s_i - s_j) (c_i . b_j) xdt_j  +  exp(s_i) c_i . S_in          (S_in: state that enters the chunk)
    S_out = exp(s_last) S_in + sum_j exp(s_last - s_j) b_j xdt_j

Exponents are kept in [-87, 0]: nothing overflows, and nothing is slow (exp of less is, on a CPU; its value is below the
smallest normal fp32 number). Pairs of different documents are multiplied by 0, so nothing leaks.

The backward is written out: with g the gradient that reaches xdt, the gradient of s_i is dy_i . y_i - xdt_i . g_i (plus
dS_out . S_out at the last token), so no gradient of the [Q,Q] decay matrix is ever needed.
Source: arXiv:2405.21060, section 6.

Inside this file tokens are cut into n chunks of Q, heads are split as H = G R, and a state is [n,G,N,R*P]: heads of a
group side by side, so that a chunk's products over all its heads are one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from h1r.ops.layout import Layout
from h1r.ops.ssd.reference import Scan


@dataclass(frozen=True)
class Grid:
    """How a packed row is cut into n chunks of Q tokens, and which pairs of tokens may see each other.

    rows    [n*Q] source token of each place, T for padding; None when the row is cut as it lies (padding at its end)
    places  [T] place of each token; None likewise
    lower   [n,Q,Q] 1 where j <= i of one document, 0 elsewhere
    enter   [n,Q] 1 where the token's document runs on from the previous chunk, 0 elsewhere
    leave   [n,Q] 1 where the token's document is the one that reaches the chunk's end, 0 elsewhere
    through [n] 1 where one document fills the chunk from its first place to its last
    runs_on [n] 1 where the chunk's first document began in an earlier chunk
    waves   chunk numbers by depth: the state that enters a chunk of wave k depends on chunks of earlier waves only;
            with each the chunks just before
    first, last  [S] first and last chunk of each document; only when every document begins a chunk of its own
    """

    size: int
    rows: Tensor | None
    places: Tensor | None
    lower: Tensor
    enter: Tensor
    leave: Tensor
    through: Tensor
    runs_on: Tensor
    waves: tuple[tuple[Tensor, Tensor], ...]
    first: Tensor | None = None
    last: Tensor | None = None


def ssd(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    layout: Layout,
    state: Tensor | None = None,
    final: bool = True,
    chunk: int | None = None,
) -> Scan:
    """The same function as `reference.ssd`; `chunk` is the chunk length (by default the layout's, else a power of two near
    sqrt(P N))."""
    tokens, _, channels = x.shape
    size = (
        chunk
        or layout.chunk
        or chunk_size(channels, b.shape[2], max(layout.lengths) if final or state is not None else tokens)
    )
    work = torch.promote_types(x.dtype, torch.float32)
    aligned = final or state is not None or layout.chunk is not None
    grid: Grid = layout.memo(("ssd", size, aligned, work), lambda: make_grid(layout, size, aligned, work))
    cut = [_cut(t.to(work), grid) for t in (x, dt, b, c)]
    with torch.autocast(x.device.type, enabled=False):
        y, out = _Chunks.apply(
            cut[0], cut[1], a.to(work), cut[2], cut[3], None if state is None else state.to(work), grid
        )
    y = y.flatten(0, 1)
    y = y[:tokens] if grid.places is None else y[grid.places]
    return Scan(y.to(x.dtype), out if final else None)


def chunk_size(channels: int, size: int, longest: int) -> int:
    """Q near sqrt(P N), where the work on [Q,Q] matrices equals the work on [P,N] states; no longer than needed."""
    want = (channels * size) ** 0.5
    q = 16
    while q * 1.42 < want and q < 256 and q < longest:
        q *= 2
    return q


def make_grid(layout: Layout, size: int, aligned: bool, dtype: torch.dtype) -> Grid:
    """Cut the row as it lies, or (aligned) give every document chunks of its own, padded at its end."""
    device, tokens = layout.device, layout.tokens
    rows: Tensor | None = None
    places: Tensor | None = None
    first: Tensor | None = None
    last: Tensor | None = None
    if aligned:
        lengths = torch.tensor(layout.lengths, device=device)
        chunks = (lengths + size - 1) // size
        first = chunks.cumsum(0) - chunks
        offset = torch.arange(tokens, device=device) - layout.starts[layout.segments]
        places = first[layout.segments] * size + offset
        total = int(chunks.sum()) * size
        rows = torch.full((total,), tokens, device=device).scatter_(0, places, torch.arange(tokens, device=device))
        segments = torch.repeat_interleave(torch.arange(len(layout.lengths), device=device), chunks * size)
        last = first + chunks - 1
    else:
        total = -(-tokens // size) * size
        segments = F.pad(layout.segments, (0, total - tokens), value=len(layout.lengths))
    segments = segments.view(-1, size)
    order = torch.arange(size, device=device)
    visible = (segments[:, :, None] == segments[:, None, :]) & (order[:, None] >= order)
    before = F.pad(segments[:-1, -1], (1, 0), value=-1)
    runs_on = before == segments[:, 0]
    enter = segments == before[:, None]
    # A document that begins a chunk of its own may start from a given state, so its tokens read S_in too.
    enter = torch.ones_like(enter) if aligned else enter
    leave = segments == segments[:, -1:]
    through = segments[:, 0] == segments[:, -1]
    return Grid(
        size, rows, places, visible.to(dtype), enter.to(dtype), leave.to(dtype), through.to(dtype), runs_on.to(dtype),
        _waves(runs_on, through), first, last,
    )  # fmt: skip


def _waves(runs_on: Tensor, through: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """A chunk waits for the one before it only when a single document fills that one: depth starts again after
    others."""
    waves: list[list[int]] = []
    depth, filled = 0, False
    for chunk, (on, full) in enumerate(zip(runs_on.tolist(), through.tolist(), strict=True)):
        depth = (depth + 1 if filled else 1) if on else 0
        filled = full
        if depth:
            if len(waves) < depth:
                waves.append([])
            waves[depth - 1].append(chunk)
    tensors = [torch.tensor(w, device=runs_on.device) for w in waves]
    return tuple((w, w - 1) for w in tensors)


def _cut(t: Tensor, grid: Grid) -> Tensor:
    """[T,...] -> [n,Q,...], zeros in padding."""
    if grid.rows is None:
        short = grid.lower.shape[0] * grid.size - t.shape[0]
        padded = F.pad(t, [0, 0] * (t.dim() - 1) + [0, short]) if short else t
    else:
        padded = F.pad(t, [0, 0] * (t.dim() - 1) + [0, 1])[grid.rows]
    return padded.view(-1, grid.size, *t.shape[1:])


class _Chunks(torch.autograd.Function):
    """x [n,Q,H,P], dt [n,Q,H], a [H], b, c [n,Q,G,N], state [S,H,P,N] -> y [n,Q,H,P], state [S,H,P,N] (aligned
    grids)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor | None, grid: Grid
    ) -> Any:
        n, q, heads, p = x.shape
        groups = b.shape[2]
        r = heads // groups
        s = torch.bmm(grid.lower, dt * a)  # [n,Q,H]
        decay = _decay(s)  # [n,H,Q,Q]
        bt, ct = _by_group(b), _by_group(c)  # [n,G,Q,N]
        scores = (ct @ bt.transpose(2, 3)).mul_(grid.lower[:, None])  # [n,G,Q,Q]
        weights = (decay.view(n, groups, r, q, q) * scores[:, :, None]).view(n * heads, q, q)
        xdt = _heads_first(x, dt)  # [n,H,Q,P]
        y = torch.bmm(weights, xdt.view(n * heads, q, p)).view(n, heads, q, p)

        leave = _exp(s[:, -1:] - s).mul_(grid.leave[:, :, None])  # [n,Q,H]
        xw = _by_group((x * (dt * leave)[..., None]).view(n, q, groups, r * p))  # [n,G,Q,RP]
        local = bt.transpose(2, 3) @ xw  # [n,G,N,RP]
        carry = _exp(s[:, -1].clone()).mul_(grid.through[:, None]).view(n, groups, 1, r, 1)
        entering, last = _carry_forward(local, carry, state, grid)
        reach = _exp(s.clone()).mul_(grid.enter[:, :, None])  # [n,Q,H]
        across = (ct @ entering).transpose(1, 2).reshape(n, q, heads, p)
        y = y.transpose(1, 2).contiguous().addcmul_(across, reach[..., None])
        ctx.save_for_backward(x, dt, a, b, c, decay, xdt, leave, xw, carry, entering, reach, y, last)
        ctx.grid, ctx.has_state = grid, state is not None
        return y, last

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dlast: Tensor | None) -> Any:
        with torch.autocast(dy.device.type, enabled=False):
            return _Chunks.gradients(ctx, dy, dlast)

    @staticmethod
    def gradients(ctx: Any, dy: Tensor, dlast: Tensor | None) -> Any:
        """d/d x, dt, a, b, c, state."""
        x, dt, a, b, c, decay, xdt, leave, xw, carry, entering, reach, y, last = ctx.saved_tensors
        grid: Grid = ctx.grid
        n, q, heads, p = x.shape
        groups = b.shape[2]
        r = heads // groups
        bt, ct = _by_group(b), _by_group(c)
        scores = (ct @ bt.transpose(2, 3)).mul_(grid.lower[:, None])
        dyt = dy.transpose(1, 2).contiguous().view(n * heads, q, p)
        weights = (decay.view(n, groups, r, q, q) * scores[:, :, None]).view(n * heads, q, q)
        dxdt = torch.bmm(weights.transpose(1, 2), dyt).view(n, heads, q, p).transpose(1, 2)
        dweights = torch.bmm(dyt, xdt.view(n * heads, q, p).transpose(1, 2)).view(n, heads, q, q)
        dscores = dweights.mul_(decay).view(n, groups, r, q, q).sum(2).mul_(grid.lower[:, None])

        dacross = _by_group((dy * reach[..., None]).view(n, q, groups, r * p))
        dleaving, dentering = _carry_backward(ct.transpose(2, 3) @ dacross, carry, dlast, ctx.has_state, grid)
        dct = dscores @ bt + dacross @ entering.transpose(2, 3)
        dbt = dscores.transpose(2, 3) @ ct + xw @ dleaving.transpose(2, 3)
        dxw = (bt @ dleaving).transpose(1, 2).reshape(n, q, heads, p)
        g = torch.addcmul(dxdt, dxw, leave[..., None], out=torch.empty_like(dxw))  # gradient that reaches xdt
        ddt = (x * g).sum(-1)
        ds = (dy * y).sum(-1) - dt * ddt
        ds[:, -1] += _last_gradient(dentering, entering, dlast, last, r, grid)
        dda = torch.bmm(grid.lower.transpose(1, 2), ds)
        dstate = None
        if ctx.has_state:
            dstate = _to_state(dentering[grid.first], heads, p)
        return (
            g.mul_(dt[..., None]), ddt.addcmul_(dda, a), (dda * dt).sum((0, 1)),
            dbt.transpose(1, 2), dct.transpose(1, 2), dstate, None,
        )  # fmt: skip


def _decay(s: Tensor) -> Tensor:
    """exp(s_i - s_j): [n,Q,H] -> [n,H,Q,Q]; what it says where j > i is masked by others."""
    st = s.transpose(1, 2).contiguous()
    return _exp(st[:, :, :, None] - st[:, :, None, :])


def _exp(t: Tensor) -> Tensor:
    """exp in place, of exponents brought into [-87, 0]."""
    return t.clamp_(-87.0, 0.0).exp_()


def _heads_first(x: Tensor, dt: Tensor) -> Tensor:
    """dt x as [n,H,Q,P], contiguous."""
    out = x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3])
    return torch.mul(x.transpose(1, 2), dt.transpose(1, 2)[..., None], out=out)


def _by_group(t: Tensor) -> Tensor:
    """[n,Q,G,...] -> [n,G,Q,...]; a view when there is one group."""
    return t.transpose(1, 2).contiguous() if t.shape[2] > 1 else t.view(t.shape[0], 1, t.shape[1], *t.shape[3:])


def _to_state(t: Tensor, heads: int, p: int) -> Tensor:
    """[S,G,N,RP] -> [S,H,P,N]."""
    count, groups, size, _ = t.shape
    return t.view(count, groups, size, heads // groups, p).permute(0, 1, 3, 4, 2).reshape(count, heads, p, size)


def _from_state(state: Tensor, groups: int) -> Tensor:
    """[S,H,P,N] -> [S,G,N,RP]."""
    count, heads, p, size = state.shape
    r = heads // groups
    return state.view(count, groups, r, p, size).permute(0, 1, 4, 2, 3).reshape(count, groups, size, r * p)


def _carry_forward(local: Tensor, carry: Tensor, state: Tensor | None, grid: Grid) -> tuple[Tensor, Tensor | None]:
    """States that enter each chunk [n,G,N,RP], and (aligned) those after each document's last [S,H,P,N]."""
    n, groups, size, rp = local.shape
    r = carry.shape[3]
    split = (n, groups, size, r, rp // r)
    entering = torch.empty_like(local)
    entering[0] = 0
    torch.mul(local[:-1], grid.runs_on[1:, None, None, None], out=entering[1:])
    view, source = entering.view(split), local.view(split)
    if state is not None:
        entering[grid.first] = _from_state(state, groups)
    # Chunks of the first wave follow one that nothing entered, unless documents start from given states.
    for wave, before in grid.waves[0 if state is not None else 1 :]:
        view.index_add_(0, wave, view.index_select(0, before).mul_(carry.index_select(0, before)))
    if grid.last is None:
        return entering, None
    # Rounded twice, as above: a document that goes on from this state equals one that was never cut.
    final = source[grid.last] + view[grid.last] * carry[grid.last]
    return entering, _to_state(final.view(-1, groups, size, rp), groups * r, rp // r)


def _carry_backward(
    dentering: Tensor, carry: Tensor, dlast: Tensor | None, has_state: bool, grid: Grid
) -> tuple[Tensor, Tensor]:
    """Gradients of the states that leave each chunk and of those that enter it; `dentering` is completed in place."""
    n, groups, size, rp = dentering.shape
    r = carry.shape[3]
    split = (n, groups, size, r, rp // r)
    view = dentering.view(split)
    if dlast is not None and grid.last is not None:
        view[grid.last] += _from_state(dlast, groups).view(-1, *split[1:]) * carry[grid.last]
    for wave, before in reversed(grid.waves[0 if has_state else 1 :]):
        view.index_add_(0, before, view.index_select(0, wave).mul_(carry.index_select(0, before)))
    dleaving = torch.empty_like(dentering)
    dleaving[-1] = 0
    torch.mul(dentering[1:], grid.runs_on[1:, None, None, None], out=dleaving[:-1])
    if dlast is not None and grid.last is not None:
        dleaving[grid.last] = _from_state(dlast, groups)
    return dleaving, dentering


def _last_gradient(
    dentering: Tensor, entering: Tensor, dlast: Tensor | None, last: Tensor | None, r: int, grid: Grid
) -> Tensor:
    """dS_out . S_out per chunk and head [n,H]: the state that enters a chunk is the one that left the chunk before
    it."""
    n, groups, size, rp = entering.shape
    dot = (dentering * entering).view(n, groups, size, r, rp // r).sum((2, 4)).view(n, groups * r)
    out = torch.zeros_like(dot)
    torch.mul(dot[1:], grid.runs_on[1:, None], out=out[:-1])
    if dlast is not None and last is not None and grid.last is not None:
        out[grid.last] += (dlast * last).sum((2, 3))
    return out
