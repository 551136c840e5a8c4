"""Our training beside TRL's on the same work: SFT tokens/s, peak memory of long rows, seconds of a GRPO step.

    python bench/train.py [--trl-python PYTHON] [--only sft] [--rounds 3] [--threads 1] [--quick] [--json FILE]

PYTHON is the interpreter of an environment with torch, transformers and trl; without it ours is measured alone. Both sides get
one checkpoint, the same token ids, loss masks, threads and AdamW. Each turn is a process of its own, and turns alternate.
The first turns are compared before any figure is printed: losses and gradient norms of the first steps must agree within
PARITY (GRPO: gradient norms on the very traces TRL drew), or the figures are withheld. A ratio is the median over rounds of
paired turns, each the median of its steps; `by cpu` counts the processor's seconds, without what other programs take.
docs/performance.md says how to build the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers
from train_trl import baseline, most, now, since

from h1r.cli.grpo import in_memory
from h1r.engine import LLM
from h1r.model import PRESETS, H1Config, build, load, save
from h1r.rl import Group, GrpoConfig, advantages, grpo
from h1r.train import LocalTrainer, OptimConfig, SftConfig, sft
from h1r.types import Problem, Prompt, Row, Score, StopReason, Trace

PARITY = 1e-6  # relative
CHECKED = 3  # first steps
WARM = 2  # steps of a turn that are not timed
SPECIALS = ("<pad>", "<bos>", "<eos>", "<|im_start|>", "<|im_end|>")
TINY = H1Config(
    vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, mamba_d_ssm=96, mamba_n_heads=6, mamba_d_head=16, mamba_d_state=16,
    max_position_embeddings=4096, rope_theta=1e11, eos_token_id=SPECIALS.index("<|im_end|>"),
    pad_token_id=None,  # an id given here has no gradient in transformers, and GRPO draws it like any other
    # all different from 1: who drops one fails the parity check
    lm_head_multiplier=0.35, embedding_multiplier=2.5, key_multiplier=0.5, attention_out_multiplier=0.9,
    attention_in_multiplier=1.1, ssm_in_multiplier=1.25, ssm_out_multiplier=0.7,
    ssm_multipliers=(0.7, 0.9, 0.8, 1.2, 0.6), mlp_multipliers=(0.8, 0.6),
)  # fmt: skip

Job = dict[str, Any]
Figures = dict[str, Any]


class Task(NamedTuple):
    """One row of the table.

    read    a turn's figure, from its record and the clock: seconds, or cpu (of the processor, all threads)
    target  what ours / TRL's is aimed at: at least, where more is better, else at most; None: no aim
    """

    what: str
    unit: str
    job: Job
    read: Callable[[Figures, str], float]
    target: float | None
    more: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", type=Path, help="interpreter of an environment with trl")
    parser.add_argument("--only", default="", help="part of a row's name")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--scan", type=int, default=0, help="chunk of TRL's scan; else 16 (small model), 128 (Tiny-90M's)"
    )
    parser.add_argument("--quick", action="store_true", help="one round of few steps, no memory rows")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--turn", type=Path, help=argparse.SUPPRESS)  # a turn of ours, in a process of its own
    args = parser.parse_args()
    if args.turn:
        turn_of_ours(json.loads(args.turn.read_text(encoding="utf-8")))
        return
    if args.trl_python and not args.trl_python.is_file():
        parser.error(f"--trl-python {args.trl_python}: no such file; name the environment's bin/python")
    if args.rounds < 1 or args.threads < 1:
        parser.error("--rounds and --threads must be 1 or more")
    if not args.trl_python:
        print("no --trl-python: TRL is missing, ours runs alone and nothing is compared")
    rows: list[Figures] = []
    with tempfile.TemporaryDirectory() as spare:
        for task in tasks(Path(spare), args.threads, args.quick, args.scan):
            if args.only not in task.what:
                continue
            rows.append(measure(task, args.trl_python, Path(spare), 1 if args.quick else args.rounds))
            print(line(rows[-1]), flush=True)
    if not rows:
        parser.error(f"--only {args.only!r} names no row")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    if any(row["withheld"] for row in rows):
        sys.exit("parity failed: the figures of these rows are withheld")


# The work


def tasks(folder: Path, threads: int, quick: bool, scan: int = 0) -> Iterator[Task]:
    """Every row, its checkpoint written to `folder` first."""
    vocabulary = tokenizer()
    vocabulary.save(str(folder / "tokenizer.json"))
    both: Job = {"threads": threads, "tokenizer": str(folder / "tokenizer.json"), "lr": 1e-3}
    wide, narrow = (checkpoint(folder / f"tiny-{std}", TINY, std, scan or 16) for std in (0.2, 0.05))
    steps = 5 if quick else 12
    fine: Job = both | {"kind": "sft", "model": wide, "length": 4096, "checkpointing": False, "steps": steps}
    for batch in (4, 16):
        job = fine | {"batch": batch, "rows": list(chats(vocabulary, batch * (steps + 1), random.Random(1)))}
        yield Task(f"sft, {batch} rows a step, mixed lengths", "tokens/s", job, rate, 1.6, True)
    even = [{"ids": drawn(TINY, 256, i), "mask": [0] + [1] * 255} for i in range(8 * (steps + 1))]
    yield Task("sft, 8 rows of 256, no padding", "tokens/s", fine | {"batch": 8, "rows": even}, rate, None, True)
    sums, digits = random.Random(0), [vocabulary.token_to_id(d) for d in "0123456789"]
    texts = [f"{sums.randint(0, 99)}+{sums.randint(0, 99)}=?" for _ in range(4 * (steps + 1))]
    job = both | {"kind": "grpo", "model": narrow, "steps": steps, "prompts": 4, "group": 4, "new": 64}
    job |= {"texts": texts, "ids": [vocabulary.encode(t).ids for t in texts], "digits": digits}
    yield Task("grpo, 4 prompts x 4 traces x 64", "ms a step", job, step_ms, 1 / 3, False)
    if quick:
        return
    config = PRESETS["tiny-90m"]
    job = both | {
        "kind": "sft",
        "model": checkpoint(folder / "tiny-90m", config, chunk=scan),
        "length": 2048,
        "batch": 1,
    }
    job |= {"steps": 2, "lr": 1e-5}
    job["rows"] = [{"ids": drawn(config, 2048, i), "mask": [0] + [1] * 2047} for i in range(3)]
    for again in (False, True):
        name = "memory, Tiny-90M, row of 2,048" + (", checkpointing" if again else "")
        yield Task(name, "GiB above the weights", job | {"checkpointing": again}, gib, 0.6, False)


def tokenizer() -> tokenizers.Tokenizer:
    """One token a byte, and the specials."""
    words = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    out = tokenizers.Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    out.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    out.decoder = decoders.ByteLevel()
    out.add_special_tokens(list(SPECIALS))
    return out


def chats(vocabulary: tokenizers.Tokenizer, count: int, rng: random.Random) -> Iterator[dict[str, list[int]]]:
    """Sums with a thought of 6 to 73 numbers; the loss is on the reply and its end."""
    for _ in range(count):
        a, b = rng.randint(0, 99), rng.randint(0, 99)
        thought = " ".join(str((a * i + b) % 97) for i in range(rng.randint(6, 73)))
        asked = f"<|im_start|>user\n{a}+{b}=?<|im_end|>\n<|im_start|>assistant\n"
        told = f"<think>\n{thought}\n</think>\n\n\\boxed{{{a + b}}}<|im_end|>"
        parts = [vocabulary.encode(text).ids for text in (asked, told, "\n")]
        mask = [int(i == 1) for i, part in enumerate(parts) for _ in part]
        yield {"ids": [t for part in parts for t in part], "mask": mask}


def drawn(config: H1Config, length: int, seed: int) -> list[int]:
    """Random token ids."""
    return np.random.default_rng(seed).integers(5, config.vocab_size, length).tolist()


def checkpoint(path: Path, config: H1Config, std: float | None = None, chunk: int = 0) -> str:
    """Random weights in Hugging Face format; with `std`, matrices of that deviation and biases of a half.

    chunk: of the peer's scan, where the preset's is not its fastest; ours does not read it."""
    model = build(config, 0)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters() if std else ():
            if parameter.ndim > 1:
                parameter.normal_(0, std, generator=rng)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.5, generator=rng)
    save(model, path, torch.float32)
    if chunk:
        file = path / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"mamba_chunk_size": chunk}), encoding="utf-8")
    return str(path)


# Turns and figures


def measure(task: Task, peer: Path | None, folder: Path, rounds: int) -> Figures:
    """Turns in alternation, TRL first so that ours can be given its traces; stops when the first turns disagree."""
    mine: list[Figures] = []
    its: list[Figures] = []
    own = [sys.executable, str(Path(__file__).resolve()), "--turn"]
    other = [str(peer), str(Path(__file__).resolve().with_name("train_trl.py"))]
    parity: dict[str, float] = {}
    for _ in range(rounds):
        job = task.job
        if peer:
            its.append(turn(other, job, folder))
            job = job | {"traces": its[0].get("traces")}
        mine.append(turn(own, job, folder))
        if peer and not parity:
            parity = apart(mine[0], its[0])
            if max(parity.values()) > PARITY:
                break
    out: Figures = {"what": task.what, "unit": task.unit, "target": task.target, "more_is_better": task.more}
    out |= {"parity": parity, "withheld": bool(parity) and max(parity.values()) > PARITY}
    if out["withheld"]:
        return out
    out["ours"] = median(task.read(m, "seconds") for m in mine)
    out["versions"] = {"ours": mine[0]["versions"]}
    if peer:
        pairs = list(zip(mine, its, strict=True))
        out["trl"] = median(task.read(i, "seconds") for i in its)
        for name, clock in (("ratio", "seconds"), ("cpu_ratio", "cpu")):
            out[name] = median(task.read(m, clock) / task.read(i, clock) for m, i in pairs)
        out["versions"]["trl"] = its[0]["versions"]
    out["turns"] = {"ours": [map_of(t) for t in mine], "trl": [map_of(t) for t in its]}
    return out


def turn(command: Sequence[str], job: Job, folder: Path) -> Figures:
    """One process on one job: what it wrote."""
    file, out = folder / "job.json", folder / "out.json"
    out.unlink(missing_ok=True)
    file.write_text(json.dumps(job | {"out": str(out)}), encoding="utf-8")
    env = os.environ | {"OMP_NUM_THREADS": str(job["threads"]), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0"}
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, env=env)
    if done.returncode or not out.is_file():
        sys.exit(f"{command[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(out.read_text(encoding="utf-8"))


def apart(mine: Figures, its: Figures) -> dict[str, float]:
    """Largest relative difference over the first steps; for GRPO that of the gradient norm on TRL's traces."""
    if "replayed" in mine:
        return {"grad_norm": abs(mine["replayed"] / its["steps"][0]["grad_norm"] - 1)}
    pairs = list(zip(mine["steps"][:CHECKED], its["steps"][:CHECKED], strict=True))
    return {name: max(abs(m[name] / i[name] - 1) for m, i in pairs) for name in ("loss", "grad_norm")}


