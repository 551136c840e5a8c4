"""A Python candidate the way LiveCodeBench's grader runs it (lcb_runner/evaluation/testing_util.py, commit 28fef95e), so that
scores can stand beside published ones: all tests in one process, the program turned into a function, streams replaced by text.

What that rejects although it is right: `global` and `__name__ == "__main__"` used as a value, `from __future__`, reading
`sys.stdin.buffer` by lines, `open(0)`, writing to `sys.stdout.buffer` or to descriptor 1, `exit()`. What it accepts although it
is wrong is not reproduced: expected values are not in this process, and values leave it rebuilt from builtin types.
"""

from __future__ import annotations

import ast
import builtins
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

from . import drive, plain

HEADER = (
    "from string import *\nfrom re import *\nfrom datetime import *\nfrom collections import *\nfrom heapq import *\n"
    "from bisect import *\nfrom copy import *\nfrom math import *\nfrom random import *\nfrom statistics import *\n"
    "from itertools import *\nfrom functools import *\nfrom operator import *\nfrom io import *\nfrom sys import *\n"
    "from json import *\nfrom builtins import *\nfrom typing import *\n"
    "import string, re, datetime, collections, heapq, bisect, copy, math, random, statistics, itertools, functools\n"
    "import operator, io, sys, json\nsys.setrecursionlimit(50000)\n"
)
WITHOUT = (
    "kill", "system", "putenv", "remove", "removedirs", "rmdir", "fchdir", "setuid", "fork", "forkpty", "killpg", "rename",
    "renames", "truncate", "replace", "unlink", "fchmod", "fchown", "chmod", "chown", "chroot", "lchown", "getcwd", "chdir",
)  # fmt: skip


class Late(Exception):
    """A test's seconds are over."""


class Text:
    """Stands for sys.stdin: whole reads start over, line reads go on; its buffer knows `read` and the first line only."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.stream = io.StringIO(text)
        self.lines = iter(text.split("\n"))
        self.buffer = types.SimpleNamespace(
            read=lambda *_: text.encode(), readline=lambda *_: text.encode().split(b"\n")[0] + b"\n"
        )

    def read(self, *_: Any) -> str:
        return self.text

    def readline(self, *_: Any) -> str:
        return next(self.lines)

    def readlines(self, *_: Any) -> list[str]:
        return self.text.split("\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def run(code: str, fn: str | None, tests: list[Any], seconds: float, nonce: str) -> NoReturn:
    """Every test in order, a result line each. fn: the method that is called with a list of arguments; None: text to stdin."""
    report, late = _reporter(nonce), max(1, round(seconds))
    drive.streams()
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(50_000)
    _disarm()
    signal.signal(signal.SIGALRM, _alarm)
    try:
        signal.alarm(late)
        target = _function(code, fn) if fn is not None else _program(code)
        signal.alarm(0)
    except Late:
        report(0, status="timeout")
        os._exit(0)
    except BaseException as e:
        signal.alarm(0)
        report(0, status="compile_error", err=f"{type(e).__name__}: {str(e)[:200]}")
        os._exit(0)
    for number, given in enumerate(tests):
        try:
            signal.alarm(late)
            if fn is not None:
                value = target(*given)
                signal.alarm(0)
                value = list(value) if isinstance(value, tuple) else value
                report(number, status="ok", value=plain.Encoder().encode(value))
            else:
                out = _captured(target, given)
                signal.alarm(0)
                report(number, status="ok", out=out)
        except Late:
            report(number, status="timeout")
            break
        except plain.TooLarge:
            report(number, status="output_limit")
            break
        except BaseException as e:
            signal.alarm(0)
            report(number, status="runtime_error", err=f"{type(e).__name__}: {str(e)[:200]}")
            break
    os._exit(0)


def _reporter(nonce: str) -> Callable[..., None]:
    dumps, write = json.dumps, os.write

    def report(number: int, **message: Any) -> None:
        data = memoryview(dumps({"nonce": nonce, "test": number, **message}).encode() + b"\n")
        while data:
            data = data[write(drive.RESULT, data) :]

    return report


def _alarm(*_: Any) -> None:
    raise Late


def _disarm() -> None:
    """The names the published guard takes away."""
    for word in ("exit", "quit", "help"):
        setattr(builtins, word, None)
    for name in WITHOUT:
        setattr(os, name, None)
    for name in ("rmtree", "move", "chown"):
        setattr(shutil, name, None)
    setattr(subprocess, "Popen", None)  # noqa: B010
    for name in ("ipdb", "joblib", "resource", "psutil", "tkinter"):
        sys.modules[name] = None  # type: ignore[assignment]


def _module(code: str) -> dict[str, Any]:
    module = types.ModuleType("tmp_sol")
    sys.argv = ["solution.py"]
    exec(compile(code, "solution.py", "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def _function(code: str, fn: str) -> Any:
    """The method of a Solution where the text speaks of one, else the module's function: a name of the header counts."""
    space = _module(HEADER + "\n" + code)
    return getattr(space["Solution"](), fn) if "class Solution" in code else space[fn]


def _program(code: str) -> Any:
    """The whole program as one function below its imports; where that cannot be read, the program itself."""
    try:
        tree = ast.parse(code)
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.If) and ast.unparse(last.test).strip() == "__name__ == '__main__'":
            tree.body[-1:] = last.body
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        others = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
        wrapped = ast.parse("def wrapped_function(): pass").body[0]
        assert isinstance(wrapped, ast.FunctionDef)
        wrapped.body = others or wrapped.body
        code = "\n".join([HEADER, *map(ast.unparse, imports), ast.unparse(ast.fix_missing_locations(wrapped))])
    except (SyntaxError, ValueError, RecursionError):
        pass
    return _module(code)["wrapped_function"]


def _captured(target: Callable[[], Any], text: str) -> str:
    shown = io.StringIO()
    setattr(shown, "close", lambda: None)  # noqa: B010
    kept = sys.stdin, sys.stdout
    sys.stdin, sys.stdout = Text(text), shown
    try:
        target()
    except SystemExit:
        pass
    finally:
        sys.stdin, sys.stdout = kept
    return shown.getvalue()
