"""Checkpoints in Hugging Face format: config.json, generation_config.json, safetensors (one file, or shards with an
index).

Loading streams: one tensor at a time goes from the mapped file to its place, so memory peaks at one copy of the
weights (plus one layer in fp32 when folding). Saving writes a folder beside the target, syncs it, and swaps it in by
rename.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from h1r.errors import CheckpointError
from h1r.log import alive
from h1r.model import config as configs
from h1r.model.config import Config
from h1r.model.initial import Model, empty

INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Buffers some writers store and every reader recomputes.
RECOMPUTED = ("rotary_emb.inv_freq", "mamba.mup_vector")


class Held(NamedTuple):
    """A model's weights in memory, by the names they have in a checkpoint; `load` takes them in place of a folder."""

    config: Config
    tensors: Mapping[str, Tensor]


def load(
    path: str | Path | Held, dtype: torch.dtype | str | None = None, fold: bool = False,
    each: Callable[[Any], None] | None = None, placed: Callable[[Any], None] | None = None,
) -> tuple[Model, Config]:  # fmt: skip
    """The model in `path` and its config. dtype None keeps the checkpoint's; `fold` multiplies multipliers and norm
    weights into the matrices in fp32 (for inference: a folded model neither trains nor saves).

    path  a folder, or weights that are held in memory
    each  gets every layer once it is folded, and may empty it; embedding and head then stay as they are stored,
          mapped from the file, not copied
    placed  gets every layer once its weights are in place: training cuts them over its ranks there, so that no process ever
            holds them all
    Raises CheckpointError (missing, torn, names or shapes that do not fit) or ConfigError.
    """
    reader: _Reader | _Memory
    if isinstance(path, Held):
        config, reader = path.config, _Memory(path.tensors)
    else:
        config, reader = configs.read(path), _Reader(Path(path), _locate(Path(path)))
    with torch.device("meta"):
        model = empty(config)
    expected = {hub_name(name): parameter.shape for name, parameter in model.named_parameters()}
    _check_names(reader.name, expected, reader.where, config)
    wanted = DTYPES[dtype] if isinstance(dtype, str) else dtype or DTYPES[config.dtype]
    layers = {f"layers.{i}": layer for i, layer in enumerate(model.layers)}
    owners: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        owners.setdefault(_layer_of(name), []).append(name)
    for owner, names in owners.items():
        for name in names:
            stored, copy = each is not None and not owner, each is None
            kept = None if stored or (fold and owner) else wanted
            place(model, name, reader.tensor(hub_name(name), expected[hub_name(name)], kept, copy))
        if fold and owner:
            layers[owner].fold(wanted)
            if each is not None:
                each(layers[owner])
        elif placed is not None and owner:
            placed(layers[owner])
    if fold:
        model.requires_grad_(False)
    return model.eval() if fold else model, config


def fold(model: Model, dtype: torch.dtype | None = None) -> Model:
    """The same function with multipliers and norm weights multiplied into the matrices, in fp32, once. `model` is
    unchanged."""
    assert model.layers[0].folded is None, "the model is folded already"
    dtype = dtype or next(model.parameters()).dtype
    with torch.device("meta"):
        out = empty(model.config)
    source = dict(named(model))
    for name, _ in list(out.named_parameters()):
        place(
            out, name, source[name].detach().clone() if _layer_of(name) else source[name].detach().to(dtype, copy=True)
        )
    for layer in out.layers:
        layer.fold(dtype)
    return out.requires_grad_(False).eval()


def save(model: Model, path: str | Path, dtype: torch.dtype | None = None, shard_bytes: int = SHARD_BYTES) -> None:
    """Write `model` as the folder `path`, atomically; other files already in the folder (tokenizer, template) are kept.

    Raises CheckpointError for a folded model.
    """
    if any(layer.folded is not None for layer in model.layers):
        raise CheckpointError(f"{path}: a folded model cannot be saved; save the one it was folded from")
    target = Path(path).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
    _remove_leftovers(target)
    fresh.mkdir()
    dtype = dtype or next(model.parameters()).dtype
    _write_weights(model, fresh, dtype, shard_bytes)
    name = next(k for k, v in DTYPES.items() if v == dtype)
    _write_json(fresh / "config.json", model.config.to_dict() | {"dtype": name, "torch_dtype": name})
    _write_json(fresh / "generation_config.json", _generation(model.config))
    _swap(fresh, target)


def hub_name(name: str) -> str:
    """The name `transformers` gives a parameter of ours."""
    return name if name.startswith("lm_head.") else f"model.{name}"