def map_of(figures: Figures) -> Figures:
    """What the JSON keeps of a turn."""
    kept = ("seconds", "cpu", "loss", "grad_norm", "tokens", "reward")
    steps = [{name: step[name] for name in kept if name in step} for step in figures["steps"]]
    return {"steps": steps} | {name: figures[name] for name in ("memory", "replayed") if name in figures}


def rate(figures: Figures, clock: str) -> float:
    return median(s["tokens"] / s[clock] for s in figures["steps"][WARM:])


def step_ms(figures: Figures, clock: str) -> float:
    return 1e3 * median(s[clock] for s in figures["steps"][WARM:])


def gib(figures: Figures, clock: str) -> float:
    return (figures["memory"]["peak"] - figures["memory"]["before"]) / 2**30


def line(r: Figures) -> str:
    """A row as text."""
    apart = ", ".join(f"{name} {value:.1e}" for name, value in r["parity"].items())
    if r["withheld"]:
        return f"{r['what']:42} WITHHELD: the sides do not compute the same ({apart}; allowed {PARITY:.0e})"
    text = f"{r['what']:42} ours {r['ours']:9.2f} {r['unit']}"
    if "trl" not in r:
        return text
    met = r["target"] is None or (r["ratio"] >= r["target"] if r["more_is_better"] else r["ratio"] <= r["target"])
    wanted = "" if r["target"] is None else f" [{'met' if met else 'MISSED'}: {r['target']:.2f}]"
    cpu = f", by cpu {r['cpu_ratio']:.2f}" if r["cpu_ratio"] != r["ratio"] else ""
    return f"{text} | trl {r['trl']:9.2f} | ratio {r['ratio']:.2f}{wanted}{cpu} | apart: {apart}"


