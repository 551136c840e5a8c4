"""Checkpoints that are whole or absent: a folder is written aside, synced to disk, then renamed into place.

    step-00000040/
        model.safetensors      parameters and persistent buffers, by their module names
        state.safetensors      optimizer moments (by parameter name) and random-number states
        checkpoint.json        what the caller added (step, data position, ...) and the size of every file; written last

A process killed at any moment leaves the previous checkpoints and at most a hidden `.tmp` folder, which is never read.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from h1r.errors import CheckpointError

logger = logging.getLogger(__name__)

MANIFEST = "checkpoint.json"


def folder(root: str | Path, step: int) -> Path:
    """Where the checkpoint of `step` lies under `root`."""
    return Path(root) / f"step-{step:08d}"


def save(
    path: str | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write model, optimizer, random-number states and `extra` (JSON) as the folder `path`, atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    save_file(_tensors(model), temporary / "model.safetensors")
    save_file(_moments(model, optimizer) | _random_states(), temporary / "state.safetensors")
    files = {f.name: f.stat().st_size for f in sorted(temporary.iterdir())}
    (temporary / MANIFEST).write_text(json.dumps({"extra": dict(extra or {}), "files": files}), encoding="utf-8")
    publish(temporary, path)
    return path


def publish(temporary: Path, path: Path) -> None:
    """Sync every file of `temporary` to disk and rename the folder to `path`, replacing what was there."""
    for file in temporary.rglob("*"):
        if file.is_file():
            _sync(file)
    _sync(temporary)
    if path.exists():
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old)
    else:
        temporary.rename(path)
    _sync(path.parent)


def load(path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """Restore model, optimizer and random-number states in place; returns `extra`.

    Raises CheckpointError when the folder is torn, or its tensors do not fit the model.
    """
    path = Path(path)
    manifest = _manifest(path)
    tensors, own = load_file(path / "model.safetensors"), _tensors(model)
    if tensors.keys() != own.keys():
        missing, extra = sorted(own.keys() - tensors.keys())[:3], sorted(tensors.keys() - own.keys())[:3]
        raise CheckpointError(
            f"{path}: written by another model: missing {missing}, unexpected {extra}; "
            "go on with the config (lora included) it was written with, or give another run folder"
        )
    with torch.no_grad():
        for name, value in own.items():
            if value.shape != tensors[name].shape:
                raise CheckpointError(
                    f"{path}: {name} has shape {tuple(tensors[name].shape)}, the model {tuple(value.shape)}; "
                    "use its own config"
                )
            value.copy_(tensors[name])
    state = load_file(path / "state.safetensors")
    if optimizer is not None:
        _restore_moments(model, optimizer, state)
    torch.set_rng_state(state["rng.cpu"])
    if "rng.cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["rng.cuda"])
    return dict(manifest["extra"])


def extra(path: str | Path) -> dict[str, Any]:
    """What the caller of `save` added, without reading any tensor. Raises CheckpointError when the folder is torn."""
    return dict(_manifest(Path(path))["extra"])


def latest(root: str | Path) -> Path | None:
    """The newest whole checkpoint under `root`; a torn one is passed over with a warning."""
    for path in reversed(_folders(root)):
        try:
            _manifest(path)
        except CheckpointError as e:
            logger.warning("%s", e)
            continue
        return path
    return None


def prune(root: str | Path, keep: int) -> None:
    """Remove all but the `keep` newest checkpoints, and what killed writers left. A root has one writer."""
    for path in _folders(root)[:-keep] if keep > 0 else []:
        doomed = path.with_name(f".{path.name}.old")
        path.rename(doomed)
        shutil.rmtree(doomed)
    for pattern in (".*.tmp", ".*.old"):
        for path in Path(root).glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _folders(root: str | Path) -> list[Path]:
    return sorted(p for p in Path(root).glob("step-*") if p.is_dir())


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, size in manifest["files"].items():
            if (path / name).stat().st_size != size:
                raise CheckpointError(
                    f"{path}/{name}: torn, {size} bytes were written; resume from an earlier checkpoint"
                )
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise CheckpointError(f"{path}: not a whole checkpoint ({e}); resume from an earlier one") from None
    return manifest


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, a tied one once."""
    out: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict().items():
        if value.data_ptr() not in seen or value.numel() == 0:
            seen.add(value.data_ptr())
            out[name] = value.detach().contiguous() if not value.is_contiguous() else value.detach()
    return out


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters() if optimizer is not None else ():
        for key, value in optimizer.state.get(parameter, {}).items():  # type: ignore[union-attr]
            out[f"optimizer.{key}.{name}"] = value.detach().contiguous()
    return out


def _restore_moments(model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    named = dict(model.named_parameters())
    optimizer.state.clear()
    for key, value in state.items():
        if key.startswith("optimizer."):
            _, slot, name = key.split(".", 2)
            # AdamW keeps its step counter on the CPU unless it is fused or capturable on the GPU.
            optimizer.state[named[name]][slot] = value.to(named[name].device)


def _random_states() -> dict[str, Tensor]:
    out = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        out["rng.cuda"] = torch.cuda.get_rng_state()
    return out


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
