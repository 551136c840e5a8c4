"""Programs run by a SandboxFusion server (POST /run_code), ours (`h1r sandbox`) or ByteDance's: level "remote".

    sandbox = verify.sandbox.open("http://127.0.0.1:8080")

What isolates there is for that server to say. Programs on stdin run as they are. Functions and asserts run in one process with
the candidate (inside/remote.py): values leave it rebuilt from builtin types behind a random mark, but a candidate that sets out
to deceive the asserts beside it can. Whoever trains on rewards uses a local backend.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx

from h1r.errors import SandboxError
from h1r.verify.sandbox.session import Limits, Result

INSIDE = Path(__file__).parent / "inside"
SHIPPED = ("__init__.py", "drive.py", "plain.py", "remote.py")
GRACE = 30.0  # seconds beyond compiling and running before the server counts as hung
NAMES = {
    "cpp": "cpp",
    "c": "c",
    "python": "python",
    "rust": "rust",
    "bash": "bash",
    "javascript": "nodejs",
    "perl": "perl",
}


class Fusion:
    """A server by its URL. Safe to use from many threads; `size` requests at once."""

    level = "remote"

    def __init__(self, url: str, size: int = 8) -> None:
        self.backend = self.url = url.rstrip("/")
        self.size = size
        self.client = httpx.Client(timeout=None, limits=httpx.Limits(max_connections=size))
        self.room = threading.Semaphore(size)

    @contextmanager
    def session(self) -> Iterator[FusionSession]:
        with self.room:
            yield FusionSession(self)

    def run(self, body: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """One POST /run_code. Raises SandboxError when the server fails or says that it did."""
        try:
            reply = self.client.post(f"{self.url}/run_code", json=dict(body), timeout=seconds + GRACE)
            reply.raise_for_status()
            told: dict[str, Any] = reply.json()
        except (httpx.HTTPError, ValueError) as e:
            raise SandboxError(f"sandbox server {self.url}: {type(e).__name__} {e}; is it running?") from None
        if told.get("status") == "SandboxError":
            raise SandboxError(f"sandbox server {self.url}: {told.get('message', '')[:200]}")
        return told

    def close(self) -> None:
        self.client.close()


class FusionSession:
    """One candidate on that server; what `code.run` asks of a session."""

    def __init__(self, fusion: Fusion) -> None:
        self.fusion = fusion
        self.code = self.language = ""
        self.compile_s = 0.0

    def load(self, message: Mapping[str, Any], timeout: float) -> Result:
        self.code, self.language, self.compile_s = message["code"], message["language"], timeout
        return Result("ok", backend=self.fusion.backend)

    def test(self, message: Mapping[str, Any], limits: Limits) -> Result:
        nonce, files, code, stdin = secrets.token_hex(16), {}, self.code, str(message.get("stdin", ""))
        if message["mode"] != "stdin":
            files = {f"h1r_inside/{name}": _base64((INSIDE / name).read_bytes()) for name in SHIPPED}
            job = {k: v for k, v in message.items() if k in ("mode", "fn", "args", "text", "tests", "seconds")}
            stdin = json.dumps({**job, "code": self.code, "nonce": nonce}) + "\n"
            code = "import sys\nsys.path.insert(0, '.')\nfrom h1r_inside import remote\nremote.main()\n"
        body = {
            "code": code, "language": NAMES.get(self.language, self.language), "stdin": stdin, "files": files,
            "compile_timeout": self.compile_s, "run_timeout": limits.timeout_s, "memory_limit_MB": limits.memory_mb,
        }  # fmt: skip
        told = self.fusion.run(body, limits.timeout_s + self.compile_s)
        built = told.get("compile_result") or {}
        if built.get("return_code"):
            return Result("compile_error", err=str(built.get("stderr") or ""), backend=self.fusion.backend)
        return self._read(told.get("run_result") or {}, nonce, message["mode"], limits)

    def _read(self, ran: Mapping[str, Any], nonce: str, mode: str, limits: Limits) -> Result:
        out, err, code = str(ran.get("stdout") or ""), str(ran.get("stderr") or ""), ran.get("return_code")
        wall = float(ran.get("execution_time") or 0.0)
        if ran.get("status") == "TimeLimitExceeded":
            return Result("timeout", out, err, wall=wall, backend=self.fusion.backend)
        if len(out) > limits.output_mb * 2**20:
            return Result("output_limit", out, err, wall=wall, backend=self.fusion.backend)
        status = "memory" if "MemoryError" in err.rsplit("\n", 2)[-1] else "runtime_error"
        status = "ok" if code == 0 and ran.get("status") == "Finished" else status
        value = None
        if mode != "stdin":
            _, mark, tail = out.rpartition(nonce)
            try:
                message = json.loads(tail) if mark else {}
            except ValueError:
                message = {}
            value = message.get("value")
            status = str(message.get("status") or ("runtime_error" if status == "ok" else status))
            err = str(message.get("err") or err)
        return Result(status, out, err, value, wall=wall, code=code, backend=self.fusion.backend)

    @property
    def alive(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing of it stays."""


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
