"""One thread per test process: the suite runs two of them on two cores. Without a GPU, Triton interprets its kernels."""

import os
import signal

import torch

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell's background job, and so would be all that tests interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton
