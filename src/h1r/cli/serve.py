"""`h1r serve MODEL`: an OpenAI-compatible server and its page."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from h1r.errors import ConfigError


def serve(
    model: str = typer.Argument(..., help="A checkpoint folder or Hub id."),
    host: str = typer.Option("127.0.0.1", help="Other addresses need --api-key-file."),
    port: int = typer.Option(8000),
    name: str | None = typer.Option(
        None, "--served-model-name", help="The model's name in the API; default: its folder's."
    ),
    max_model_len: int | None = typer.Option(None, help="Longest context in tokens; default: the checkpoint's."),
    max_num_seqs: int | None = typer.Option(None, help="Sequences decoded at once."),
    memory_gib: float | None = typer.Option(None, help="Memory for K/V and states; default: what is free."),
    dtype: str = typer.Option("auto", help="Weights: auto, float32, bfloat16, int8, int4."),
    api_key_file: str | None = typer.Option(None, help="A file with one key per line."),
    admin_key_file: str | None = typer.Option(None, help="Keys that may swap weights."),
    cors_origin: list[str] = typer.Option([], help="Origins that browsers may call from (repeatable)."),
    max_requests: int = typer.Option(1024, help="Requests at work or waiting before a 429."),
) -> None:
    """Serve /v1/chat/completions, /v1/completions, /v1/deepthink and a page at /."""
    from h1r.cli import wire
    from h1r.serve import app, check_binding, listen, read_keys

    keys = read_keys(api_key_file) if api_key_file else ()
    admin = read_keys(admin_key_file) if admin_key_file else ()
    check_binding(host, keys)
    if max_model_len is not None and max_model_len < 2:
        raise ConfigError(f"--max-model-len {max_model_len}: a context needs two tokens or more")
    options = {
        "context": max_model_len,
        "sequences": max_num_seqs,
        "memory_bytes": int(memory_gib * 2**30) if memory_gib else None,
    }
    llm = wire.load_llm(model, dtype=dtype, **{k: v for k, v in options.items() if v is not None})
    called = name or Path(model).name
    made = app(
        llm, called, answer_of=wire.answer_of, same=wire.same, deepconf=wire.deepconf_of(llm.path),
        api_keys=keys, admin_keys=admin, defaults=llm.recommended(), in_flight=max_requests, cors_origins=cors_origin,
    )  # fmt: skip
    print(f"h1r: {called} at http://{host}:{port}/ (page), http://{host}:{port}/v1 (API)", file=sys.stderr, flush=True)
    listen(made, host, port, keys=keys)
