"""A function call or asserts in one process with the candidate, where only stdin, stdout and files reach the machine.

The job is the first line of stdin; the result is the last thing on stdout, behind the job's mark.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn

from . import drive, plain


def main() -> NoReturn:
    """Do the job on stdin."""
    job = json.loads(sys.stdin.readline())
    dumps, write, nonce, encoder = json.dumps, os.write, job.pop("nonce"), plain.Encoder(tuples=False)

    def finish(**message: Any) -> NoReturn:
        sys.stdout.flush()
        data = memoryview((nonce + dumps(message)).encode())
        while data:
            data = data[write(1, data) :]
        os._exit(0)

    try:
        if job["mode"] == "call":
            value = drive.find(drive.load(job["code"], job["fn"]), job["fn"])(*job["args"])
            finish(status="ok", value=encoder.encode(value))
        space = drive.load(job["code"], None)
        if job.get("fn"):
            space.setdefault("candidate", space.get(job["fn"]))
        exec(compile(job["text"], "tests.py", "exec", dont_inherit=True), space)
        finish(status="ok")
    except AssertionError as e:
        finish(status="fail", err=f"assert: {str(e)[:300]}")
    except plain.TooLarge:
        finish(status="output_limit")
    except MemoryError:
        finish(status="memory")
    except BaseException as e:
        finish(status="runtime_error", err=f"{type(e).__name__}: {str(e)[:300]}")
