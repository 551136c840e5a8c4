"""SandboxFusion's POST /run_code (bytedance/SandboxFusion, docs/docs/docs/api) over our sandbox, for verl and whoever speaks it.

    app(sandbox) -> FastAPI      /run_code, /v1/ping

Every request runs in a fresh process of a proven sandbox: unlike the original, no network, output drained while it runs, the
whole process tree killed. `memory_limit_MB` of -1 means 512; `compile_timeout` and `run_timeout` are seconds.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from h1r.errors import SandboxError
from h1r.verify.languages import LANGUAGES
from h1r.verify.sandbox import Limits, Result, Sandbox

ALIASES = {"nodejs": "javascript", "pytest": "python", "c++": "cpp", "py": "python"}
MEMORY_MB = 512
MAX_SECONDS = 3600.0


class Request(BaseModel):
    """A request's body, with SandboxFusion's defaults."""

    code: str
    language: str
    compile_timeout: float = Field(10, gt=0, le=MAX_SECONDS)
    run_timeout: float = Field(10, gt=0, le=MAX_SECONDS)
    memory_limit_MB: int = -1
    stdin: str | None = ""
    files: dict[str, str | None] = {}
    fetch_files: list[str] = []


def app(sandbox: Sandbox) -> FastAPI:
    """The service; `sandbox.size` programs run at once, others wait."""
    service = FastAPI(title="h1r sandbox")
    threads = ThreadPoolExecutor(sandbox.size, thread_name_prefix="sandbox")

    @service.get("/v1/ping")
    async def ping() -> str:
        return "pong"

    @service.post("/run_code")
    async def run_code(request: Request) -> dict[str, Any]:
        return await asyncio.get_running_loop().run_in_executor(threads, answer, sandbox, request)

    return service


def answer(sandbox: Sandbox, request: Request) -> dict[str, Any]:
    """One request, answered: status Success, Failed or SandboxError, compile_result, run_result, files."""
    name = ALIASES.get(request.language, request.language)
    if name not in LANGUAGES:
        known = ", ".join(sorted([*LANGUAGES, *ALIASES]))
        return _reply("SandboxError", f"language {request.language!r} is not known; known: {known}")
    files = {}
    for path, content in request.files.items():
        try:
            files[path] = base64.b64encode(base64.b64decode(content or "", validate=True)).decode()
        except binascii.Error:
            return _reply("SandboxError", f"files[{path!r}] is not base64")
    language = LANGUAGES[name]
    memory = request.memory_limit_MB if request.memory_limit_MB > 0 else MEMORY_MB
    limits = Limits(timeout_s=request.run_timeout, memory_mb=memory + language.memory_mb, processes=language.processes)
    load = {
        "language": name, "code": request.code, "source": language.source, "compile": list(language.compile),
        "run": list(language.run),
        "limits": {"timeout_s": request.compile_timeout, "memory_mb": 2048, "output_mb": 64, "processes": 64, "disk_mb": 256},
    }  # fmt: skip
    message = {"mode": "stdin", "stdin": request.stdin or "", "files": files, "fetch": request.fetch_files}
    try:
        with sandbox.session() as session:
            built = session.load(load, request.compile_timeout)
            if built.status != "ok":
                return _reply("Failed", "", compiled=_told(built, compiling=True))
            ran = session.test(message, limits)
    except SandboxError as e:
        return _reply("SandboxError", str(e))
    compiled = _told(built) if language.compile else None
    good = ran.status == "ok"
    return _reply("Success" if good else "Failed", "", compiled=compiled, ran=_told(ran), files=ran.value or {})


def _told(result: Result, compiling: bool = False) -> dict[str, Any]:
    """A result in their words."""
    late = result.status == "timeout"
    code = None if late else result.code if result.code is not None else int(result.status != "ok")
    return {
        "status": "TimeLimitExceeded" if late else "Finished",
        "execution_time": result.wall,
        "return_code": _code(code) if not compiling else 1,
        "stdout": result.out,
        "stderr": result.err + ("" if result.status in ("ok", "runtime_error", "timeout") else f"\n{result.status}"),
    }


def _code(status: int | None) -> int | None:
    """An exit code from a wait status; minus the signal where one ended it."""
    if status is None or status == 0:
        return status
    return -(status & 0x7F) if status & 0x7F else (status >> 8) & 0xFF or 1


def _reply(
    status: str, message: str, compiled: Any = None, ran: Any = None, files: dict[str, str] | None = None
) -> dict[str, Any]:
    return {
        "status": status, "message": message, "compile_result": compiled, "run_result": ran, "executor_pod_name": None,
        "files": files or {},
    }  # fmt: skip
