"""Draw a token of every row on the device, its log-probabilities and its confidence beside it.

Rows are read in parts by programs of their own. The 20th largest logit (confidence), the k-th largest (top-k) and the edge of
the nucleus (top-p) are found by cutting in four the bits of fp32 numbers, which are ordered like integers: 16 passes give the
exact values, whatever V is, and nothing is sorted. Every program of a pass first sums what the pass before it counted in all
parts of its row, always in the same order, and narrows the searches alike. A nucleus inside a top-k is searched afterwards,
in passes of its own (`both`).

The rules of what a cut keeps, the inverse CDF in token order and the hash behind its uniform number are `reference`'s.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TOP = 20
NOTHING = tl.constexpr(80.0)
LOWEST = tl.constexpr(-2139095041)  # -inf, ordered
PASSES = 16
BLOCK, PART, PIECE = 8192, 16384, 1024  # logits of a program; of one that counts, and those it holds at once


def draw(
    logits: Tensor, temperature: Tensor, top_p: Tensor, min_p: Tensor, top_k: Tensor, keys: Tensor, positions: Tensor,
    first: Tensor, tokens: Tensor, numbers: Tensor, both: bool = True,
) -> None:  # fmt: skip
    """logits [B,V] fp32 -> tokens [B] int64, numbers [B,4] fp32: log p as sampled, raw log p, confidence, log sum exp.

    temperature (0: greedy), top_p, min_p [B] fp32; top_k [B] int64 (0: off); keys [B] int64: the streams' 64 bits;
    positions [B] int64 and `first` [B] (position of the token before the first drawn one): the draw's number in its stream.
    both: some row may have a top_k and a top_p.
    """
    batch, vocab = logits.shape
    assert logits.stride(1) == 1 and tokens.is_contiguous() and numbers.is_contiguous()
    block = min(BLOCK, triton.next_power_of_2(vocab))
    parts = triton.cdiv(vocab, block)
    device, grid, row, count = logits.device, (batch, parts), logits.stride(0), min(TOP, vocab)
    peaks, sums = (torch.empty(batch, parts, 2, dtype=torch.float32, device=device) for _ in range(2))
    bounds = torch.empty(2, batch, 3, 2, dtype=torch.int32, device=device)
    part = min(PART, triton.next_power_of_2(vocab))
    counts = torch.empty(2, batch, 3, 4, triton.cdiv(vocab, part), dtype=torch.float32, device=device)
    kept = torch.empty(batch, 4, parts, dtype=torch.float64, device=device)
    shape: dict[str, int] = {
        "C": parts, "CP": triton.next_power_of_2(parts), "BLOCK": block, "num_warps": 8 if block > 1024 else 4
    }  # fmt: skip
    _peaks[grid](logits, peaks, row, vocab, **shape)
    _sums[grid](logits, temperature, peaks, sums, row, vocab, **shape)
    passes = [(number, False) for number in range(PASSES + 1)]
    passes += [(number, True) for number in range(PASSES + 1)] if both else []
    for turn, (number, second) in enumerate(passes):
        _narrow[batch, counts.shape[4]](
            logits, temperature, top_p, top_k, peaks, sums, bounds[turn % 2], bounds[1 - turn % 2], counts[turn % 2],
            counts[1 - turn % 2], row, vocab, COUNT=count, BEGIN=number == 0, END=number == PASSES, SECOND=second,
            C=parts, CP=shape["CP"], D=counts.shape[4], DP=triton.next_power_of_2(counts.shape[4]), PART=part,
            PIECE=min(PIECE, part), num_warps=4,
        )  # fmt: skip
    edges = bounds[len(passes) % 2]
    _keep[grid](logits, temperature, top_p, min_p, top_k, peaks, edges, kept, row, vocab, **shape)
    _pick[(batch,)](
        logits, temperature, top_p, min_p, top_k, keys, positions, first, peaks, sums, edges, kept, tokens, numbers, row,
        vocab, COUNT=count, **shape,
    )  # fmt: skip


@triton.jit
def _ordered(x):
    """fp32 -> int32 that is ordered alike."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _number(bits):
    """The inverse of `_ordered`."""
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)