# Ours


def turn_of_ours(job: Job) -> None:
    torch.set_num_threads(job["threads"])
    with tempfile.TemporaryDirectory() as spare:
        figures = {"sft": tune, "grpo": practise}[job["kind"]](job, Path(spare))
    figures["versions"] = {"torch": torch.__version__}
    Path(job["out"]).write_text(json.dumps(figures), encoding="utf-8")


def tune(job: Job, spare: Path) -> Figures:
    """The SFT loop, stopped one step before its end, so that no checkpoint falls into the figures."""
    model, _ = load(job["model"], dtype=torch.float32)
    rows = [Row(token_ids=tuple(r["ids"]), streams={"ce": np.array(r["mask"], np.float32)}) for r in job["rows"]]
    config = SftConfig(
        steps=job["steps"] + 1, rows=job["batch"], length=job["length"], too_long="error", save_every=10**6,
        checkpointing=job["checkpointing"], optim=plain(job["lr"]),
    )  # fmt: skip
    before = baseline(model)
    steps: list[Figures] = []
    loop = sft.run(model, sft.Indexed(rows.__getitem__), config, spare)
    begun = now()
    for metrics in loop:
        steps.append(metrics | since(begun))
        if len(steps) == job["steps"]:
            break
        begun = now()
    peak = most()
    loop.close()
    return {"steps": steps, "memory": {"before": before, "peak": peak}}


