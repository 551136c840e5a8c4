"""The peer's side of train.py: TRL's trainers on a job file. Runs in an environment of its own, without h1r.

    python bench/train_trl.py JOB.json

JOB names the checkpoint, the rows or prompts, the sizes and where the figures go; train.py writes it. Also the meters
that both sides read.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    import torch
    import transformers
    import trl

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(job["threads"])
    model = transformers.AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=job["tokenizer"], pad_token="<pad>", eos_token="<|im_end|>", padding_side="left"
    )
    with tempfile.TemporaryDirectory() as spare:
        figures = {"sft": sft, "grpo": grpo}[job["kind"]](job, model, tokenizer, spare)
    figures["versions"] = {m.__name__: m.__version__ for m in (torch, transformers, trl)}
    Path(job["out"]).write_text(json.dumps(figures), encoding="utf-8")


def sft(job: dict[str, Any], model: Any, tokenizer: Any, spare: str) -> dict[str, Any]:
    """Padded batches in the order of the rows (packing needs flash attention, which has no CPU form)."""
    import trl
    from datasets import Dataset

    config = trl.SFTConfig(
        **_common(job, spare), per_device_train_batch_size=job["batch"], max_length=job["length"], packing=False,
        shuffle_dataset=False, train_sampling_strategy="sequential", gradient_checkpointing=job["checkpointing"],
    )  # fmt: skip
    rows = [
        {"input_ids": r["ids"], "labels": [t if m else -100 for t, m in zip(r["ids"], r["mask"], strict=True)]}
        for r in job["rows"]
    ]
    steps, watch = _watch()
    counts = [sum(len(r["ids"]) for r in job["rows"][i : i + job["batch"]]) for i in range(0, len(rows), job["batch"])]
    trainer = trl.SFTTrainer(
        model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[watch]
    )
    before = baseline(model)
    trainer.train()
    peak = most()
    for step, count in zip(steps, counts, strict=False):
        step["tokens"] = count
    return {"steps": steps, "memory": {"before": before, "peak": peak}}


def grpo(job: dict[str, Any], model: Any, tokenizer: Any, spare: str) -> dict[str, Any]:
    """One generation of all traces of a step, one update on all of them."""
    import trl
    from datasets import Dataset

    count, digits = job["prompts"] * job["group"], set(job["digits"])
    config = trl.GRPOConfig(
        **_common(job, spare), per_device_train_batch_size=count, num_generations=job["group"], shuffle_dataset=False,
        max_completion_length=job["new"], temperature=1.0, top_p=1.0, top_k=0, beta=0.0, epsilon=0.2,
        epsilon_high=0.28, loss_type="dapo", scale_rewards="none", gradient_checkpointing=False,
    )  # fmt: skip

    traces: list[Any] = []

    def reward(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        if not traces:
            traces.extend(zip(tokenizer(prompts)["input_ids"], completion_ids, strict=True))
        return [sum(t in digits for t in ids) / max(1, len(ids)) for ids in completion_ids]

    steps, watch = _watch()
    trainer = trl.GRPOTrainer(
        model=model, args=config, reward_funcs=reward, processing_class=tokenizer, callbacks=[watch],
        train_dataset=Dataset.from_list([{"prompt": text} for text in job["texts"]]),
    )  # fmt: skip
    trainer.train()
    for step in steps:
        step["tokens"] = step["completions/mean_length"] * count
    return {"steps": steps, "traces": traces}


def _common(job: dict[str, Any], spare: str) -> dict[str, Any]:
    return {
        "output_dir": spare, "max_steps": job["steps"], "gradient_accumulation_steps": 1, "learning_rate": job["lr"],
        "lr_scheduler_type": "constant", "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0,
        "logging_steps": 1, "save_strategy": "no", "report_to": [], "bf16": False, "use_cpu": True, "seed": 0,
        "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip


def _watch() -> tuple[list[dict[str, float]], Any]:
    """(a record per step, the callback that fills it): seconds from its begin to its end, then what is logged of it."""
    from transformers import TrainerCallback

    steps: list[dict[str, float]] = []

    class Watch(TrainerCallback):
        begun = (0.0, 0.0)

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = now()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps.append(since(self.begun))

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            if "loss" in logs:
                steps[-1] |= {name: float(v) for name, v in logs.items() if isinstance(v, int | float | str)}

    return steps, Watch()


# The meters of both sides


def now() -> tuple[float, float]:
    """Seconds of the clock, and of the processor over all threads: those do not count what other programs take."""
    return time.perf_counter(), time.process_time()


def since(begun: tuple[float, float]) -> dict[str, float]:
    clock, processor = now()
    return {"seconds": clock - begun[0], "cpu": processor - begun[1]}


def baseline(model: Any) -> int:
    """Bytes resident with the weights in memory; forgets the peak so far."""
    for parameter in model.parameters():
        parameter.detach().sum()  # pages of a mapped file count when they are touched
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def most() -> int:
    """Most bytes resident since `baseline`: ru_maxrss, without what the parent process had."""
    return _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key + ":"))


if __name__ == "__main__":
    main()
