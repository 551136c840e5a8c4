"""The step's tokens: each sequence's sampling parameters by state slot, bias, penalties and grammar, and the draw.

Order of operations (that of transformers): logit bias, penalties, grammar, then what `ops.draw` does: temperature, top-k, top-p,
min-p, draw. Letters: B sequences of the step, V vocabulary. Greedy rows take the argmax after bias, penalties and grammar; their
log-probability is the one at temperature 1, since the limit's would be 0 for every token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from h1r.engine.cuda import Sampling
from h1r.engine.request import Sequence
from h1r.errors import CheckpointError
from h1r.ops.draw import Cuts, key, look, penalise, pick, thresholds, uniforms

TOP = 20  # tokens in a confidence (DeepConf, arXiv:2508.15260)

FORBIDDEN = 1e4  # nats below the likeliest allowed token, finite: the kernel takes inf for damage


class Draws(NamedTuple):
    """One step's results, each a list over the B sequences.

    logprobs      under the distribution that was sampled from; raw_logprobs: under the raw logits
    confidence    -mean log p over the 20 likeliest tokens of the raw logits
    top           the likeliest (id, raw log p) of those sequences that asked, by row
    ended         0 goes on, 1 a stop id, 2 the limit
    """

    token_ids: list[int]
    logprobs: list[float]
    raw_logprobs: list[float]
    confidence: list[float]
    top: dict[int, tuple[tuple[int, float], ...]]
    ended: npt.NDArray[np.int8]


class Forms(NamedTuple):
    """The three functions a draw is made of: those above, or the native kernel's."""

    look: Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]] = look
    thresholds: Callable[[Tensor, Cuts, Tensor], Tensor] = thresholds
    pick: Callable[[Tensor, Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor]] = pick


