"""`h1r serve MODEL`: an OpenAI-compatible server and its page."""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import typer

from h1r.errors import ConfigError

SEQUENCES = 256  # what EngineConfig decodes at once; its room is not imported for a --help


def serve(
    model: str = typer.Argument("", help="A checkpoint folder or Hub id; with --backend vllm the model's name there."),
    host: str = typer.Option("127.0.0.1", help="Other addresses need --api-key-file."),
    port: int = typer.Option(8000, min=0, max=65535),
    name: str | None = typer.Option(None, "--served-model-name", help="Its name in the API; default: its folder's."),
    max_model_len: int | None = typer.Option(None, help="Longest context in tokens; default: the checkpoint's."),
    max_num_seqs: int | None = typer.Option(None, help="Sequences decoded at once."),
    memory_gib: float | None = typer.Option(None, help="Memory for K/V and states; default: what is free."),
    dtype: str = typer.Option("auto", help="Weights: auto, float32, bfloat16, int8; int4 on a CPU, fp8 on a GPU."),
    kv_cache_dtype: str = typer.Option("auto", help="Keys and values: auto (the model's), fp8 on a GPU."),
    state_dtype: str = typer.Option("float32", help="SSM states: float32, or bfloat16, which halves them."),
    state_every: int = typer.Option(
        1, min=1, max=16, help="Tokens after which a GPU's step writes a state; 16: fewer bytes."
    ),
    backend: str = typer.Option("own", help="own, or vllm: a proxy before the server at --url."),
    url: str = typer.Option("", help="The server behind, with --backend vllm."),
    url_key_file: str | None = typer.Option(None, help="The key that server wants."),
    replicas: int = typer.Option(1, min=1, help="Copies of the model behind one address (Ray)."),
    cpus: float = typer.Option(1, help="CPUs a replica reserves."),
    gpus: float = typer.Option(0, help="GPUs a replica reserves."),
    api_key_file: str | None = typer.Option(None, help="A file with one key per line."),
    admin_key_file: str | None = typer.Option(None, help="Keys that may swap weights."),
    cors_origin: list[str] = typer.Option([], help="Origins that browsers may call from (repeatable)."),
    max_requests: int = typer.Option(1024, help="Requests at work or waiting before a 429."),
    max_running: int | None = typer.Option(None, help="Requests at work; further ones wait. Default: --max-num-seqs."),
    max_requests_per_key: int | None = typer.Option(None, help="The same as --max-requests, of one key."),
    max_wait: float = typer.Option(600, help="Seconds a request waits for its turn before a 503."),
    max_seconds: float | None = typer.Option(None, help="Longest life of a request in seconds."),
    max_body_mib: float = typer.Option(16, help="Larger bodies get a 413."),
    drain: int = typer.Option(30, help="Seconds answers in flight have left after SIGTERM."),
    log_file: str | None = typer.Option(None, help="A JSON line per request, without prompts."),
    log_prompts: bool = typer.Option(False, help="With prompts."),
) -> None:
    """Serve /v1/chat/completions, /v1/completions, /v1/deepthink and a page at /."""
    from h1r.serve import Limits, Record, bind, check_binding, listen, read_keys

    keys, admin = (read_keys(file) if file else () for file in (api_key_file, admin_key_file))
    check_binding(host, keys)
    _check(backend, url, log_file, log_prompts)
    limits = Limits(
        in_flight=max_requests, at_work=max_running, per_key=max_requests_per_key, wait=max_wait, seconds=max_seconds,
        body=int(max_body_mib * 2**20),
    )  # fmt: skip
    record = Record(log_file, log_prompts) if log_file else None
    bound = None if replicas > 1 else bind(host, port)  # before anything is loaded
    guards: dict[str, Any] = {"api_keys": keys, "cors_origins": cors_origin, "limits": limits, "record": record}
    if backend == "vllm":
        made = _proxy(model or name, url, url_key_file, guards)
        called = made.state.service.model
    else:
        types = dtype, kv_cache_dtype, state_dtype, state_every
        options = _options(model, max_model_len, max_num_seqs, memory_gib, types)
        called = name or Path(model).name
        guards["admin_keys"] = admin
        if replicas > 1:
            _replicas(options, called, (host, port), replicas, {"cpus": cpus, "gpus": gpus}, drain, guards)
            return
        made = build(options, called, **guards)
    _announce(called, host, port)
    listen(made, host, port, keys=keys, drain=drain, bound=bound)


