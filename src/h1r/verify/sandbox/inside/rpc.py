"""Asserts with the candidate behind a wall: the test text runs in one process, the candidate in another, joined by a link.

In-process asserts cannot resist a candidate: an object that equals everything, a patched builtin, an exit. Here every value
crosses as JSON of builtin types. What a call does to a list, dictionary or set it was given comes back with its result; a
function the test passes is called at the test's end; what has no plain form is held where it is, and is a `Remote` here.
"""

from __future__ import annotations

import builtins
import json
import os
import types
from collections.abc import Callable
from typing import Any, NoReturn

from . import drive, plain

LINK_IN, LINK_OUT = 4, 5
MAX_LINE = 64 << 20


class Gone(Exception):
    """The other process ended, or speaks nonsense."""


class Link:
    """One end: lines of JSON out and in, and the objects of this end that the other knows by number."""

    def __init__(self) -> None:
        self.reader, self.writer = os.fdopen(LINK_IN, "rb"), os.fdopen(LINK_OUT, "wb")
        self.kept: list[Any] = []

    def send(self, **message: Any) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")
        self.writer.flush()

    def receive(self) -> dict[str, Any]:
        line = self.reader.readline(MAX_LINE)
        if not line.endswith(b"\n"):
            raise Gone
        return dict(json.loads(line))

    def keep(self, x: Any) -> int:
        self.kept.append(x)
        return len(self.kept) - 1


# ---- the candidate's end


def serve(code: str) -> NoReturn:
    """Run the candidate's module, tell its names, then answer calls until the tester is done."""
    link = Link()
    drive.streams()

    def encode(x: Any) -> Any:
        return plain.Encoder(lambda y: {"t": "ref", "v": link.keep(y)}).encode(x)

    try:
        space = drive.load(code, None)
    except BaseException as e:
        status = drive.report(e) or 1
        link.send(failed=type(e).__name__)
        drive.leave(status)
    names, values = [], {}
    for name, value in list(space.items()):
        if name.startswith("__") or isinstance(value, types.ModuleType) or value is getattr(builtins, name, None):
            continue
        if callable(value):
            names.append(name)
        elif type(value) in (int, float, str, list, dict, tuple, bool):
            values[name] = encode(value)
    link.send(names=names, values=values)
    while True:
        try:
            request = link.receive()
        except Gone:
            drive.leave(0)
        try:
            link.send(**_answer(link, space, request, encode))
        except BaseException as e:
            if isinstance(e, SystemExit | KeyboardInterrupt | GeneratorExit):
                drive.leave(drive.report(e) or 1)
            link.send(**_described(e))


def _answer(link: Link, space: dict[str, Any], request: dict[str, Any], encode: Callable[[Any], Any]) -> dict[str, Any]:
    """{"value", "changed"}: the result, and those arguments (by position) that the call has changed."""

    def known(tag: str, v: Any) -> Any:
        return link.kept[v] if tag == "ref" else lent(v)

    def lent(number: int) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            link.send(callback=number, args=[encode(a) for a in arguments])
            reply = link.receive()
            if "error" in reply:
                raise _exception(reply)
            return plain.decode(reply["value"], known)

        return call

    arguments = [plain.decode(a, known) for a in request["args"]]
    named = {k: plain.decode(v, known) for k, v in request["named"].items()}
    target = space[request["name"]] if "name" in request else link.kept[request["ref"]]
    value = encode(_act(target, request["op"], arguments, named))
    changed = {}
    for i, a in enumerate(arguments):
        if type(a) in (list, dict, set) and (after := encode(a)) != request["args"][i]:
            changed[i] = after
    return {"value": value, "changed": changed}


def _act(target: Any, op: str, arguments: list[Any], named: dict[str, Any]) -> Any:
    if op == "call":
        return target(*arguments, **named)
    if op == "get":
        return getattr(target, arguments[0])
    if op == "set":
        return setattr(target, arguments[0], arguments[1])
    if op == "iter":
        return [x for _, x in zip(range(100_000), target)]
    if op == "item":
        return target[arguments[0]]
    return len(target)