class Sampler:
    """Sampling parameters by state slot, so that a step gathers them in one go."""

    def __init__(self, vocab: int, device: torch.device, forms: Forms | None = None) -> None:
        self.vocab, self.device, self.forms = vocab, device, forms or Forms()
        self.owner: list[Sequence | None] = []
        # columns: temperature, top_p, min_p, repetition, presence, frequency
        self.reals = np.zeros((0, 6), np.float32)
        # columns: top_k, tokens before the first drawn one, limit, wanted top log-probabilities
        self.whole = np.zeros((0, 4), np.int64)
        self.keys = np.zeros(0, np.uint64)
        self.stops = np.zeros((0, 1), np.int64)
        self.counts: Tensor | None = None  # [slots, V] int32, from the first penalised sequence on
        self.prompts: Tensor | None = None  # [slots, V] bool

    def draw(self, logits: Tensor, sequences: Items[Sequence]) -> Draws:
        """One token for each sequence. logits [B,V] fp32."""
        slots = np.array([s.slot for s in sequences], np.int64)
        self._place(sequences, slots)
        reals, whole = self.reals[slots], self.whole[slots]
        positions = np.array([s.length for s in sequences], np.int64) - whole[:, 1]
        lse, likeliest, best = self.forms.look(logits, min(TOP, self.vocab))
        _check(bool(torch.isfinite(lse).all()))
        adjusted = self._adjust(logits, sequences, slots, reals)
        greedy = reals[:, 0] == 0
        uniform = uniforms(self.keys[slots], positions.astype(np.uint64))
        known = lse, best
        if adjusted is not logits:
            known = self.forms.look(adjusted, 1)[::2]
        bound = any(s.allowed is not None for s in sequences)
        tokens, logprobs = self._choose(adjusted, *known, greedy, reals, whole[:, 0], uniform, bound)
        forced = {row: s.thought.pending[0] for row, s in enumerate(sequences) if s.thought and s.thought.pending}
        if forced:
            tokens[list(forced)] = torch.tensor(list(forced.values()), device=self.device)
        raw = logits.gather(1, tokens[:, None])[:, 0] - lse
        # Where nothing was changed or cut, the two are one number: the trainer's own form of it.
        plain = (reals == (1, 1, 0, 1, 0, 0)).all(1) & (whole[:, 0] == 0)
        if adjusted is not logits:
            plain &= [s.allowed is None and not _bias(s) for s in sequences]
        if plain.any():
            logprobs = torch.where(torch.from_numpy(plain).to(self.device), raw, logprobs)
        if forced:
            logprobs[list(forced)] = raw[list(forced)]
        confidence = lse - likeliest.mean(-1)
        ids = tokens.cpu().numpy()
        if self.counts is not None:
            self.counts[torch.from_numpy(slots).to(self.device), tokens] += 1
        ended = self._ended(slots, positions, ids)
        sampled, plain, sure = torch.stack((logprobs, raw, confidence)).tolist()
        return Draws(ids.tolist(), sampled, plain, sure, _likeliest(logits, lse, whole[:, 3]), ended)

    def simple(self, sequences: Items[Sequence]) -> bool:
        """Whether a kernel can draw for them all: nothing is added to their logits, and nobody asks for more than a token,
        its log-probabilities and its confidence."""
        slots = np.array([s.slot for s in sequences], np.int64)
        self._place(sequences, slots)
        punished = (self.reals[slots, 3:] != (1, 0, 0)).any()
        return not (
            punished
            or self.whole[slots, 3].any()
            or any(s.thought is not None or s.constraint is not None or _bias(s) for s in sequences)
        )

    def settings(self, sequences: Items[Sequence]) -> Sampling:
        """What the kernel needs of sequences that `simple` has placed."""
        slots = np.array([s.slot for s in sequences], np.int64)
        whole = np.stack((self.whole[slots, 0], self.keys[slots].view(np.int64), self.whole[slots, 1]))
        return Sampling(np.ascontiguousarray(self.reals[slots, :3].T), whole)

    def last(self, sequences: Items[Sequence]) -> bool:
        """Whether the token being drawn is the last allowed one of any of them."""
        slots = np.array([s.slot for s in sequences], np.int64)
        lengths = np.array([s.length for s in sequences], np.int64)
        return bool((lengths - self.whole[slots, 1] + 1 >= self.whole[slots, 2]).any())

    def landed(
        self, sequences: Items[Sequence], ids: npt.NDArray[np.int64], numbers: npt.NDArray[np.float32]
    ) -> Draws:  # fmt: skip
        """The kernel's results (draw.triton) as Draws."""
        _check(bool(np.isfinite(numbers[:, 3]).all()))
        slots = np.array([s.slot for s in sequences], np.int64)
        positions = np.array([s.length for s in sequences], np.int64) - self.whole[slots, 1]
        sampled, raw, confidence, _ = numbers.T.tolist()
        return Draws(ids.tolist(), sampled, raw, confidence, {}, self._ended(slots, positions, ids))

    def _ended(
        self, slots: npt.NDArray[np.int64], positions: npt.NDArray[np.int64], ids: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int8]:
        """A stop id drawn as the last allowed token is a stop, not a cut."""
        ended = np.where(positions + 1 >= self.whole[slots, 2], np.int8(2), np.int8(0))
        ended[(ids[:, None] == self.stops[slots]).any(1)] = 1
        return ended

    def _choose(
        self, logits: Tensor, lse: Tensor, best: Tensor, greedy: npt.NDArray[np.bool_], reals: npt.NDArray[np.float32],
        top_k: npt.NDArray[np.int64], uniform: npt.NDArray[np.float64], bound: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Tokens [B] and their log-probabilities under the sampled distribution [B]; lse, best: of `logits`. bound: some
        tokens are forbidden."""
        if greedy.all():
            return best, logits.gather(1, best[:, None])[:, 0] - lse
        temperature = torch.from_numpy(np.where(greedy, np.float32(1), reals[:, 0])).to(self.device)
        cuts = Cuts(
            np.where(greedy, 0, top_k),
            np.where(greedy, np.float32(1), reals[:, 1]),
            np.where(greedy, np.float32(0), reals[:, 2]),
        )
        # With a floor, however low, what is NOTHING has no weight at all.
        floor = torch.full_like(lse, -torch.inf) if bound else None
        cut = np.flatnonzero((cuts.top_k > 0) | (cuts.top_p < 1) | (cuts.min_p > 0))
        if len(cut):
            rows = torch.from_numpy(cut).to(self.device)
            floor = torch.full_like(lse, -torch.inf) if floor is None else floor
            mine = Cuts(cuts.top_k[cut], cuts.top_p[cut], cuts.min_p[cut])
            some = logits[rows] if len(cut) < len(greedy) else logits
            floor[rows] = self.forms.thresholds(some, mine, temperature[rows])
        tokens, logprobs = self.forms.pick(logits, temperature, floor, torch.from_numpy(uniform).to(self.device))
        if greedy.any():
            firm = torch.from_numpy(greedy).to(self.device)
            tokens = torch.where(firm, best, tokens)
            logprobs = torch.where(firm, logits.gather(1, best[:, None])[:, 0] - lse, logprobs)
        return tokens, logprobs

    def _adjust(
        self, logits: Tensor, sequences: Items[Sequence], slots: npt.NDArray[np.int64], reals: npt.NDArray[np.float32]
    ) -> Tensor:
        """Bias, penalties and grammar, on a copy; the same tensor when nobody asked."""
        biased = [(row, bias) for row, s in enumerate(sequences) if (bias := _bias(s))]
        if biased:
            logits = logits.clone()
            rows = torch.tensor([row for row, bias in biased for _ in bias], device=self.device)
            columns = torch.tensor([token for _, bias in biased for token in bias], device=self.device)
            values = torch.tensor(
                [value for _, bias in biased for value in bias.values()], dtype=logits.dtype, device=self.device
            )
            logits[rows, columns] += values
        punished = np.flatnonzero((reals[:, 3] != 1) | (reals[:, 4] != 0) | (reals[:, 5] != 0))
        if len(punished):
            assert self.counts is not None and self.prompts is not None
            rows, where = (torch.from_numpy(i).to(self.device) for i in (punished, slots[punished]))
            strengths = torch.from_numpy(reals[punished, 3:]).to(self.device).unbind(1)
            logits = logits.clone() if not biased else logits
            logits[rows] = penalise(logits[rows], self.counts[where], self.prompts[where], *strengths)
        masks = {row: s.allowed for row, s in enumerate(sequences) if s.allowed is not None}
        if masks:
            logits = logits.clone() if not biased and not len(punished) else logits
            rows = torch.tensor(list(masks), device=self.device)
            allowed = torch.from_numpy(np.stack(list(masks.values()))).to(self.device)
            best = logits[rows].masked_fill(~allowed, -torch.inf).amax(-1, keepdim=True)
            logits[rows] = torch.where(allowed, logits[rows], best - FORBIDDEN)
        return logits

    # Tables

    def _place(self, sequences: Items[Sequence], slots: npt.NDArray[np.int64]) -> None:
        if slots.max() >= len(self.owner):
            self._grow(max(int(slots.max()) + 1, 2 * len(self.owner)))
        owner = self.owner
        for s in sequences:
            if owner[s.slot] is not s:
                owner[s.slot] = s
                self._fill(s)

    def _fill(self, s: Sequence) -> None:
        p, request = s.request.sampling, s.request
        self.reals[s.slot] = (
            p.temperature,
            p.top_p,
            p.min_p,
            p.repetition_penalty,
            p.presence_penalty,
            p.frequency_penalty,
        )
        self.whole[s.slot] = (p.top_k, request.prompt_length - 1, request.limit, p.logprobs)
        self.keys[s.slot] = key(request.seed, request.row, s.index)
        if len(request.stop_ids) > self.stops.shape[1]:
            wider = np.full((len(self.stops), len(request.stop_ids)), -1, np.int64)
            wider[:, : self.stops.shape[1]] = self.stops
            self.stops = wider
        self.stops[s.slot] = -1
        self.stops[s.slot, : len(request.stop_ids)] = request.stop_ids
        if p.repetition_penalty != 1 or p.presence_penalty != 0 or p.frequency_penalty != 0:
            self._count(s)

    def _count(self, s: Sequence) -> None:
        if self.counts is None or self.prompts is None:
            self.counts = torch.zeros(len(self.owner), self.vocab, dtype=torch.int32, device=self.device)
            self.prompts = torch.zeros(len(self.owner), self.vocab, dtype=torch.bool, device=self.device)
        self.prompts[s.slot] = False
        self.prompts[s.slot, torch.tensor(s.request.prompt.token_ids, device=self.device)] = True
        written = torch.tensor(s.token_ids.tolist(), dtype=torch.int64)
        self.counts[s.slot] = torch.bincount(written, minlength=self.vocab).to(self.device, torch.int32)

    def _grow(self, slots: int) -> None:
        def larger(table: npt.NDArray) -> npt.NDArray:  # type: ignore[type-arg]
            return np.concatenate((table, np.zeros((slots - len(table), *table.shape[1:]), table.dtype)))

        self.reals, self.whole, self.keys, self.stops = (
            larger(t) for t in (self.reals, self.whole, self.keys, self.stops)
        )
        self.owner += [None] * (slots - len(self.owner))
        for name in ("counts", "prompts"):
            table = getattr(self, name)
            if table is not None:
                setattr(self, name, torch.cat((table, table.new_zeros(slots - len(table), self.vocab))))


def _check(finite: bool) -> None:
    if not finite:
        raise CheckpointError("the model's logits are not finite: the checkpoint is damaged, or its dtype too narrow")


def _bias(s: Sequence) -> Mapping[int, float]:
    """What to add to a sequence's logits: the caller's bias, and that of a thought which is to end softly."""
    given = s.request.sampling.logit_bias
    pull = s.thought.pull if s.thought is not None else None
    return given if pull is None else {**given, pull[0]: given.get(pull[0], 0.0) + pull[1]}


def _likeliest(logits: Tensor, lse: Tensor, wanted: npt.NDArray[np.int64]) -> dict[int, tuple[tuple[int, float], ...]]:
    rows = np.flatnonzero(wanted)
    if not len(rows):
        return {}
    index = torch.from_numpy(rows).to(logits.device)
    best = logits[index].topk(min(int(wanted.max()), logits.shape[-1]), dim=-1)
    ids, values = best.indices.tolist(), (best.values - lse[index, None]).tolist()
    return {
        int(r): tuple(zip(i[: wanted[r]], v[: wanted[r]], strict=True))
        for r, i, v in zip(rows, ids, values, strict=True)
    }