def _layer_of(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "layers" else ""


def _locate(folder: Path) -> dict[str, str]:
    """Tensor name -> file name."""
    index = folder / INDEX
    if index.is_file():
        try:
            return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        except (ValueError, KeyError, TypeError) as e:
            raise CheckpointError(f"{index}: not a safetensors index ({e}); download or write it again") from None
    file = folder / "model.safetensors"
    if not file.is_file():
        raise CheckpointError(f"{folder}: neither model.safetensors nor {INDEX}; a checkpoint needs one of them")
    return dict.fromkeys(_Reader(folder, {}).names(file.name), file.name)


class _Reader:
    """Open safetensors files of one folder, each opened once."""

    def __init__(self, folder: Path, where: Mapping[str, str]) -> None:
        self.folder, self.where, self.name = folder, where, str(folder)
        self.open: dict[str, Any] = {}

    def names(self, file: str) -> list[str]:
        return list(self._file(file).keys())

    def tensor(self, name: str, shape: torch.Size, dtype: torch.dtype | None, copy: bool = True) -> Tensor:
        """One tensor, copied out of the mapped file if `copy`. Raises CheckpointError when its shape does not fit."""
        file = self._file(self.where[name])
        try:
            stored = file.get_slice(name).get_shape()
            if tuple(stored) != tuple(shape):
                raise CheckpointError(
                    f"{self.folder}: {name} has shape {list(stored)}, config.json asks for {list(shape)}"
                )
            tensor = file.get_tensor(name)
        except SafetensorError as e:
            raise CheckpointError(f"{self.folder / self.where[name]}: {name}: {e}; download the file again") from None
        return tensor.to(dtype or tensor.dtype, copy=copy)

    def _file(self, name: str) -> Any:
        if name not in self.open:
            try:
                self.open[name] = safe_open(self.folder / name, framework="pt")
            except FileNotFoundError:
                raise CheckpointError(
                    f"{self.folder / name} not found, though the index names it; download it again"
                ) from None
            except (SafetensorError, OSError) as e:
                raise CheckpointError(
                    f"{self.folder / name}: torn or not safetensors ({e}); download it again"
                ) from None
        return self.open[name]


class _Memory:
    """Tensors that somebody holds already, read as a folder's are."""

    name = "weights in memory"

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.where = self.tensors = tensors

    def tensor(self, name: str, shape: torch.Size, dtype: torch.dtype | None, copy: bool = True) -> Tensor:
        tensor = self.tensors[name]
        if tensor.shape != shape:
            raise CheckpointError(f"{self.name}: {name} has shape {list(tensor.shape)}, not {list(shape)}")
        return tensor.to(dtype or tensor.dtype, copy=copy)


def _check_names(folder: str, expected: Mapping[str, torch.Size], where: Iterable[str], config: Config) -> None:
    missing = sorted(set(expected) - set(where))
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} tensors are missing, the first is {missing[0]}; the checkpoint is incomplete"
        )
    spare = {"lm_head.weight"} if config.tie_word_embeddings else set()
    unexpected = sorted(n for n in set(where) - set(expected) - spare if not n.endswith(RECOMPUTED))
    if unexpected:
        raise CheckpointError(
            f"{folder}: {len(unexpected)} tensors the model does not have, the first is {unexpected[0]}; "
            "config.json and weights are not of one model"
        )


def place(model: torch.nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    setattr(module, leaf, torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))


def _write_weights(model: Model, folder: Path, dtype: torch.dtype, shard_bytes: int) -> None:
    shards = list(_shards(model, dtype, shard_bytes))
    if len(shards) == 1:
        _write_shard(folder / "model.safetensors", shards[0], dtype)
        return
    table: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(folder / file, shard, dtype)
        table |= dict.fromkeys(shard, file)
        total += sum(t.numel() * dtype.itemsize for t in shard.values())
    _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": table})


def _shards(model: Model, dtype: torch.dtype, shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, value in named(model):
        more = value.numel() * dtype.itemsize
        if shard and size + more > shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[hub_name(name)] = value
        size += more
    yield shard


def named(model: Model) -> Iterator[tuple[str, Tensor]]:
    """Every weight by its plain name; one that is computed from others (torch's parametrizations) by its value."""
    for name, parameter in model.named_parameters():
        owner, between, rest = name.partition(".parametrizations.")
        if not between:
            yield name, parameter.detach()
        elif rest.endswith(".original"):
            own = rest.removesuffix(".original")
            with torch.no_grad():
                value: Tensor = getattr(model.get_submodule(owner), own)
            yield f"{owner}.{own}", value.detach()


def _write_shard(file: Path, shard: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    save_file({name: t.to(dtype).contiguous() for name, t in shard.items()}, file, metadata={"format": "pt"})
    _sync(file)


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    _sync(file)


def _generation(config: Config) -> dict[str, Any]:
    ids = {key: getattr(config, key) for key in ("bos_token_id", "pad_token_id")}
    stops = list(config.stop_ids)
    return {"_from_model_config": True, **ids, "eos_token_id": stops[0] if len(stops) == 1 else stops or None}


def _remove_leftovers(target: Path) -> None:
    """Delete the folders of saves that were killed: those whose process is gone, and our own."""
    for folder in target.parent.glob(f".{target.name}.*"):
        pid = folder.name.removesuffix(".new").removesuffix(".old").rpartition(".")[2]
        if folder.is_dir() and pid.isdigit() and (int(pid) == os.getpid() or not alive(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)


def _swap(fresh: Path, target: Path) -> None:
    """Put `fresh` in the place of `target` in one rename; files of the old folder that are not ours move along."""
    _sync(fresh)
    if target.exists():
        ours = {"config.json", "generation_config.json", INDEX}
        for file in target.iterdir():
            if file.name not in ours and file.suffix != ".safetensors" and not (fresh / file.name).exists():
                copy = shutil.copytree if file.is_dir() else shutil.copy2
                copy(file, fresh / file.name)
        if not _exchange(fresh, target):
            old = target.with_name(f".{target.name}.{os.getpid()}.old")
            os.rename(target, old)
            os.rename(fresh, target)
            fresh = old
        shutil.rmtree(fresh)
    else:
        os.rename(fresh, target)
    _sync(target.parent)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two folders atomically (Linux renameat2); False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    here, exchange = -100, 2
    return renameat2(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