@triton.jit
def _mix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def _uniform(key, index):
    golden = tl.full((), 0x9E3779B97F4A7C15, tl.uint64)
    bits = _mix(_mix(key.to(tl.uint64, bitcast=True) + (index.to(tl.uint64, bitcast=True) + 1) * golden))
    return (bits >> 11).to(tl.float64) * 1.1102230246251565e-16


@triton.jit
def _warmth(temperature, row):
    heat = tl.load(temperature + row)
    return tl.where(heat == 0, 1.0, heat)


@triton.jit
def _few(temperature, top_k, row, vocab):
    """k where top-k cuts, else 0."""
    k = tl.load(top_k + row).to(tl.int32)
    return tl.where((k > 0) & (k < vocab) & (tl.load(temperature + row) != 0), k, 0)


@triton.jit
def _best(peaks, row, C: tl.constexpr, CP: tl.constexpr):
    part = tl.arange(0, CP)
    return tl.max(tl.load(peaks + (row * C + part) * 2, mask=part < C, other=float("-inf")))


@triton.jit
def _piece(logits, row, part, stride, vocab, BLOCK: tl.constexpr):
    """The row's part; -inf behind its end."""
    at = part * BLOCK + tl.arange(0, BLOCK)
    return tl.load(logits + row.to(tl.int64) * stride + at, mask=at < vocab, other=float("-inf"))


@triton.jit
def _peaks(logits, peaks, stride, vocab, C: tl.constexpr, CP: tl.constexpr, BLOCK: tl.constexpr):
    """The largest logit of each part and where it stands first."""
    row, part = tl.program_id(0), tl.program_id(1)
    z = _piece(logits, row, part, stride, vocab, BLOCK)
    best = tl.max(z)
    where = tl.min(tl.where(z == best, part * BLOCK + tl.arange(0, BLOCK), 2147483647))
    tl.store(peaks + (row * C + part) * 2, best)
    tl.store(peaks + (row * C + part) * 2 + 1, where.to(tl.float32, bitcast=True))


@triton.jit
def _sums(logits, temperature, peaks, sums, stride, vocab, C: tl.constexpr, CP: tl.constexpr, BLOCK: tl.constexpr):
    """Sums of exp of each part, plain and warm."""
    row, part = tl.program_id(0), tl.program_id(1)
    best, warmth = _best(peaks, row, C, CP), _warmth(temperature, row)
    z = _piece(logits, row, part, stride, vocab, BLOCK)
    tl.store(sums + (row * C + part) * 2, tl.sum(tl.exp(z - best)))
    tl.store(sums + (row * C + part) * 2 + 1, tl.sum(tl.exp((z - best) / warmth)))


@triton.jit
def _cut(low, high, WHICH: tl.constexpr):
    """The WHICH-th of three numbers that divide what lies between low and high."""
    width = high.to(tl.int64) - low
    return (low + ((width * WHICH + 3) >> 2)).to(tl.int32)


@triton.jit
def _total(counts, row, search, which, D: tl.constexpr, DP: tl.constexpr):
    part = tl.arange(0, DP)
    return tl.sum(tl.load(counts + ((row * 3 + search) * 4 + which) * D + part, mask=part < D, other=0.0))


@triton.jit
def _largest(low, high, counts, need, row, search, D: tl.constexpr, DP: tl.constexpr):
    """(low, high) of the largest number that `need` logits reach, in [low, high], after a pass."""
    a, b, c = _cut(low, high, 1), _cut(low, high, 2), _cut(low, high, 3)
    na, nb = _total(counts, row, search, 0, D, DP), _total(counts, row, search, 1, D, DP)
    nc = _total(counts, row, search, 2, D, DP)
    above = tl.where(nc >= need, high, tl.where(nb >= need, c - 1, tl.where(na >= need, b - 1, a - 1)))
    low = tl.where(nc >= need, c, tl.where(nb >= need, b, tl.where(na >= need, a, low)))
    return low, tl.maximum(above, low)


