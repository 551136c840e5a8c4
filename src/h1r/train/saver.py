"""Who writes a run's checkpoints: the first rank the whole of it, or every rank its share, in the background.

    saver = Saver(root, keep=2, ranks=ranks)
    saver.save(trainer, {"step": 40, "data": {...}})     # every rank calls it
    saver.close()                                        # until the last one is on disk

A sharded checkpoint is a folder like the others (train.checkpoint) with `shards/` instead of safetensors: PyTorch's distributed
checkpoint, which loads on any number of ranks, one included. Tensors are copied before `save` returns and written while training
goes on; the first rank renames the folder into place once all have written, so a checkpoint is whole or absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from h1r.train import checkpoint
from h1r.train.ranks import Ranks
from h1r.train.trainer import LocalTrainer


class Saver:
    """Writes checkpoints under `root` and keeps the newest `keep`; holds the one that is being written."""

    def __init__(self, root: Path, keep: int, ranks: Ranks) -> None:
        self.root, self.keep, self.ranks = root, keep, ranks
        self._writing: checkpoint.Writing | None = None

    def save(self, trainer: LocalTrainer, extra: Mapping[str, Any]) -> None:
        """The state of `trainer` as step-N, N = its step; `extra` (JSON) beside it."""
        path = checkpoint.folder(self.root, trainer.step)
        self.close()  # one at a time
        if self.ranks.sharded:
            self._writing = checkpoint.save_shards(path, trainer.model, trainer.optimizer, extra, self.ranks)
        elif self.ranks.first:
            checkpoint.save(path, trainer.model, trainer.optimizer, extra)
            checkpoint.prune(self.root, self.keep)

    def settle(self) -> None:
        """Publish the checkpoint in the background if it is written."""
        if self._writing is not None and self._writing.done():
            self.close()

    def close(self) -> None:
        """Wait for the checkpoint in the background and publish it."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.finish()
            if self.ranks.first:
                checkpoint.prune(self.root, self.keep)
