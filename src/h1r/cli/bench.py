"""`h1r bench ...`: how fast a model runs here, and what it costs in memory, beside what the machine allows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from h1r.errors import ConfigError

if TYPE_CHECKING:
    from h1r.model import Config

app = typer.Typer(no_args_is_help=True, help="Speed and memory: decode, prefill, memory, twin, throughput.")

MODELS = typer.Option("quickstart", help="Presets or checkpoint folders, separated by commas.")
JSON = typer.Option(False, "--json", help="One JSON object per line.")
FORMAT = typer.Option(
    "bfloat16", help="Weights: float32, bfloat16, int8 or int4; K/V float32 beside float32, else bfloat16."
)
SECONDS = typer.Option(1.0, help="Time spent on each figure.")
PLOT = typer.Option(None, help="Write the figures as a page with one chart to this file.")
FORMATS = ("float32", "bfloat16", "int8", "int4")


@app.command()
def decode(
    models: str = MODELS,
    batch: str = typer.Option("1,8,32", help="Sequences decoded at once."),
    context: str = typer.Option("64", help="Tokens each sequence already holds."),
    format: str = FORMAT,
    seconds: float = SECONDS,
    plot: str | None = PLOT,
    as_json: bool = JSON,
) -> None:
    """Tokens per second while writing, beside the bandwidth and products measured in the same run."""
    from h1r.bench import decode as room

    made = room.decode(_models(models), _numbers(batch), _numbers(context), format=_format(format), seconds=seconds)
    columns = (
        "model", "format", "batch", "context", "tokens_per_second", "step_ms", "gigabytes_per_second", "bandwidth", "share",
        "gigaflops", "peak_gigaflops",
    )  # fmt: skip
    rows = _print(made, columns, as_json)
    _plot(plot, "Decode", rows, "batch", "tokens_per_second", ("model", "context"))


@app.command()
def prefill(
    models: str = MODELS,
    length: str = typer.Option("512,2048", help="Tokens of the prompt."),
    format: str = FORMAT,
    plot: str | None = PLOT,
    as_json: bool = JSON,
) -> None:
    """Tokens per second while reading a prompt, and the share of the matrix product rate measured in the same run."""
    from h1r.bench import prefill as room

    made = room.prefill(_models(models), _numbers(length), format=_format(format))
    columns = ("model", "format", "tokens", "tokens_per_second", "gigaflops", "peak_gigaflops", "share")
    rows = _print(made, columns, as_json)
    _plot(plot, "Prefill", rows, "tokens", "tokens_per_second", ("model",))


@app.command()
def memory(
    models: str = typer.Option("falcon-h1r-7b,tiny-90m", help="Presets or checkpoint folders, separated by commas."),
    context: str = typer.Option("512,8192,32768,262144"),
    kv_dtype: str = typer.Option("bfloat16"),
    gib: float | None = typer.Option(None, help="How many sequences fit into this memory beside the weights."),
    measure: bool = typer.Option(False, help="Read and write at the largest context here: time and peak memory."),
    read: int = typer.Option(32768, help="With --measure: tokens of the prompt that is read."),
    layers: int | None = typer.Option(None, help="With --measure: only so many layers, of the same widths."),
    format: str = FORMAT,
    as_json: bool = JSON,
) -> None:
    """Bytes of one sequence by the formula, and of the tensors that hold it; measured with --measure."""
    from h1r.bench import long
    from h1r.bench import memory as room

    budget = int(gib * 2**30) if gib else None
    if not measure:
        rows = room.memory(_models(models), _numbers(context), kv_dtype=kv_dtype, budget=budget)
        _print(rows, ("model", "context", "weight_bytes", "sequence_bytes", "allocated_bytes", "sequences"), as_json)
        return
    most = max(_numbers(context))
    found = long.long(_models(models), most, prefill=min(read, most), format=_format(format), layers=layers)
    columns = (
        "model", "layers", "context", "sequence_bytes", "cache_bytes", "prefill", "prefill_tokens_per_second", "peak_gib",
        "allowed_gib", "tokens_per_second", "gigabytes_per_second", "bandwidth", "share",
    )  # fmt: skip
    _print(found, columns, as_json)


@app.command()
def quality(
    models: str = typer.Option(
        "quickstart", help="Presets (random weights) or checkpoint folders, separated by commas."
    ),
    formats: str = typer.Option("bfloat16,int8,int4,q8_0,q4_k", help="Ours, and llama.cpp's two as emulated."),
    tokens: int = typer.Option(512, help="Tokens that the model writes itself and that are compared."),
    seed: int = typer.Option(0),
    as_json: bool = JSON,
) -> None:
    """What a weight format loses against fp32: KL, agreement of the likeliest token, confidence, megabytes."""
    from pathlib import Path

    from h1r.bench import quality as room
    from h1r.model import load

    chosen = [f.strip() for f in formats.split(",")]
    for format in chosen:
        if format not in (*room.OURS, *room.PEERS):
            raise ConfigError(f"--formats {format!r}: known are {', '.join((*room.OURS, *room.PEERS))}")
    if tokens < 1:
        raise ConfigError(f"--tokens {tokens}: must be 1 or more")
    given: dict[str, Any] = {}
    for name, config in _models(models).items():
        folder = next((Path(w.strip()) for w in models.split(",") if Path(w.strip()).name == name), Path(name))
        given[name] = load(folder, dtype="float32")[0] if (folder / "config.json").is_file() else config
    made = room.quality(given, chosen, tokens=tokens, seed=seed)
    _print(made, ("model", "format", "kl", "kl_max", "agreement", "confidence", "megabytes", "tokens"), as_json)


@app.command()
def replay(
    models: str = MODELS,
    tokens: int = typer.Option(96, help="Tokens of each of four traces."),
    as_json: bool = JSON,
) -> None:
    """Engine against trainer log-probabilities: fast, exact and native; the machine's floor, and what exactness costs."""
    from h1r.bench import replay as room

    rows = room.replay(_models(models), tokens=tokens)
    columns = ("model", "mode", "mean", "most", "equal", "own", "floor", "tokens_per_second", "cost")
    _print(rows, columns, as_json)