@triton.jit
def _smallest(low, high, counts, need, row, D: tl.constexpr, DP: tl.constexpr):
    """(low, high) of the smallest number above which less than `need` lies, in (low, high], after a pass."""
    a, b, c = _cut(low, high, 1), _cut(low, high, 2), _cut(low, high, 3)
    na, nb, nc = _total(counts, row, 2, 0, D, DP), _total(counts, row, 2, 1, D, DP), _total(counts, row, 2, 2, D, DP)
    below = tl.where(na < need, low, tl.where(nb < need, a, tl.where(nc < need, b, c)))
    return below, tl.where(na < need, a, tl.where(nb < need, b, tl.where(nc < need, c, high)))


@triton.jit
def _bounds(bounds, row, search, best, restart, BEGIN: tl.constexpr, LOW: tl.constexpr):
    """(low, high) of a search before this pass: all there is when it begins."""
    here = (row * 3 + search) * 2
    low, high = tl.full((), LOW, tl.int32), _ordered(best)
    if BEGIN:
        return tl.where(restart, low, tl.load(bounds + here)), tl.where(restart, high, tl.load(bounds + here + 1))
    return tl.load(bounds + here), tl.load(bounds + here + 1)


@triton.jit
def _narrow(
    logits, temperature, top_p, top_k, peaks, sums, bounds, narrower, counts, counting, stride, vocab, COUNT: tl.constexpr,
    BEGIN: tl.constexpr, END: tl.constexpr, SECOND: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, D: tl.constexpr,
    DP: tl.constexpr, PART: tl.constexpr, PIECE: tl.constexpr,
):  # fmt: skip
    """One pass of the searches 0 (confidence), 1 (top-k) and 2 (nucleus): (low, high) of each from `bounds` and `counts` to
    `narrower`, and what this part adds to the next counts."""
    row, part = tl.program_id(0), tl.program_id(1)
    best, warmth = _best(peaks, row, C, CP), _warmth(temperature, row)
    k = _few(temperature, top_k, row, vocab)
    p = tl.load(top_p + row)
    nucleus = (p < 1.0) & (tl.load(temperature + row) != 0) & ((k > 0) == SECOND)
    low0, high0 = _bounds(bounds, row, 0, best, not SECOND, BEGIN, LOWEST)
    low1, high1 = _bounds(bounds, row, 1, best, not SECOND, BEGIN, LOWEST)
    low2, high2 = _bounds(bounds, row, 2, best, nucleus or not SECOND, BEGIN, LOWEST - 1)
    if not BEGIN:
        if not SECOND:
            low0, high0 = _largest(low0, high0, counts, COUNT, row, 0, D, DP)
            if k > 0:
                low1, high1 = _largest(low1, high1, counts, k, row, 1, D, DP)
        if nucleus:
            if SECOND:
                whole = _total(counts, row, 2, 3, D, DP)
            else:
                at = tl.arange(0, CP)
                whole = tl.sum(tl.load(sums + (row * C + at) * 2 + 1, mask=at < C, other=0.0))
            low2, high2 = _smallest(low2, high2, counts, p * whole, row, D, DP)
    if part == 0:
        tl.store(narrower + row * 6, low0)
        tl.store(narrower + row * 6 + 1, high0)
        tl.store(narrower + row * 6 + 2, low1)
        tl.store(narrower + row * 6 + 3, high1)
        tl.store(narrower + row * 6 + 4, low2)
        tl.store(narrower + row * 6 + 5, high2)
    if not END:
        target = counting + row * 12 * D + part
        if not SECOND:
            _count(logits, row, part, stride, vocab, low0, high0, target, D, PART, PIECE)
            if k > 0:
                _count(logits, row, part, stride, vocab, low1, high1, target + 4 * D, D, PART, PIECE)
        if nucleus:
            reached = low1 if SECOND else tl.full((), LOWEST, tl.int32)
            _weigh(logits, row, part, stride, vocab, low2, high2, best, warmth, reached, target + 8 * D, D, PART, PIECE)