def _described(e: BaseException) -> dict[str, str]:
    """An exception by the builtin it is or derives from, and its message."""
    try:
        message = str(e)[:500]
    except BaseException:
        message = ""
    kind = next((t.__name__ for t in type(e).__mro__ if t.__module__ == "builtins"), "Exception")
    return {"error": kind, "message": message}


def _exception(message: dict[str, Any]) -> Exception:
    kind = getattr(builtins, str(message["error"]), Exception)
    good = isinstance(kind, type) and issubclass(kind, Exception)
    return (kind if good else Exception)(message.get("message", ""))


# ---- the tester's end


def tester(text: str, entry: str | None, nonce: str) -> NoReturn:
    """The assert side: the test text with every name of the candidate bound to a remote call."""
    link = Link()
    drive.streams()
    remote = stand_in(link)
    try:
        first = link.receive()
        if "names" not in first:
            raise Gone
        space = drive.main_module("tests")
        exec(drive.PRELUDE, space)
        space.update({name: plain.decode(v) for name, v in first["values"].items()})
        space.update(
            {name: remote({"name": name}) for name in first["names"] if not hasattr(builtins, name) or name == entry}
        )
        if entry is not None:
            space.setdefault("candidate", space.get(entry))
        exec(compile(text, "tests.py", "exec", dont_inherit=True), space)
        drive.send(nonce, ok=True)
    except Gone:
        drive.send(nonce, gone=True)
    except AssertionError as e:
        drive.send(nonce, failed=f"assert: {str(e)[:300]}")
    except BaseException as e:
        drive.send(nonce, error=f"{type(e).__name__}: {str(e)[:300]}")
    os._exit(0)


def stand_in(link: Link) -> Any:
    """A class whose instances stand for the candidate's things at the other end of the link."""

    def foreign(x: Any) -> Any:
        if type(x) is Remote:
            return {"t": "ref", "v": object.__getattribute__(x, "_ref").get("ref", -1)}
        if callable(x):
            return {"t": "lent", "v": link.keep(x)}
        raise plain.Foreign(f"{type(x).__name__} cannot be passed to a candidate")

    def encode(x: Any) -> Any:
        return plain.Encoder(foreign).encode(x)

    def held(tag: str, v: Any) -> Any:
        return Remote({"ref": v})

    def ask(op: str, remote: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None) -> Any:
        target = object.__getattribute__(remote, "_ref")
        link.send(
            **target, op=op, args=[encode(a) for a in arguments], named={k: encode(v) for k, v in (named or {}).items()}
        )
        while "callback" in (message := link.receive()):
            try:
                value = link.kept[int(message["callback"])](*[plain.decode(a, held) for a in message["args"]])
                link.send(value=encode(value))
            except Exception as e:
                link.send(**_described(e))
        if "error" in message:
            raise _exception(message)
        for index, content in dict(message.get("changed") or {}).items():
            _become(arguments[int(index)], plain.decode(content, held))
        return plain.decode(message["value"], held)

    class Remote:
        """Something of the candidate's that has no plain form; equal to itself alone."""

        def __init__(self, ref: dict[str, Any]) -> None:
            object.__setattr__(self, "_ref", ref)

        def __call__(self, *arguments: Any, **named: Any) -> Any:
            return ask("call", self, arguments, named)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return ask("get", self, (name,))

        def __setattr__(self, name: str, value: Any) -> None:
            ask("set", self, (name, value))

        def __iter__(self) -> Any:
            return iter(ask("iter", self))

        def __getitem__(self, key: Any) -> Any:
            return ask("item", self, (key,))

        def __len__(self) -> int:
            return int(ask("len", self))

    return Remote


def _become(mine: Any, theirs: Any) -> None:
    """What a call did to a list, dictionary or set that was given to it."""
    if type(mine) is list and type(theirs) is list:
        mine[:] = theirs
    elif type(mine) in (dict, set) and type(theirs) is type(mine):
        mine.clear()
        mine.update(theirs)