@app.command()
def twin(
    model: str = typer.Option("quickstart", help="A preset or checkpoint folder."),
    context: str = typer.Option("128,512,2048,8192"),
    batch: int = typer.Option(8),
    seconds: float = typer.Option(12.0),
    format: str = FORMAT,
    as_json: bool = JSON,
) -> None:
    """The hybrid beside a pure Transformer of its size: decode speed and memory as context grows."""
    from h1r.bench import twin as room
    from h1r.model import H1Config

    (config,) = _models(model).values()
    if not isinstance(config, H1Config):
        raise ConfigError(f"{model}: the twin is made for a hybrid; this is a pure Transformer already")
    rows = [
        {
            "context": r["context"],
            "batch": r["batch"],
            "hybrid": r["hybrid"]["tokens_per_second"],
            "transformer": r["twin"]["tokens_per_second"],
            "ratio": r["ratio"],
            "memory_ratio": r["memory_ratio"],
        }
        for r in room.twin(config, _numbers(context), batch, seconds=seconds, format=_format(format))["rows"]
    ]
    _print(rows, tuple(rows[0]), as_json)


@app.command()
def throughput(
    model: str = typer.Option("falcon-h1r-7b"),
    baseline: str = typer.Option("qwen3-8b"),
    hardware: str = typer.Option("h100", help="h100, h200, or cpu: this machine's limits, measured now."),
    measure: bool = typer.Option(
        False, help="Also decode on this machine at the middle of each workload, where it fits."
    ),
    format: str = FORMAT,
    as_json: bool = JSON,
) -> None:
    """The published settings by bytes and operations: ideal tokens/s on one device, and what does not fit."""
    from h1r.bench import roofline

    known = dict(roofline.HARDWARE)
    if hardware == "cpu":
        known["cpu"] = _here()
    if hardware not in known:
        raise ConfigError(f"--hardware {hardware!r}: known are cpu, {', '.join(roofline.HARDWARE)}")
    shapes = _shape(model), _shape(baseline)
    rows = [
        {
            "prompt": r["prompt"],
            "out": r["out"],
            "batch": r["batch"],
            shapes[0].name: r["model"]["sustained"],
            shapes[1].name: r["baseline"]["sustained"],
            "ratio": r["ratio"],
            "memory_gb": r["model"]["memory_gb"],
            "fits": r["model"]["fits"],
            "baseline fits": r["baseline"]["fits"],
        }
        for r in roofline.throughput(*shapes, known[hardware])
    ]
    _print(rows, tuple(rows[0]), as_json)
    if measure:
        found = _measured({model: _config(model), baseline: _config(baseline)}, hardware, _format(format))
        _print(found, ("model", "prompt", "out", "batch", "tokens_per_second", "share", "note"), as_json)


