"""Who writes a run's checkpoints: the first rank the whole of it, or every rank its share, in the background.

    saver = Saver(root, keep=2, ranks=ranks)
    saver.save(trainer, {"step": 40, "data": {...}})     # every rank calls it
    saver.close()                                        # until the last one is on disk

A sharded checkpoint is a folder like the others (train.checkpoint) with `shards/` instead of safetensors: PyTorch's distributed
checkpoint, which loads on any number of ranks, one included. Tensors are copied before `save` returns and written while training
goes on; the first rank renames the folder into place once all have written, so a checkpoint is whole or absent.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.state_dict_saver import async_save

from h1r.train import checkpoint
from h1r.train.ranks import Ranks
from h1r.train.trainer import LocalTrainer

logger = logging.getLogger(__name__)


class Saver:
    """Writes checkpoints under `root` and keeps the newest `keep`; holds the one that is being written."""

    def __init__(self, root: Path, keep: int, ranks: Ranks) -> None:
        self.root, self.keep, self.ranks = root, keep, ranks
        self._pending: tuple[Any, Path, Path, dict[str, Any]] | None = None

    def save(self, trainer: LocalTrainer, extra: Mapping[str, Any]) -> None:
        """The state of `trainer` as step-N, N = its step; `extra` (JSON) beside it."""
        path = checkpoint.folder(self.root, trainer.step)
        if not self.ranks.sharded:
            if self.ranks.first:
                checkpoint.save(path, trainer.model, trainer.optimizer, extra)
                checkpoint.prune(self.root, self.keep)
            return
        self.close()  # one at a time
        temporary = path.with_name(f".{path.name}.sharded.tmp")
        if self.ranks.first:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self.ranks.wait()
        state = checkpoint.state(trainer.model, trainer.optimizer)
        future = async_save(
            state, checkpoint_id=str(temporary / checkpoint.SHARDS), process_group=self.ranks.aside
        )  # fmt: skip
        self._pending = (future, temporary, path, dict(extra))

    def settle(self) -> None:
        """Publish the checkpoint in the background if it is written."""
        if self._pending is not None and self._pending[0].done():
            self.close()

    def close(self) -> None:
        """Wait for the checkpoint in the background and publish it."""
        if self._pending is None:
            return
        future, temporary, path, extra = self._pending
        self._pending = None
        future.result()
        # the first rank's future is done when every rank has written: it gathers what they wrote into one index
        if self.ranks.first:
            checkpoint.seal(temporary, path, extra)
            checkpoint.prune(self.root, self.keep)
