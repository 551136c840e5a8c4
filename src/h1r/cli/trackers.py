"""`--log tensorboard`, `--log wandb`: a run's metrics, step by step, where others look for them, beside metrics.jsonl."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from h1r.errors import ConfigError

KNOWN = ("tensorboard", "wandb")
OPTION = typer.Option([], "--log", help="tensorboard or wandb: also log the metrics there (repeatable; extra: track).")


def tracked(
    names: Sequence[str], out: str | Path, settings: Mapping[str, Any], steps: Iterator[Mapping[str, float]]
) -> Iterator[Mapping[str, float]]:
    """`steps`, each also given to the trackers. Raises ConfigError for one that is unknown or not installed."""
    writers = [
        _tensorboard(Path(out)) if name == "tensorboard" else _wandb(Path(out), settings) for name in checked(names)
    ]
    try:
        for metrics in steps:
            for write, _ in writers:
                write(int(metrics["step"]), metrics)
            yield metrics
    finally:
        for _, close in writers:
            close()


def checked(names: Sequence[str]) -> list[str]:
    """The trackers named, each once. Raises ConfigError before anything is computed."""
    for name in names:
        if name not in KNOWN:
            raise ConfigError(f"--log {name}: must be one of {', '.join(KNOWN)}")
        try:
            __import__(name)
        except ImportError:
            raise ConfigError(f"--log {name}: not installed; pip install 'open-h1r[track]'") from None
    return list(dict.fromkeys(names))


def _tensorboard(out: Path) -> tuple[Any, Any]:
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(out / "tensorboard"))

    def write(step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    return write, writer.close


def _wandb(out: Path, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    import wandb

    # one run folder is one run there too: a resumed run goes on in it
    place = hashlib.sha256(str(out.absolute()).encode()).hexdigest()[:8]
    run = wandb.init(
        project="open-h1r", name=out.name, id=f"{out.name}-{place}", dir=str(out), config=dict(settings), resume="allow"
    )
    return (lambda step, metrics: run.log(dict(metrics), step=step)), run.finish