@triton.jit
def _count(
    logits, row, part, stride, vocab, low, high, target, D: tl.constexpr, PART: tl.constexpr, PIECE: tl.constexpr
):
    """How many logits of the part reach each of the three cuts."""
    a, b, c = _cut(low, high, 1), _cut(low, high, 2), _cut(low, high, 3)
    na = tl.zeros((PIECE,), tl.int32)
    nb = tl.zeros((PIECE,), tl.int32)
    nc = tl.zeros((PIECE,), tl.int32)
    for piece in range(part * (PART // PIECE), (part + 1) * (PART // PIECE)):
        bits = _ordered(_piece(logits, row, piece, stride, vocab, PIECE))
        na += (bits >= a).to(tl.int32)
        nb += (bits >= b).to(tl.int32)
        nc += (bits >= c).to(tl.int32)
    tl.store(target, tl.sum(na).to(tl.float32))
    tl.store(target + D, tl.sum(nb).to(tl.float32))
    tl.store(target + 2 * D, tl.sum(nc).to(tl.float32))


@triton.jit
def _weigh(
    logits, row, part, stride, vocab, low, high, best, warmth, reached, target, D: tl.constexpr, PART: tl.constexpr,
    PIECE: tl.constexpr,
):  # fmt: skip
    """The mass of the part above each of the three cuts, and all of it, among logits that are `reached` or more."""
    a, b, c = _cut(low, high, 1), _cut(low, high, 2), _cut(low, high, 3)
    ma = tl.zeros((PIECE,), tl.float32)
    mb = tl.zeros((PIECE,), tl.float32)
    mc = tl.zeros((PIECE,), tl.float32)
    whole = tl.zeros((PIECE,), tl.float32)
    for piece in range(part * (PART // PIECE), (part + 1) * (PART // PIECE)):
        z = _piece(logits, row, piece, stride, vocab, PIECE)
        bits = _ordered(z)
        mass = tl.where(bits >= reached, tl.exp((z - best) / warmth), 0.0)
        ma += tl.where(bits > a, mass, 0.0)
        mb += tl.where(bits > b, mass, 0.0)
        mc += tl.where(bits > c, mass, 0.0)
        whole += mass
    tl.store(target, tl.sum(ma))
    tl.store(target + D, tl.sum(mb))
    tl.store(target + 2 * D, tl.sum(mc))
    tl.store(target + 3 * D, tl.sum(whole))


@triton.jit
def _floor(temperature, top_p, min_p, top_k, edges, best, row, vocab):
    """The smallest logit over temperature that may be drawn."""
    warmth = _warmth(temperature, row)
    warm = tl.load(temperature + row) != 0
    share = tl.load(min_p + row)
    floor = best / warmth - NOTHING
    if _few(temperature, top_k, row, vocab) > 0:
        floor = tl.maximum(floor, _number(tl.load(edges + row * 6 + 2)) / warmth)
    if (tl.load(top_p + row) < 1.0) & warm:
        floor = tl.maximum(floor, _number(tl.load(edges + row * 6 + 5)) / warmth)
    if (share > 0.0) & warm:
        floor = tl.maximum(floor, best / warmth + tl.log(share))
    return floor


@triton.jit
def _keep(
    logits, temperature, top_p, min_p, top_k, peaks, edges, kept, stride, vocab, C: tl.constexpr, CP: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Of each part: mass and last place of what may be drawn; sum and number of the logits above the 20th."""
    row, part = tl.program_id(0), tl.program_id(1)
    best, warmth = _best(peaks, row, C, CP), _warmth(temperature, row)
    floor = _floor(temperature, top_p, min_p, top_k, edges, best, row, vocab)
    z = _piece(logits, row, part, stride, vocab, BLOCK)
    inside = z / warmth >= floor
    above = z > _number(tl.load(edges + row * 6))
    target = kept + row * 4 * C + part
    tl.store(target, tl.sum(tl.where(inside, tl.exp(z / warmth - best / warmth), 0.0).to(tl.float64)))
    tl.store(target + C, tl.max(tl.where(inside, part * BLOCK + tl.arange(0, BLOCK), -1)).to(tl.float64))
    tl.store(target + 2 * C, tl.sum(tl.where(above, z, 0.0)).to(tl.float64))
    tl.store(target + 3 * C, tl.sum(above.to(tl.int32)).to(tl.float64))


@triton.jit
def _pick(
    logits, temperature, top_p, min_p, top_k, keys, positions, first, peaks, sums, edges, kept, tokens, numbers, stride,
    vocab, COUNT: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    parts = tl.arange(0, CP)
    real = parts < C
    best, warmth, heat = _best(peaks, row, C, CP), _warmth(temperature, row), tl.load(temperature + row)
    floor = _floor(temperature, top_p, min_p, top_k, edges, best, row, vocab)
    # The part that the draw falls into, then its place there.
    mass = tl.load(kept + row * 4 * C + parts, mask=real, other=0.0)
    total = tl.sum(mass)
    index = tl.load(positions + row) - tl.load(first + row)
    target = _uniform(tl.load(keys + row), index) * total
    part = tl.sum(((tl.cumsum(mass, 0) <= target) & real).to(tl.int32))
    part = tl.minimum(part, C - 1)
    before = tl.sum(tl.where(parts < part, mass, 0.0))
    z = _piece(logits, row, part, stride, vocab, BLOCK)
    fine = tl.where(z / warmth >= floor, tl.exp(z / warmth - best / warmth), 0.0).to(tl.float64)
    passed = (before + tl.cumsum(fine, 0) <= target) & (part * BLOCK + tl.arange(0, BLOCK) < vocab)
    last = tl.max(tl.load(kept + row * 4 * C + C + parts, mask=real, other=-1.0)).to(tl.int32)
    drawn = tl.minimum(part * BLOCK + tl.sum(passed.to(tl.int32)), last)
    peak = tl.load(peaks + (row * C + parts) * 2, mask=real, other=float("-inf"))
    place = tl.load(peaks + (row * C + parts) * 2 + 1, mask=real, other=0.0).to(tl.int32, bitcast=True)
    likeliest = tl.min(tl.where(real & (peak == best), place, 2147483647))
    token = tl.where(heat == 0, likeliest, drawn)

    lse = best + tl.log(tl.sum(tl.load(sums + (row * C + parts) * 2, mask=real, other=0.0)))
    chosen = tl.load(logits + row.to(tl.int64) * stride + token)
    raw = chosen - lse
    share, p, k = tl.load(min_p + row), tl.load(top_p + row), tl.load(top_k + row)
    plain = (heat == 0) | ((heat == 1.0) & (p >= 1.0) & (share <= 0.0) & (k == 0))
    sampled = chosen / warmth - best / warmth - tl.log(total.to(tl.float32))
    over = tl.sum(tl.load(kept + row * 4 * C + 2 * C + parts, mask=real, other=0.0)).to(tl.float32)
    more = tl.sum(tl.load(kept + row * 4 * C + 3 * C + parts, mask=real, other=0.0)).to(tl.float32)
    mean = (over + (COUNT - more) * _number(tl.load(edges + row * 6))) / COUNT
    tl.store(tokens + row, token.to(tl.int64))
    tl.store(numbers + row * 4, tl.where(plain, raw, sampled))
    tl.store(numbers + row * 4 + 1, raw)
    tl.store(numbers + row * 4 + 2, lse - mean)
    tl.store(numbers + row * 4 + 3, lse)
