"""Ours beside transformers and llama.cpp: the same checkpoints, the same machine, turns taken in one run.

    python bench/peers.py --models FOLDER --llama BIN [--only tiny] [--rounds 3] [--quick] [--json FILE]

FOLDER holds Hugging Face checkpoints h1-tiny-90m and h1-0.5b and, for llama.cpp, NAME.bf16.gguf and NAME.q8_0.gguf beside
them; BIN is the folder of llama-bench and llama-batched-bench. Without --models, random checkpoints of the presets are
made in a temporary folder, and llama.cpp is left out. Every round gives each engine a turn; a ratio is the median over
rounds of our rate over the peer's, each the median of its turn. docs/performance.md says how to build the peers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from h1r.bench.subject import Decoder, filled, read_prompt
from h1r.engine import native
from h1r.model import PRESETS, build, fold, qwen3_twin, save

NAMES = {"h1-tiny-90m": "tiny-90m", "h1-0.5b": "0.5b"}
TINY = "h1-tiny-90m"
SECONDS = 1.0  # of one turn of ours

Rates = list[float]
"""Tokens a second of the samples of one turn."""


class Task(NamedTuple):
    """One row: what is measured, by whom, and the ratios aimed at."""

    what: str
    ours: Callable[[], Rates]
    peers: dict[str, Callable[[], Rates]]
    targets: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder of the checkpoints and gguf files")
    parser.add_argument("--llama", type=Path, help="folder of llama-bench")
    parser.add_argument("--only", default="", help="part of a checkpoint's name")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="short contexts only, one round")
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    chosen = [name for name in NAMES if args.only in name]
    if not chosen:
        parser.error(f"--only {args.only!r} names none of {', '.join(NAMES)}")
    missing = [name for name in chosen if args.models and not (args.models / name / "config.json").is_file()]
    if missing:
        parser.error(f"--models {args.models} has no checkpoint {missing[0]} (a folder with config.json)")
    with tempfile.TemporaryDirectory() as spare:
        folder = args.models or _made(Path(spare), args.only)
        llama = _llama(args.llama, folder, chosen)
        rows = []
        for name in chosen:
            rows += measure(name, folder, llama, 1 if args.quick else args.rounds, args.quick)
        if not args.quick:
            rows += twin()
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def measure(name: str, folder: Path, llama: Path | None, rounds: int, quick: bool) -> list[dict[str, Any]]:
    """All rows of one checkpoint."""
    rows = []
    for task in tasks(name, folder, llama, quick):
        turns: dict[str, list[Rates]] = {"ours": [], **{peer: [] for peer in task.peers}}
        for r in range(rounds):
            for side in sorted(turns, reverse=bool(r % 2)):
                turns[side].append((task.ours if side == "ours" else task.peers[side])())
        rows.append(row(name, task, turns))
        print(line(rows[-1]), flush=True)
    return rows


def row(name: str, task: Task, turns: dict[str, list[Rates]]) -> dict[str, Any]:
    """Medians, bests, and the median of paired ratios."""
    out: dict[str, Any] = {"model": name, "what": task.what, "rates": {}, "ratios": {}, "targets": task.targets}
    for side, rounds in turns.items():
        out["rates"][side] = {"median": median(median(t) for t in rounds), "best": max(max(t) for t in rounds)}
        if side != "ours":
            pairs = zip(turns["ours"], rounds, strict=True)
            out["ratios"][side] = median(median(mine) / median(its) for mine, its in pairs)
    return out


def line(r: dict[str, Any]) -> str:
    """A row as text: our rate, then each peer's, the ratio and its target."""
    mine = r["rates"]["ours"]
    parts = [f"{r['model']:12} {r['what']:34} ours {mine['median']:8.1f} (best {mine['best']:.1f})"]
    for peer, ratio in r["ratios"].items():
        target = r["targets"].get(peer)
        wanted = "" if target is None else f" [{'met' if ratio >= target else 'MISSED'}: {target:g}]"
        parts.append(f"{peer} {r['rates'][peer]['median']:.1f} -> {ratio:.2f}x{wanted}")
    return " | ".join(parts)


def tasks(name: str, folder: Path, llama: Path | None, quick: bool) -> Iterator[Task]:
    """What is measured for one checkpoint, in order; models are loaded as they are needed."""
    tiny = name == TINY
    plain, config = native.load(folder / name, "bfloat16")
    other = Transformers(folder / name)
    gguf = {kind: folder / f"{name}.{kind}.gguf" for kind in ("bf16", "q8_0")}
    program = Llama(llama, gguf["bf16"]) if llama else None
    for batch, want, beside in ((1, 7.0 if tiny else 4.5, 1.15), (8, 6.0, 1.8), (32, 6.0, 1.8)):
        peers = {"transformers": lambda b=batch: other.decode(b, 64)}
        if program:
            peers["llama.cpp"] = lambda b=batch: program.batched(b)
        targets = {"transformers": want, "llama.cpp": beside}
        yield Task(f"decode bf16 batch {batch}", lambda b=batch: decode(plain, config, b, 64), peers, targets)
        if batch == 1:
            packed, _ = native.load(folder / name, "int8")
            eight = {"llama.cpp q8_0": lambda: Llama(llama, gguf["q8_0"]).generate(0, 5)} if llama else {}
            yield Task("decode int8 batch 1", lambda m=packed: decode(m, config, 1, 64), eight, {"llama.cpp q8_0": 1.2})
            del packed
    for length in (512, 2048):
        peers = {"transformers": lambda n=length: other.prefill(n)}
        if program:
            peers["llama.cpp"] = lambda n=length: program.prefill(n)
        targets = {"transformers": 2.2 if tiny else 1.7, "llama.cpp": 1.4}
        yield Task(f"prefill bf16 {length}", lambda n=length: prefill(plain, n), peers, targets)
    if quick:
        return
    peers = {"transformers": lambda: other.decode(1, 8192)}
    if program:
        peers["llama.cpp"] = lambda: program.generate(8192, 1)
    targets = {"transformers": 15.0 if tiny else 8.0, "llama.cpp": 2.0 if tiny else 1.5}
    yield Task("decode bf16 batch 1, 8k context", lambda: decode(plain, config, 1, 8192), peers, targets)


