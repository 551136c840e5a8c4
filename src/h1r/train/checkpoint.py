"""Checkpoints that are whole or absent: a folder is written aside, synced to disk, then renamed into place.

    step-00000040/
        model.safetensors      parameters and persistent buffers, by their module names
        state.safetensors      optimizer moments (by parameter name) and random-number states
        checkpoint.json        what the caller added (step, data position, ...) and the size of every file; written last
        shards/                instead of the two files where every rank wrote its share (train.saver)

A process killed at any moment leaves the previous checkpoints and at most a hidden `.tmp` folder, which is never read.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load as load_shares
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.tensor import DTensor, distribute_tensor

from h1r.errors import CheckpointError
from h1r.train.ranks import Ranks

logger = logging.getLogger(__name__)

MANIFEST = "checkpoint.json"
SHARDS = "shards"


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
    seal(temporary, path, extra or {})
    return path


def seal(temporary: Path, path: Path, extra: Mapping[str, Any]) -> None:
    """Write the manifest of the folder `temporary` and publish it as `path`."""
    files = {
        str(f.relative_to(temporary)): f.stat().st_size for f in sorted(temporary.rglob("*")) if f.is_file()
    }  # fmt: skip
    (temporary / MANIFEST).write_text(json.dumps({"extra": dict(extra), "files": files}), encoding="utf-8")
    publish(temporary, path)


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
    if (path / SHARDS).is_dir():
        _load_shards(path, model, optimizer)
        return dict(manifest["extra"])
    with _reading(path):
        tensors, rest = load_file(path / "model.safetensors"), load_file(path / "state.safetensors")
    own = _tensors(model)
    _require_same(path, {n: t.shape for n, t in tensors.items()}, own)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(_like(value, tensors[name]))
    if optimizer is not None:
        _restore_moments(model, optimizer, rest)
    torch.set_rng_state(rest["rng.cpu"])
    if "rng.cuda" in rest and torch.cuda.is_available():
        torch.cuda.set_rng_state(rest["rng.cuda"])
    return dict(manifest["extra"])


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What a sharded checkpoint holds: parameters and moments by name."""
    return {f"model.{name}": value for name, value in _tensors(model).items()} | _moments(model, optimizer)


class Writing(NamedTuple):
    """A sharded checkpoint on its way to disk."""

    future: Any
    temporary: Path
    path: Path
    extra: Mapping[str, Any]
    first: bool

    def done(self) -> bool:
        """Whether `finish` will not wait."""
        return bool(self.future.done())

    def finish(self) -> None:
        """Wait until all ranks have written; the first one then puts the folder into place."""
        self.future.result()
        # the first rank's future is done when every rank has written: it gathers what they wrote into one index
        if self.first:
            seal(self.temporary, self.path, self.extra)


def save_shards(
    path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Mapping[str, Any], ranks: Ranks
) -> Writing:
    """Begin to write every rank's share of model and optimizer as the folder `path`. Tensors are copied before this returns."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.sharded.tmp")
    if ranks.first:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    ranks.wait()
    future = async_save(state(model, optimizer), checkpoint_id=str(temporary / SHARDS), process_group=ranks.aside)
    return Writing(future, temporary, path, dict(extra), ranks.first)


def _load_shards(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    """Read each rank's part of what any number of ranks wrote."""
    with _reading(path):
        stored = FileSystemReader(str(path / SHARDS)).read_metadata().state_dict_metadata
    sizes = {name: getattr(entry, "size", torch.Size()) for name, entry in stored.items()}
    own, named = _tensors(model), dict(model.named_parameters())
    given = {name.removeprefix("model."): size for name, size in sizes.items() if name.startswith("model.")}
    _require_same(path, given, own)
    wanted = {f"model.{name}": value for name, value in own.items()}
    moments: dict[str, Tensor] = {}
    for name, size in sizes.items() if optimizer is not None else ():
        if name.startswith("optimizer."):
            parameter = named[name.split(".", 2)[2]]
            moments[name] = torch.zeros_like(parameter) if size == parameter.shape else torch.zeros(size)
    with _reading(path):
        load_shares(wanted | moments, checkpoint_id=str(path / SHARDS), no_dist=not dist.is_initialized())
    if optimizer is not None:
        _restore_moments(model, optimizer, moments)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What readers raise on bytes that are not theirs, as a CheckpointError."""
    try:
        yield
    except (Exception, CheckpointException) as e:  # garbage, unpickled, raises anything
        raise CheckpointError(
            f"{path}: cannot be read ({type(e).__name__}: {' '.join(str(e).split())[:120]}): its files are damaged; "
            "remove the folder, and the run goes on from the checkpoint before it"
        ) from None


def _require_same(path: Path, given: Mapping[str, torch.Size], own: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError unless both hold the same tensors."""
    if given.keys() != own.keys():
        missing, extra = sorted(own.keys() - given.keys())[:3], sorted(given.keys() - own.keys())[:3]
        raise CheckpointError(
            f"{path}: written by another model: missing {missing}, unexpected {extra}; "
            "go on with the config (lora included) it was written with, or give another run folder"
        )
    for name, value in own.items():
        if value.shape != given[name]:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(given[name])}, the model {tuple(value.shape)}; use its own config"
            )


def _like(value: Tensor, whole: Tensor) -> Tensor:
    """`whole` cut as `value` is."""
    if not isinstance(value, DTensor):
        return whole
    return distribute_tensor(whole.to(value.device), value.device_mesh, value.placements, src_data_rank=None)


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


def best(root: str | Path) -> Path | None:
    """The whole checkpoint whose `extra` says the lowest heldout_loss; None where none says one."""
    found = []
    for path in _folders(root):
        try:
            loss = extra(path).get("heldout_loss")
        except CheckpointError:
            continue
        if loss is not None:
            found.append((float(loss), path))
    return min(found)[1] if found else None


def prune(root: str | Path, keep: int) -> None:
    """Remove all but the `keep` newest checkpoints and the best, and what killed writers left. A root has one writer."""
    spared = best(root)
    for path in [p for p in _folders(root)[:-keep] if p != spared] if keep > 0 else []:
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
        at = (value.to_local() if isinstance(value, DTensor) else value).data_ptr()
        if at not in seen or not at:
            seen.add(at)
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
            parameter = named[name]
            whole = value.shape == parameter.shape and not isinstance(value, DTensor)
            optimizer.state[parameter][slot] = _like(parameter, value) if whole else value.to(parameter.device)


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