def _here() -> Any:
    import os

    from h1r.bench import limits, roofline

    found = limits.measure(dtypes=("bfloat16",))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return roofline.here(found.bandwidth, found.products["bfloat16"], memory)


def _measured(configs: dict[str, Any], hardware: str, format: str) -> Iterable[dict[str, Any]]:
    """Decoding at the middle of each workload, where the device is here and the model and its caches fit."""
    from h1r.bench import long, roofline

    device = "cpu" if hardware == "cpu" else "cuda"
    yield from long.middle(configs, roofline.WORKLOADS, device, format)


def _models(words: str) -> dict[str, Config]:
    from pathlib import Path

    from h1r.model import PRESETS
    from h1r.model.config import read

    out: dict[str, Any] = {}
    for word in (w.strip() for w in words.split(",")):
        if word in PRESETS:
            out[word] = PRESETS[word]
        elif (Path(word) / "config.json").is_file():
            out[Path(word).name] = read(word)
        else:
            raise ConfigError(f"{word!r} is neither a checkpoint folder nor a preset: {', '.join(sorted(PRESETS))}")
    return out


def _config(word: str) -> Any:
    """A preset's config, or the published baseline's."""
    from h1r.bench import roofline

    return roofline.QWEN3_8B if word == "qwen3-8b" else next(iter(_models(word).values()))


def _shape(word: str) -> Any:
    from h1r.bench import roofline

    return roofline.shape(_config(word), word)


def _numbers(words: str) -> tuple[int, ...]:
    try:
        found = tuple(int(w) for w in words.split(","))
    except ValueError:
        raise ConfigError(f"{words!r}: write whole numbers separated by commas") from None
    if min(found) < 1:
        raise ConfigError(f"{words!r}: numbers must be 1 or more")
    return found


def _format(word: str) -> str:
    if word not in FORMATS:
        raise ConfigError(f"--format {word!r}: must be one of {', '.join(FORMATS)}")
    return word


def _print(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], as_json: bool) -> list[Mapping[str, Any]]:
    """Rows as a table, or as JSON as soon as each is there; returns them."""
    from h1r.evals import plain

    kept = []
    table = [list(columns)]
    for row in rows:
        if as_json:
            print(json.dumps(row), flush=True)
        kept.append(row)
        table.append([_cell(row.get(c)) for c in columns])
    if not as_json:
        print(plain(table))
    return kept


def _plot(path: str | None, title: str, rows: Sequence[Mapping[str, Any]], x: str, y: str, by: Sequence[str]) -> None:
    """One chart: y over x, a line for each value of `by`."""
    if path is None:
        return
    from h1r import report

    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        lines.setdefault(", ".join(str(row[b]) for b in by), []).append(row)
    series = [report.Series(name=n, x=[r[x] for r in some], y=[r[y] for r in some]) for n, some in lines.items()]
    chart = report.points(
        series, title=f"{title}, {rows[0]['format']}", x_label=x, y_label="tokens/s", log_x=True, connect=True
    )
    report.write(path, report.page(f"h1r bench: {title}", [report.Section(title=title, blocks=[chart])]))
    print(f"chart: {path}")


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "-" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