def _check(backend: str, url: str, log_file: str | None, log_prompts: bool) -> None:
    """Options that do not go together."""
    if log_prompts and not log_file:
        raise ConfigError("--log-prompts: give --log-file too")
    if backend not in ("own", "vllm") or (backend == "vllm") != bool(url):
        raise ConfigError(f"--backend {backend}: own, or vllm together with --url")


def _options(
    model: str,
    max_model_len: int | None,
    max_num_seqs: int | None,
    memory_gib: float | None,
    types: tuple[str, str, str, int],
) -> dict[str, Any]:
    """Of wire.load_llm. types: of weights, keys and values, states; tokens between two writings of a state."""
    if not model:
        raise ConfigError("which model? give a checkpoint folder or a Hub id")
    if max_model_len is not None and max_model_len < 2:
        raise ConfigError(f"--max-model-len {max_model_len}: a context needs two tokens or more")
    given = {
        "context": max_model_len,
        "sequences": max_num_seqs,
        "memory_bytes": int(memory_gib * 2**30) if memory_gib else None,
    }
    named = dict(zip(("dtype", "kv_dtype", "state_dtype", "state_every"), types, strict=True))
    return {"path": model} | named | {k: v for k, v in given.items() if v is not None}


def build(options: dict[str, Any], called: str, **guards: Any) -> Any:
    """The app over a model loaded here; `options` are those of wire.load_llm."""
    from h1r.cli import wire
    from h1r.serve import app

    llm = wire.load_llm(**options)
    return app(
        llm, called, answer_of=wire.answer_of, same=wire.same, defaults=llm.recommended(),
        deepconf=wire.deepconf_of(llm.path), **guards,
    )  # fmt: skip


def _proxy(model: str | None, url: str, key_file: str | None, guards: dict[str, Any]) -> Any:
    from h1r.cli import wire
    from h1r.serve import read_keys
    from h1r.serve.proxy import proxy

    key = read_keys(key_file)[0] if key_file else None
    return proxy(url, model, key=key, answer_of=wire.answer_of, same=wire.same, **guards)


def _replicas(
    options: dict[str, Any], called: str, address: tuple[str, int], count: int, resources: dict[str, float], drain: int,
    guards: dict[str, Any],
) -> None:  # fmt: skip
    """Copies behind one address until SIGTERM. Limits and log are at the front; keys there and at every copy."""
    from h1r import scale
    from h1r.serve import Gate, Limits, Turns

    limits = guards["limits"]
    if limits.at_work is None:
        limits = replace(limits, at_work=count * options.get("sequences", SEQUENCES))
    turns = Turns(limits)
    loose = Limits(in_flight=1 << 30, wait=1e9, stall=limits.stall, body=limits.body)
    factory = partial(build, options, called, **guards | {"limits": loose, "record": None})

    def front(fleet: Any) -> Any:
        return Gate(fleet, guards["api_keys"], guards["admin_keys"], turns, guards["record"])

    over = threading.Event()
    host, port = address
    everywhere = ("/admin/weights",)
    with (
        scale.cluster(cpus=max(os.cpu_count() or 1, round(count * resources["cpus"]))),
        scale.replicas(
            factory, count, host=host, port=port, front=front, drain=drain, everywhere=everywhere, **resources
        ),
    ):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: over.set())
        _announce(f"{called} x {count}", host, port)
        over.wait()
        turns.draining = True


def _announce(called: str, host: str, port: int) -> None:
    print(f"h1r: {called} at http://{host}:{port}/ (page), http://{host}:{port}/v1 (API)", file=sys.stderr, flush=True)
