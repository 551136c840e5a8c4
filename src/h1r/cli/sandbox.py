"""`h1r sandbox`: our sandbox as a SandboxFusion server."""

from __future__ import annotations

import sys
from contextlib import suppress

import typer


def sandbox(
    host: str = typer.Option("127.0.0.1", help="Who reaches the port runs programs here: keep it private."),
    port: int = typer.Option(8080),
    backend: str | None = typer.Option(
        None, help="bwrap, native, landlock, runsc, docker:IMAGE; default: the strongest."
    ),
    workers: int | None = typer.Option(None, help="Programs at once; default: one per processor."),
) -> None:
    """Serve SandboxFusion's POST /run_code over the sandbox that proves itself here."""
    import uvicorn

    from h1r.serve import bind
    from h1r.serve.sandbox import app
    from h1r.verify import sandbox as room

    bound = bind(host, port)
    box = room.open(backend, size=workers)
    print(f"h1r sandbox: {box.backend} ({box.level}) at http://{host}:{port}/run_code", file=sys.stderr, flush=True)
    with bound, suppress(KeyboardInterrupt):
        uvicorn.Server(uvicorn.Config(app(box), log_level="warning")).run(sockets=[bound])