def practise(job: Job, spare: Path) -> Figures:
    """The GRPO loop with the engine in this process; before it, the gradient on TRL's first traces."""
    config = GrpoConfig(
        steps=job["steps"] + 1, group=job["group"], prompts_per_step=job["prompts"], max_tokens=job["new"],
        loss="dapo", reduction="token", baseline="mean", save_every=10**6, optim=plain(job["lr"]),
    )  # fmt: skip
    out: Figures = {"steps": []}
    if job.get("traces"):
        out["replayed"] = replayed(job, config)
    llm = LLM(job["model"], dtype="float32", tokenizer=False, memory_bytes=1 << 28)
    model, _ = load(job["model"], dtype=torch.float32)
    trainer = LocalTrainer(model, config.trainer())
    problems = [Problem(id=str(i), messages=(), kind="digits", meta={"ids": ids}) for i, ids in enumerate(job["ids"])]
    loop = grpo.run(
        llm, Digits(job["digits"]), trainer, problems, lambda p: Prompt(token_ids=tuple(p.meta["ids"])), config, spare,
        sync=in_memory(model, llm),
    )  # fmt: skip
    begun = now()
    for metrics in loop:
        out["steps"].append(metrics | since(begun) | {"tokens": metrics["tokens/generated"]})
        if len(out["steps"]) == job["steps"]:
            break
        begun = now()
    loop.close()
    return out


def replayed(job: Job, config: GrpoConfig) -> float:
    """Our gradient norm of one update on the traces of TRL's first step."""
    model, _ = load(job["model"], dtype=torch.float32)
    trainer, grader, groups = LocalTrainer(model, config.trainer()), Digits(job["digits"]), []
    for begin in range(0, len(job["traces"]), job["group"]):
        traces = [
            Trace(
                prompt=Prompt(token_ids=tuple(prompt)), token_ids=tuple(ids), stop=StopReason.LENGTH,
                logprobs=np.zeros(len(ids), np.float32),
            )
            for prompt, ids in job["traces"][begin : begin + job["group"]]
        ]  # fmt: skip
        problem = Problem(id=str(begin), messages=(), kind="digits")
        scores = tuple(grader.grade([(problem, trace) for trace in traces]))
        rewards = tuple(score.value for score in scores)
        groups.append(
            Group(uid=str(begin), problem=problem, traces=tuple(traces), scores=scores, rewards=rewards, version=0)
        )
    rows = advantages(groups, config.folding(), 0)
    # without TRL's log-probabilities there is no importance ratio to apply
    rows = [
        Row(token_ids=r.token_ids, streams={name: s for name, s in r.streams.items() if name != "sampled"})
        for r in rows
    ]
    trainer.forward_backward(rows, config.loss)
    return float(trainer.optim_step()["grad_norm"])


class Digits:
    """Rewards the share of digits among a trace's tokens."""

    def __init__(self, digits: Sequence[int]) -> None:
        self.digits = frozenset(digits)

    def grade(self, items: Sequence[tuple[Problem, Trace]]) -> list[Score]:
        return [
            Score(sum(t in self.digits for t in trace.token_ids) / max(1, len(trace.token_ids)), "")
            for _, trace in items
        ]


def plain(lr: float) -> OptimConfig:
    """AdamW as TRL's default has it: no decay, constant rate, norm clipped to 1."""
    return OptimConfig(lr=lr, weight_decay=0.0, schedule="constant", warmup=0)


if __name__ == "__main__":
    main()
