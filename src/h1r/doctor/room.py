"""Checks on the machine: sandbox, memory, disk; and the preflight of a training run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from h1r.doctor.check import Check
from h1r.model.config import Config
from h1r.model.presets import BYTES, bytes_per_sequence, parameter_count

GIB = 1 << 30
TRAINING_BYTES = 16  # per parameter: fp32 weights, gradient, two moments
SAVED_BYTES = 12  # of which a checkpoint holds weights and moments


def sandbox_level(level: Callable[[], str] | None = None) -> Check:
    """How well programs of the model are fenced in here."""
    found = level() if level is not None else _default_level()
    cure = "install bubblewrap, or allow user namespaces: code problems stay unscored until then"
    return Check("sandbox", found != "none", f"level {found}", cure)


def _default_level() -> str:
    from h1r.verify import sandbox

    return str(sandbox.default().level)


def memory(config: Config) -> Check:
    """Weights and one full-length sequence against the memory that is free."""
    free = free_memory()
    weights = parameter_count(config) * BYTES.get(config.dtype, 4)
    longest = bytes_per_sequence(config, config.max_position_embeddings)
    each = bytes_per_sequence(config, 4096)
    fit = int(max(0, free * 0.9 - weights) // each)
    detail = (
        f"weights {_gib(weights)}, one sequence of {config.max_position_embeddings} tokens {_gib(longest)}, "
        f"free {_gib(free)}: {fit} sequences of 4096 tokens fit"
    )
    return Check("memory", fit >= 1, detail, "free memory, or serve a smaller model")


def disk(folder: Path) -> Check:
    """Room for another copy beside the checkpoint."""
    size = sum(f.stat().st_size for f in folder.glob("*") if f.is_file()) if folder.is_dir() else 0
    free = shutil.disk_usage(existing(folder)).free
    return Check("disk", free > size, f"checkpoint {_gib(size)}, free {_gib(free)}", "free some space before training")


def preflight(
    config: Config,
    *,
    out: str | Path,
    files: Sequence[str | Path] = (),
    tokens_per_step: int = 8192,
    checkpoints: int = 2,
    free: int | None = None,
    recompute: bool = False,
    trained: float = 1.0,
    ranks: int = 1,
) -> list[Check]:
    """Before a training run: do its files exist, can it write, will memory and disk last?

    tokens_per_step  of one packed row, which activations are estimated for; checkpoints: kept on disk at a time
    free             bytes of memory to count with; None: what is free now
    recompute        activations are computed again in the backward pass: only each layer's input is kept
    trained          share of the parameters that have gradients and moments (adapters: little)
    ranks            that the weights are cut over
    """
    missing = [str(f) for f in files if not Path(f).is_file()]
    checks = [
        Check(
            "files",
            not missing,
            f"{len(files) - len(missing)} of {len(files)} found" + (f"; missing {missing[0]}" if missing else ""),
            "correct the recipe's paths",
        )
    ]
    place = existing(Path(out))
    checks.append(Check("output folder", os.access(place, os.W_OK), f"{place} is writable", "choose another `out`"))
    parameters = parameter_count(config)
    activations = activation_bytes(config, tokens_per_step)
    if recompute:
        layers = config.num_hidden_layers
        activations = activations // layers + 4 * tokens_per_step * layers * config.hidden_size
    state = int(parameters * (4 + (TRAINING_BYTES - 4) * trained)) // ranks
    need, have = state + activations, free_memory() if free is None else free
    detail = f"needs about {_gib(need)} ({_gib(activations)} of it activations), free {_gib(have)}"
    cure = "shorten the packed row (train.length), recompute (train.checkpointing=true), train adapters (train.lora), "
    cure += "cut the weights over more ranks (shard.weights=sharded), or use a smaller model"
    checks.append(Check("memory", need < have, detail, cure))
    # one more than are kept: a new one is written before an old one goes
    size = (checkpoints + 1) * parameters * SAVED_BYTES
    left = shutil.disk_usage(place).free
    checks.append(
        Check("disk", size < left, f"checkpoints need {_gib(size)}, free {_gib(left)}", "keep fewer, or free space")
    )
    return checks


def activation_bytes(config: Config, tokens: int) -> int:
    """fp32 activations of a packed row kept for the backward pass, estimated: per layer and token what the projections
    put out, and the residual; no checkpointing."""
    width = 6 * config.hidden_size + 3 * config.intermediate_size
    width += 2 * config.head_dim * (config.num_attention_heads + config.num_key_value_heads)
    width += 6 * getattr(config, "mamba_d_ssm", 0)
    return 4 * tokens * config.num_hidden_layers * width


def free_memory() -> int:
    """Bytes a new process could use: the kernel's estimate, or what the control group still allows."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return available
    return min(available, int(limit) - used) if limit.isdigit() else available


def existing(path: Path) -> Path:
    """The nearest folder on the way up that exists."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"
