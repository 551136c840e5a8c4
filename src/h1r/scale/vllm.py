"""Starting vLLM as a server of its own: the command line, the process, the wait until it answers.

vLLM lives in its own environment, because it pins torch; we talk HTTP to it through an Endpoint. The module form of the
command is used: the `vllm` script of CPU builds looks up a distribution name that they do not have.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from h1r.errors import ConfigError, WorkerLost
from h1r.scale import keeper


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """How to run one vLLM server. python: the interpreter of vLLM's environment; extra: more arguments, as written.

    learning        for reinforcement learning: log-probabilities of the distribution that was sampled, and routes that swap
                    weights (its development mode: bind it to an address that only the cluster reaches)
    prefix_caching  as vLLM does by itself; vLLM 0.32 on a CPU dies with it on a hybrid's prompts of more than 128 tokens
    """

    model: str
    name: str
    python: str = "python3"
    host: str = "127.0.0.1"
    port: int = 8000
    dtype: str = "bfloat16"
    max_model_len: int | None = None
    tensor_parallel: int = 1
    data_parallel: int = 1
    max_logprobs: int = 20
    seed: int = 0
    eager: bool = False
    learning: bool = False
    prefix_caching: bool = True
    reasoning_parser: str = "deepseek_r1"
    tools: bool = True
    extra: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"port={self.port}: must be 1 to 65535")
        if self.tensor_parallel < 1 or self.data_parallel < 1:
            raise ConfigError("tensor_parallel and data_parallel must be 1 or more")

    @property
    def url(self) -> str:
        """Where an Endpoint finds it."""
        return f"http://{self.host}:{self.port}"


def command(server: Server) -> list[str]:
    """The argument vector that starts it, with what Falcon-H1R's model card asks for."""
    out = [server.python, "-m", "vllm.entrypoints.openai.api_server", "--model", server.model]
    out += ["--served-model-name", server.name, "--host", server.host, "--port", str(server.port)]
    out += ["--dtype", server.dtype, "--seed", str(server.seed), "--max-logprobs", str(server.max_logprobs)]
    out += ["--tensor-parallel-size", str(server.tensor_parallel), "--data-parallel-size", str(server.data_parallel)]
    if server.max_model_len:
        out += ["--max-model-len", str(server.max_model_len)]
    if server.learning:
        out += ["--logprobs-mode", "processed_logprobs"]
    if not server.prefix_caching:
        out.append("--no-enable-prefix-caching")
    if server.eager:
        out.append("--enforce-eager")
    if server.reasoning_parser:
        out += ["--reasoning-parser", server.reasoning_parser]
    if server.tools:
        out += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    return out + list(server.extra)


@contextmanager
def launch(
    server: Server, log: str | Path, patience: float = 600.0, arguments: Sequence[str] | None = None
) -> Iterator[str]:
    """Run a server's command (or `arguments`) for the time of the block; yields its address once /health answers.

    Nothing of it outlives this process, kill -9 included (see keeper). Raises WorkerLost when the process ends first or stays
    silent for `patience` seconds, ConfigError when there is no such program. Its output goes to `log`.
    """
    vector = list(arguments) if arguments is not None else command(server)
    if shutil.which(vector[0]) is None:
        raise ConfigError(f"{vector[0]}: no such program here; give vLLM's interpreter")
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"} | (
        {"VLLM_SERVER_DEV_MODE": "1"} if server.learning else {}
    )
    kept = [sys.executable, str(Path(keeper.__file__)), *vector]
    with open(log, "ab") as out:
        process = subprocess.Popen(
            kept, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT,
            env={**os.environ, **quiet, **server.environment},
        )  # fmt: skip
    try:
        _wait(process, server.url, patience, Path(log))
        yield server.url
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=keeper.GRACE + 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, patience: float, log: Path) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        code = process.poll()
        if code is not None:
            raise WorkerLost(f"the server ended with code {code} before it answered; see {log}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise WorkerLost(f"the server was silent for {patience:.0f} s; see {log}")
