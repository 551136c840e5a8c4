"""What `h1r sft` asks before it trains, and `h1r doctor --recipe` without training."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from h1r import config
from h1r.errors import ConfigError

if TYPE_CHECKING:
    from h1r.cli.sft import SftRecipe
    from h1r.doctor import Check


def sft_checks(recipe: SftRecipe, where: str) -> list[Check]:
    """Files, output folder, memory and disk; the recipe's model in small; the rows of its first step."""
    from h1r.cli.sft import file_rows, procedural_rows, tokenizer_of
    from h1r.doctor import Check, clone, first_rows, preflight
    from h1r.model import PRESETS
    from h1r.model.config import read as read_config
    from h1r.train.sft import SftConfig, draw_step

    settings = config.build(recipe.train, SftConfig, f"{where}: train")
    source = recipe.model
    source.check()
    if source.path is None and source.preset not in PRESETS:
        raise ConfigError(f"model.preset={source.preset!r}: must be one of {', '.join(sorted(PRESETS))}")
    start = time.perf_counter()
    if source.path:
        shape = read_config(source.path)
    else:
        shape = type(PRESETS[source.preset]).from_dict(PRESETS[source.preset].to_dict() | source.set)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    checks = preflight(
        shape, out=recipe.out, files=recipe.data.files, tokens_per_step=settings.length // recipe.shard.context,
        checkpoints=settings.keep + 1, free=_gpu_memory(), recompute=bool(settings.checkpointing),
        trained=0.02 if settings.lora else 1.0, ranks=world if recipe.shard.weights == "sharded" else 1,
    )  # fmt: skip
    if any(not check.ok for check in checks[:2]):
        return checks  # nothing can be read or written
    checks += clone(shape, settings.trainer())
    tokenizer = tokenizer_of(recipe)
    stream = file_rows(recipe.data, tokenizer) if recipe.data.files else procedural_rows(recipe.data, tokenizer)
    drawn = draw_step(stream, settings)
    vocabulary = shape.vocab_size if source.path else tokenizer.vocab_size
    checks += first_rows(drawn.rows, drawn.dropped, tokenizer.stop_ids, vocabulary)
    return [*checks, Check("preflight", True, f"{time.perf_counter() - start:.1f} s")]


def refuse(checks: list[Check]) -> None:
    """Raises ConfigError that names what failed and its cure."""
    if wrong := [check for check in checks if check.ok is False]:
        reasons = "; ".join(f"{c.name}: {c.detail} (cure: {c.cure})" for c in wrong)
        raise ConfigError(f"preflight: {reasons}. `h1r doctor --recipe` shows all checks; --no-preflight trains anyway")


def _gpu_memory() -> int | None:
    """Free bytes of this process's GPU; None where it trains on the processor."""
    import torch

    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else None
