"""Layout: where the documents of a packed row begin, and which position each token has in its own document."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from h1r.ops.ring import Ring

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Layout:
    """Documents of one packed row of T tokens, S documents, in order and without gaps.

    lengths    tokens of each document, every one at least 1; their sum is T
    starts     [S] int64, first token of each document
    positions  [T] int64, position inside its document, plus the offset of a document that continues a cached sequence
    segments   [T] int64, document number of each token
    chunk      None, or a length Q that fixes the arithmetic: every document is cut at multiples of Q of its positions, and a
               token's numbers depend on its document and its place there alone, as far as the machine's products do not
               depend on their number of rows. Cached documents must then continue at a multiple of Q
    ring       None, or the ranks that share the row (ring.Ring): the fields above then describe this rank's share
    """

    lengths: tuple[int, ...]
    starts: Tensor
    positions: Tensor
    segments: Tensor
    chunk: int | None = None
    ring: Ring | None = None
    _memo: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, lengths: Sequence[int], offsets: Sequence[int] | None = None, device: torch.device | str | None = None,
        chunk: int | None = None, ring: Ring | None = None,
    ) -> Layout:  # fmt: skip
        """The layout of documents with these lengths; `offsets` are the tokens each one already has in a cache."""
        lengths = tuple(int(n) for n in lengths)
        assert lengths and min(lengths) >= 1, f"documents need one token or more, got lengths {lengths}"
        sizes = torch.tensor(lengths)
        starts = sizes.cumsum(0) - sizes
        segments = torch.repeat_interleave(torch.arange(len(lengths)), sizes)
        positions = torch.arange(int(sizes.sum())) - starts[segments]
        if offsets is not None:
            assert len(offsets) == len(lengths), f"{len(offsets)} offsets for {len(lengths)} documents"
            positions = positions + torch.tensor([int(o) for o in offsets])[segments]
        return cls(lengths, starts.to(device), positions.to(device), segments.to(device), chunk, ring)

    @property
    def tokens(self) -> int:
        """T."""
        return self.segments.shape[0]

    @property
    def device(self) -> torch.device:
        return self.segments.device

    def memo(self, key: Hashable, make: Callable[[], R]) -> R:
        """`make()` the first time `key` is asked for, the same object afterwards: index tensors are built once per
        batch."""
        if key not in self._memo:
            # Built outside inference mode: a layout first seen by the engine may be used in training afterwards.
            with torch.inference_mode(False):
                self._memo[key] = make()
        return self._memo[key]
