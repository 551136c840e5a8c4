"""Training: rows are packed without padding, scored as one weighted sum, and turned into better weights, resumably.

pack(rows, length)                       -> [PackedBatch]
step(model, optimizer, batches, loss)    -> metrics
sft.run(model, rows, config, run_dir)    -> yields metrics
LocalTrainer(model, config)              the protocol types.Trainer, in this process
export(model, path, tokenizer)           a Hugging Face folder
lora.attach(model, LoraConfig(rank=16))  adapters; merge, save_adapter, load_adapter
"""

from h1r.train import checkpoint, lora, sft
from h1r.train.export import export
from h1r.train.lora import LoraConfig
from h1r.train.loss import LOSSES, Policy
from h1r.train.optim import OptimConfig, adamw, learning_rate
from h1r.train.pack import PackedBatch, pack
from h1r.train.sft import SftConfig
from h1r.train.step import Metrics, forward_backward, step, update
from h1r.train.trainer import LocalTrainer, TrainerConfig

__all__ = [
    "LOSSES",
    "LocalTrainer",
    "LoraConfig",
    "Metrics",
    "OptimConfig",
    "PackedBatch",
    "Policy",
    "SftConfig",
    "TrainerConfig",
    "adamw",
    "checkpoint",
    "export",
    "forward_backward",
    "learning_rate",
    "lora",
    "pack",
    "sft",
    "step",
    "update",
]