# Ours


def decode(model: Any, config: Any, batch: int, context: int, seconds: float = SECONDS) -> Rates:
    """Greedy steps over a cache of random keys, values and states."""
    decoder = Decoder(model, filled(model, batch, context, 1))
    for _ in range(2):
        decoder.step()
    rates: Rates = []
    end = time.perf_counter() + seconds
    while len(rates) < 5 or time.perf_counter() < end:
        begun = time.perf_counter()
        decoder.step()
        rates.append(batch / (time.perf_counter() - begun))
    return rates


def prefill(model: Any, length: int, repeats: int = 2) -> Rates:
    rates = []
    for _ in range(repeats):
        begun = time.perf_counter()
        read_prompt(model, length, 1024)
        rates.append(length / (time.perf_counter() - begun))
    return rates


def twin(batch: int = 8, context: int = 32768, rounds: int = 3) -> list[dict[str, Any]]:
    """The hybrid beside a pure Transformer of its size, in the same engine, at a long context."""
    config = PRESETS["tiny-90m"]
    other = qwen3_twin(config)
    mine = native.pack(fold(build(config, 0)), "bfloat16")
    its = native.pack(fold(build(other, 0)), "bfloat16")
    task = Task(f"decode batch {batch}, {context // 1024}k context", list, {"twin": list}, {"twin": 2.0})
    turns: dict[str, list[Rates]] = {"ours": [], "twin": []}
    for _ in range(rounds):
        turns["ours"].append(decode(mine, config, batch, context))
        turns["twin"].append(decode(its, other, batch, context))
    out = row("tiny-90m", task, turns)
    print(line(out), flush=True)
    return [out]


# transformers


class Transformers:
    """The same checkpoint in bf16; its cache of a long context is a short prompt's, repeated."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, logging

        logging.set_verbosity_error()
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self.vocab = self.model.config.vocab_size

    @torch.inference_mode()
    def decode(self, batch: int, context: int, steps: int = 6) -> Rates:
        read = min(context, 256)
        ids = torch.randint(3, self.vocab, (batch, read))
        cache = self.model(ids, use_cache=True, logits_to_keep=1).past_key_values
        for layer in cache.layers if context > read else ():
            layer.keys, layer.values = (
                t.repeat(1, 1, context // read, 1).contiguous() for t in (layer.keys, layer.values)
            )
        token, rates = ids[:, -1:], []
        for _ in range(steps + 1):
            begun = time.perf_counter()
            out = self.model(token, past_key_values=cache, use_cache=True, logits_to_keep=1)
            token = out.logits[:, -1:].argmax(-1)
            rates.append(batch / (time.perf_counter() - begun))
        return rates[1:]

    @torch.inference_mode()
    def prefill(self, length: int) -> Rates:
        ids = torch.randint(3, self.vocab, (1, length))
        begun = time.perf_counter()
        self.model(ids, use_cache=True, logits_to_keep=1)
        return [length / (time.perf_counter() - begun)]


# llama.cpp


class Llama:
    """llama-bench and llama-batched-bench on one gguf file."""

    def __init__(self, folder: Path, file: Path) -> None:
        self.folder, self.file = folder, file

    def generate(self, depth: int, repeats: int) -> Rates:
        return self._bench("-p", "0", "-n", "16", "-d", str(depth), "-r", str(repeats))

    def prefill(self, length: int) -> Rates:
        return self._bench("-p", str(length), "-n", "0", "-r", "2")

    def batched(self, batch: int) -> Rates:
        size = str(2 * batch * 96)
        text = self._run("llama-batched-bench", "-c", size, "-npp", "64", "-ntg", "16", "-npl", str(batch),
                         "--output-format", "jsonl")  # fmt: skip
        return [json.loads(row)["speed_tg"] for row in text.splitlines() if row.startswith("{")]

    def _bench(self, *options: str) -> Rates:
        text = self._run("llama-bench", "-o", "jsonl", *options)
        rows = [json.loads(row) for row in text.splitlines() if row.startswith("{")]
        return [rate for row in rows for rate in row["samples_ts"]]

    def _run(self, program: str, *options: str) -> str:
        command = [str(self.folder / program), "-m", str(self.file), "-t", str(torch.get_num_threads()), *options]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | {"LD_LIBRARY_PATH": str(self.folder)}
        )
        return done.stdout


def _llama(folder: Path | None, models: Path, names: list[str]) -> Path | None:
    if folder is None or not (folder / "llama-bench").is_file():
        print(f"llama.cpp: {'no --llama' if folder is None else f'no llama-bench in {folder}'}; it is left out")
        return None
    missing = [n for n in names if not (models / f"{n}.bf16.gguf").is_file()]
    if missing:
        print(f"llama.cpp: {models} has no {missing[0]}.bf16.gguf; it is left out")
        return None
    return folder


def _made(folder: Path, only: str) -> Path:
    """Random checkpoints of the presets."""
    for name, preset in NAMES.items():
        if only in name:
            save(build(PRESETS[preset], 0), folder / name, dtype=torch.bfloat16)
    return folder


if __name__ == "__main__":
    main()
