"""Decode attention on the GPU: rotate the new token and write its keys and values into pages, then attend to the pages.

Keys are read once for all the query heads they serve. A sequence's cache is cut into `splits` parts, each computed by a
program of its own (its softmax left open: largest score m, sum l, sum of values) and joined afterwards, so that few long
sequences fill the device as well as many short ones (flash decoding, arXiv:2311.01282).

Siblings, traces of one prompt, hold its pages together. Told which rows do (`Shared`), a program reads such pages once for
sixteen rows; each row's own programs begin behind them, and all parts are joined.

Nothing here asks the host for anything: lengths, slots and pages are read on the device, so a step can be captured in a
CUDA graph. A row whose position is -1 is padding: nothing is written for it, and its output is 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from h1r.ops.attention.rope import Rotation

FP8_LARGEST = tl.constexpr(448.0)
LOG2E = 1.4426950408889634
BLOCK, WARPS, STAGES = 64, 2, 5  # tokens a program reads at once
BUNDLE = 16  # rows that read a prefix together


class Shared(NamedTuple):
    """Which rows begin with the same pages. tokens [B] int32: of each row's prefix that bundles attend to, whole pages, 0 for
    none; members [b,BUNDLE] int32: rows of each bundle, all with one prefix, -1 for none; splits: parts a prefix is cut into."""

    tokens: Tensor
    members: Tensor
    splits: int


def write(
    qkv: Tensor, turn: Rotation, keys: Tensor, values: Tensor, positions: Tensor, slots: Tensor, table: Tensor, q: Tensor,
    q_norm: Tensor | None = None, k_norm: Tensor | None = None, eps: float = 0.0,
) -> None:  # fmt: skip
    """qkv [B,(Hq+2Kv)d], the new tokens' projections -> q [B,Hq,d] rotated; k and v into their pages.

    turn: cos, sin of the positions; keys, values [pages,page,Kv,d], one layer; positions [B] int64, -1 for padding;
    slots [B] int64, table [slots,width] int32: pages of each slot's sequence. q_norm, k_norm [d]: RMS norms before the
    rotation (Qwen3).
    """
    batch, heads, d = q.shape
    kv = keys.shape[2]
    assert qkv.shape == (batch, (heads + 2 * kv) * d) and qkv.stride(1) == 1 and d % 2 == 0
    assert keys.stride(3) == 1 and q.is_contiguous()
    _write[(batch, heads + 2 * kv)](
        qkv, turn.cos, turn.sin, keys, values, positions, slots, table, q, q_norm, k_norm,
        qkv.stride(0), table.stride(0), keys.shape[1], eps, *keys.stride()[:3], *values.stride(),
        HQ=heads, KV=kv, HALF=d // 2, BLOCK=triton.next_power_of_2(d // 2), FP8=keys.dtype == torch.float8_e4m3fn,
        NORM=q_norm is not None, num_warps=1,
    )  # fmt: skip


@triton.jit
def _write(
    qkv, cos, sin, keys, values, positions, slots, table, q, q_norm, k_norm, qkv_row, table_row, page_size, eps,
    k_page, k_token, k_head, v_page, v_token, v_head, v_channel, HQ: tl.constexpr, KV: tl.constexpr, HALF: tl.constexpr,
    BLOCK: tl.constexpr, FP8: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    position = tl.load(positions + row)
    at = tl.arange(0, BLOCK)
    inside = at < HALF
    source = qkv + row * qkv_row + head * 2 * HALF
    left = tl.load(source + at, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(source + HALF + at, mask=inside, other=0.0).to(tl.float32)
    if head < HQ + KV:
        if NORM:
            weight = q_norm if head < HQ else k_norm
            r = tl.rsqrt((tl.sum(left * left) + tl.sum(right * right)) / (2 * HALF) + eps)
            left = left * r * tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
            right = right * r * tl.load(weight + HALF + at, mask=inside, other=0.0).to(tl.float32)
        c = tl.load(cos + row * HALF + at, mask=inside, other=0.0)
        s = tl.load(sin + row * HALF + at, mask=inside, other=0.0)
        turned = left * c - right * s
        right = right * c + left * s
        left = turned
    if head < HQ:
        target = q + (row * HQ + head) * 2 * HALF
        tl.store(target + at, left.to(q.dtype.element_ty), mask=inside)
        tl.store(target + HALF + at, right.to(q.dtype.element_ty), mask=inside)
    else:
        if FP8:
            left = tl.minimum(tl.maximum(left, -FP8_LARGEST), FP8_LARGEST)
            right = tl.minimum(tl.maximum(right, -FP8_LARGEST), FP8_LARGEST)
        real = inside & (position >= 0)
        safe = tl.maximum(position, 0)
        page = tl.load(table + tl.load(slots + row) * table_row + safe // page_size).to(tl.int64)
        offset = safe % page_size
        if head < HQ + KV:
            pool = keys + page * k_page + offset * k_token + (head - HQ) * k_head
            tl.store(pool + at, left.to(keys.dtype.element_ty), mask=real)
            tl.store(pool + HALF + at, right.to(keys.dtype.element_ty), mask=real)
        else:
            pool = values + page * v_page + offset * v_token + (head - HQ - KV) * v_head
            tl.store(pool + at * v_channel, left.to(keys.dtype.element_ty), mask=real)
            tl.store(pool + (HALF + at) * v_channel, right.to(keys.dtype.element_ty), mask=real)


def splits_for(batch: int, kv: int, processors: int) -> int:
    """Parts a sequence is cut into, so that there are about sixteen programs for each of the device's processors."""
    return max(1, min(64, -(-16 * processors // (batch * kv))))


def decode(
    q: Tensor, keys: Tensor, values: Tensor, positions: Tensor, slots: Tensor, table: Tensor, out: Tensor, splits: int,
    shared: Shared | None = None,
) -> None:  # fmt: skip
    """q [B,Hq,d], keys and values [pages,page,Kv,d] up to and including each position -> out [B,Hq*d] (any row stride).

    The page size is 16 or a larger power of two. Shapes of the rest: see `write`. Fp8 values are fastest when a channel's
    tokens lie side by side (`Cache` holds them so): what the second product needs together is then read together.
    """
    batch, heads, d = q.shape
    kv, page = keys.shape[2], keys.shape[1]
    repeat = heads // kv
    assert page >= 16 and page & (page - 1) == 0, f"pages of {page} tokens: a power of two, 16 or more"
    parts = splits + (shared.splits if shared is not None else 0)
    tokens = None if shared is None else shared.tokens
    part = torch.empty(batch, heads, parts, d, dtype=torch.float32, device=q.device)
    peak = torch.empty(batch, heads, parts, 2, dtype=torch.float32, device=q.device)
    narrow, block = keys.dtype == torch.float8_e4m3fn, min(page, BLOCK)
    given = table.stride(0), *keys.stride()[:3], *values.stride()
    shape = {
        "PAGE": page,
        "R": repeat,
        "D": d,
        "DP": max(16, triton.next_power_of_2(d)),
        "N": block,
        "PARTS": parts,
        "FP8": narrow,
    }
    _split[(batch, kv, splits)](
        q, keys, values, table, slots, positions, tokens, part, peak, d**-0.5 * LOG2E, *given, **shape,
        RP=max(16, triton.next_power_of_2(repeat)), SPLITS=splits, SHARED=shared is not None, num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    if shared is not None:
        _prefix[(len(shared.members), kv, shared.splits)](
            q, keys, values, table, slots, tokens, shared.members, part, peak, d**-0.5 * LOG2E, *given, **shape,
            RP=triton.next_power_of_2(repeat), ROWS=BUNDLE, OWN=splits, num_warps=8, num_stages=2,
        )  # fmt: skip
    _join[(batch, heads)](
        part, peak, tokens, out, out.stride(0), H=heads, D=d, DP=triton.next_power_of_2(d), OWN=splits, PARTS=parts,
        SP=triton.next_power_of_2(parts), SHARED=shared is not None, num_warps=2,
    )  # fmt: skip


@triton.jit
def _split(
    q, keys, values, table, slots, positions, tokens, part, peak, scale, table_row, k_page, k_token, k_head,
    v_page, v_token, v_head, v_channel, PAGE: tl.constexpr, R: tl.constexpr, RP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    N: tl.constexpr, PARTS: tl.constexpr, SPLITS: tl.constexpr, FP8: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    row, kv, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = (tl.load(positions + row) + 1).to(tl.int32)
    begun = 0
    if SHARED:
        begun = tl.multiple_of(tl.load(tokens + row), N)
    each = tl.cdiv(tl.cdiv(length - begun, N), SPLITS) * N
    first = begun + split * each
    last = tl.minimum(length, first + each)
    heads, at = tl.arange(0, RP), tl.arange(0, DP)
    channel = at < D
    mine = (row * R * tl.num_programs(1) + kv * R + heads).to(tl.int64)
    query = tl.load(q + mine[:, None] * D + at[None, :], mask=(heads < R)[:, None] & channel[None, :], other=0.0)
    if FP8:
        query = query.to(tl.float16)  # what fp8 numbers become in one instruction
    m = tl.full((RP,), float("-inf"), tl.float32)
    l = tl.zeros((RP,), tl.float32)
    acc = tl.zeros((RP, DP), tl.float32)
    pages = table + tl.load(slots + row) * table_row
    k_inside, v_inside = _inside(kv, k_token, k_head, v_token, v_head, v_channel, N, DP, FP8)
    whole = first + tl.maximum(last - first, 0) // N * N
    for begin in range(first, whole, N):
        page = tl.load(pages + begin // PAGE).to(tl.int64)
        offset = tl.multiple_of(begin % PAGE, N)
        m, l, acc = _block(
            query, keys + page * k_page + offset * k_token + k_inside, values + page * v_page + offset * v_token + v_inside,
            m, l, acc, scale, N, channel, False, D == DP, FP8,
        )  # fmt: skip
    if whole < last:
        page = tl.load(pages + whole // PAGE).to(tl.int64)
        offset = tl.multiple_of(whole % PAGE, N)
        m, l, acc = _block(
            query, keys + page * k_page + offset * k_token + k_inside, values + page * v_page + offset * v_token + v_inside,
            m, l, acc, scale, last - whole, channel, True, D == DP, FP8,
        )  # fmt: skip
    target = mine * PARTS + split
    real = heads < R
    tl.store(part + target[:, None] * D + at[None, :], acc, mask=real[:, None] & channel[None, :])
    tl.store(peak + target * 2, m, mask=real)
    tl.store(peak + target * 2 + 1, l, mask=real)


@triton.jit
def _prefix(
    q, keys, values, table, slots, tokens, members, part, peak, scale, table_row, k_page, k_token, k_head,
    v_page, v_token, v_head, v_channel, PAGE: tl.constexpr, R: tl.constexpr, RP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    N: tl.constexpr, PARTS: tl.constexpr, FP8: tl.constexpr, ROWS: tl.constexpr, OWN: tl.constexpr,
):  # fmt: skip
    """A part of the prefix of one bundle, for all query heads of a K/V head of all its rows."""
    bundle, kv, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    leader = tl.load(members + bundle * ROWS)
    if leader >= 0:
        length = tl.load(tokens + leader)
        each = tl.cdiv(tl.cdiv(length, N), PARTS - OWN) * N
        first = split * each
        last = tl.minimum(length, first + each)
        i, at = tl.arange(0, ROWS * RP), tl.arange(0, DP)
        channel, head = at < D, i % RP
        row = tl.load(members + bundle * ROWS + i // RP)
        real = (row >= 0) & (head < R)
        mine = (tl.maximum(row, 0) * R * tl.num_programs(1) + kv * R + head).to(tl.int64)
        query = tl.load(q + mine[:, None] * D + at[None, :], mask=real[:, None] & channel[None, :], other=0.0)
        if FP8:
            query = query.to(tl.float16)
        m = tl.full((ROWS * RP,), float("-inf"), tl.float32)
        l = tl.zeros((ROWS * RP,), tl.float32)
        acc = tl.zeros((ROWS * RP, DP), tl.float32)
        pages = table + tl.load(slots + leader) * table_row
        k_inside, v_inside = _inside(kv, k_token, k_head, v_token, v_head, v_channel, N, DP, FP8)
        for begin in range(first, last, N):
            page = tl.load(pages + begin // PAGE).to(tl.int64)
            offset = tl.multiple_of(begin % PAGE, N)
            m, l, acc = _block(
                query, keys + page * k_page + offset * k_token + k_inside, values + page * v_page + offset * v_token + v_inside,
                m, l, acc, scale, N, channel, False, D == DP, FP8,
            )  # fmt: skip
        target = mine * PARTS + OWN + split
        tl.store(part + target[:, None] * D + at[None, :], acc, mask=real[:, None] & channel[None, :])
        tl.store(peak + target * 2, m, mask=real)
        tl.store(peak + target * 2 + 1, l, mask=real)


@triton.jit
def _inside(
    kv, k_token, k_head, v_token, v_head, v_channel, N: tl.constexpr, DP: tl.constexpr, FP8: tl.constexpr
):  # fmt: skip
    """Offsets of a block's keys [N,DP] and values (fp8: [DP,N]) from its first token."""
    at, places = tl.arange(0, DP), tl.arange(0, N)
    keys = places[:, None] * k_token + kv * k_head + at[None, :]
    if FP8:
        values = at[:, None] * v_channel + kv * v_head + places[None, :] * v_token
    else:
        values = at[None, :] * v_channel + kv * v_head + places[:, None] * v_token
    return keys, values


@triton.jit
def _block(
    query, keys, values, m, l, acc, scale, count, channel, PART: tl.constexpr, EVEN: tl.constexpr, FP8: tl.constexpr
):  # fmt: skip
    """The open softmax after a block of N keys [N,D] and values ([D,N] in fp8) more; PART: after the first `count` alone.

    Blocks read whole carry no mask: one along the tokens would keep fp8 values from being read in words.
    """
    seen = tl.arange(0, keys.shape[0]) < count
    if PART:
        k = tl.load(keys, mask=seen[:, None] & channel[None, :], other=0.0)
        there = channel[:, None] & seen[None, :] if FP8 else seen[:, None] & channel[None, :]
        v = tl.load(values, mask=there, other=0.0)
    elif EVEN:
        k, v = tl.load(keys), tl.load(values)
    else:
        k = tl.load(keys, mask=channel[None, :], other=0.0)
        v = tl.load(values, mask=channel[:, None] if FP8 else channel[None, :], other=0.0)
    if FP8:
        v = tl.trans(v)
    k, v = k.to(query.dtype), v.to(query.dtype)
    scores = tl.dot(query, tl.trans(k), input_precision="ieee") * scale
    if PART:
        scores = tl.where(seen[None, :], scores, float("-inf"))
    highest = tl.maximum(m, tl.max(scores, 1))
    weight = tl.exp2(scores - highest[:, None])
    fade = tl.exp2(m - highest)
    l = l * fade + tl.sum(weight, 1)
    acc = acc * fade[:, None] + tl.dot(weight.to(query.dtype), v, input_precision="ieee")
    return highest, l, acc


@triton.jit
def _join(
    part, peak, tokens, out, out_row, H: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, OWN: tl.constexpr, PARTS: tl.constexpr,
    SP: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    parts, at = tl.arange(0, SP), tl.arange(0, DP)
    mine = (row * H + head) * PARTS + parts
    known = parts < OWN
    if SHARED:  # a row of no bundle has nothing behind its own parts
        known = parts < tl.where(tl.load(tokens + row) > 0, PARTS, OWN)
    m = tl.load(peak + mine * 2, mask=known, other=float("-inf"))
    l = tl.load(peak + mine * 2 + 1, mask=known, other=0.0)
    highest = tl.max(m)
    weight = tl.where(m == float("-inf"), 0.0, tl.exp2(m - tl.where(highest == float("-inf"), 0.0, highest)))
    some = known[:, None] & (at < D)[None, :]
    acc = tl.load(part + mine[:, None] * D + at[None, :], mask=some, other=0.0)
    total = tl.sum(l * weight)
    value = tl.sum(acc * weight[:, None], 0) / tl.where(total > 0, total, 1.0)
    tl.store(out + row * out_row + head * D + at, value.to(out.dtype.element_ty), mask=at < D)
