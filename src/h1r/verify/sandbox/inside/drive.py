"""Bodies that run behind the wall: a Python candidate as a program or as a function; a binary. (rpc.py has asserts.)

Each runs in a process forked for it and never returns to the server's code: it leaves by os._exit. Results that matter
go to descriptor RESULT with the run's nonce, as JSON of exact builtin types; expected values are not here at all.
"""

from __future__ import annotations

import _sitebuiltins
import atexit
import builtins
import gc
import io
import json
import os
import re
import sys
import threading
import traceback
import types
from typing import Any, NoReturn

from . import plain

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # where this package was imported from
RESULT = 3  # the descriptor of results that matter
LARGE = re.compile(r"^[ \t]*(?:import|from)[ \t]+(numpy|scipy|sympy|pandas)\b", re.MULTILINE)
PRELUDE = (
    "from typing import *\nfrom collections import *\nfrom itertools import *\nfrom functools import *\nfrom heapq import *\n"
    "from bisect import *\nimport sys, os, re, math, random, string, collections, itertools, functools, heapq, bisect, operator\n"
    "import copy\n"
    "import datetime, statistics, json, typing\nfrom math import inf, nan, pi, gcd, sqrt, floor, ceil, comb\n"
)


def warm() -> None:
    """Import in the server what candidates import, once."""
    exec(PRELUDE, {})
    for name in (
        "decimal",
        "fractions",
        "queue",
        "time",
        "enum",
        "dataclasses",
        "array",
        "bisect",
        "contextlib",
        "textwrap",
    ):
        __import__(name)


def ready(code: str) -> None:
    """Import the large packages a candidate names, once, in the server: its tests then start with them loaded."""
    for name in LARGE.findall(code):
        if name not in sys.modules:
            try:
                __import__(name)
            except Exception:  # the candidate's own import will say why
                continue
            gc.freeze()


def streams() -> None:
    """New standard streams on descriptors 0, 1, 2, as a fresh interpreter has them."""
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "rb", closefd=False)), "utf-8", "surrogateescape")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "wb", closefd=False)), "utf-8", "surrogateescape")
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(2, "wb", closefd=False)), "utf-8", "backslashreplace", write_through=True
    )
    _originals()


def _originals() -> None:
    """sys.__stdin__ and its like, as in a fresh interpreter."""
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, f"__{name}__", getattr(sys, name))


def leave(code: int) -> NoReturn:
    """What an interpreter does on its way out: threads, exit handlers, flush."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        code = code or 120
    os._exit(code & 0xFF)


def report(error: BaseException) -> int:
    """The exit code of an uncaught exception, its traceback on stderr."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return int(error.code or 0)
        print(error.code, file=sys.stderr)
        return 1
    try:
        traceback.print_exception(error, limit=-20)
    except BaseException:
        os.write(2, type(error).__name__.encode())
    return 1


RECURSION = 50_000  # frames, as LiveCodeBench's grader sets it


def main_module(name: str = "__main__") -> dict[str, Any]:
    """A module for a candidate, in an interpreter that is as a contest's: exit and quit, deep recursion, long integers."""
    for word in ("exit", "quit"):
        setattr(builtins, word, _sitebuiltins.Quitter(word, "Ctrl-D (i.e. EOF)"))
    sys.setrecursionlimit(RECURSION)
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)
    module = types.ModuleType(name)
    module.__dict__.update(__builtins__=builtins, __file__="solution.py")
    sys.modules[name] = module
    sys.argv = ["solution.py"]
    sys.path[:] = [p for p in sys.path if p != HOME]
    return module.__dict__


def program(code: str) -> NoReturn:
    """The candidate as `python solution.py`."""
    streams()
    gc.enable()
    status = 0
    try:
        exec(compile(code, "solution.py", "exec", dont_inherit=True), main_module())
    except BaseException as e:
        status = report(e)
    leave(status)


def send(nonce: str, **message: Any) -> None:
    data = json.dumps({"nonce": nonce, **message}).encode()
    view = memoryview(data)
    while view:
        view = view[os.write(RESULT, view) :]


def load(code: str, fn: str | None) -> dict[str, Any]:
    """Run the candidate's module on top of the prelude; names it did not define itself are not its functions."""
    space = main_module("solution")
    exec(PRELUDE, space)
    given = dict(space)
    exec(compile(code, "solution.py", "exec", dont_inherit=True), space)
    if fn is not None and fn in given and space.get(fn) is given[fn]:
        del space[fn]
    return space


def find(space: dict[str, Any], fn: str) -> Any:
    """Solution().fn where there is such a class, else the function fn."""
    holder = space.get("Solution")
    if isinstance(holder, type) and hasattr(holder, fn):
        return getattr(holder(), fn)
    if callable(space.get(fn)):
        return space[fn]
    raise NameError(f"no function {fn!r} is defined")


def call(code: str, fn: str, arguments: list[Any], nonce: str) -> NoReturn:
    """One call; its value, rebuilt from plain types, to RESULT."""
    encoder, dumps, write = plain.Encoder, json.dumps, os.write
    streams()
    status = 0
    try:
        value = find(load(code, fn), fn)(*arguments)
        data = memoryview(dumps({"nonce": nonce, "value": encoder(tuples=False).encode(value)}).encode())
        while data:
            data = data[write(RESULT, data) :]
    except plain.TooLarge:
        send(nonce, error="too_large")
    except BaseException as e:
        status = report(e) or 1
    leave(status)


def execute(argv: list[str], environment: dict[str, str]) -> NoReturn:
    """Become another program."""
    try:
        os.execve(argv[0], argv, environment)
    except OSError as e:
        os.write(2, str(e).encode())
        os._exit(127)
