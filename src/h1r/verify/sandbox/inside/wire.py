"""Messages of the server and its files: length-prefixed JSON, result messages with their nonce, whole writes."""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

from . import jail


def called(reply: dict[str, Any], result: bytes, nonce: str) -> dict[str, Any]:
    message = parsed(result, nonce)
    if reply["status"] != "ok":
        return reply
    if message is None:
        return {**reply, "status": "runtime_error", "err": reply["err"] + "\nthe process ended without a result"}
    if "error" in message:
        return {**reply, "status": "output_limit"}
    return {**reply, "value": message["value"]}


def parsed(data: bytes, nonce: str) -> dict[str, Any] | None:
    """The result message, if it is one: JSON with this run's nonce."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and message.get("nonce") == nonce else None


def limits(raw: dict[str, Any]) -> jail.Limits:
    megabyte = 1 << 20
    return jail.Limits(
        float(raw["timeout_s"]), int(raw["memory_mb"]) * megabyte, int(raw["output_mb"] * megabyte), int(raw["processes"]),
        int(raw["disk_mb"]) * megabyte,
    )  # fmt: skip


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write(path: str, data: bytes) -> None:
    if os.path.exists(path):
        os.unlink(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
    write_all(fd, data)
    os.fchmod(fd, 0o755)
    os.close(fd)


class Pipes:
    """Two pipes with the manners of a socket."""

    def __init__(self, out_of: int, into: int) -> None:
        self.out_of, self.into = out_of, into

    def recv(self, count: int) -> bytes:
        return os.read(self.out_of, count)

    def sendall(self, data: bytes) -> None:
        write_all(self.into, data)


def receive(channel: socket.socket | Pipes) -> dict[str, Any] | None:
    head = _exactly(channel, 4)
    if head is None:
        return None
    body = _exactly(channel, struct.unpack("!I", head)[0])
    return None if body is None else json.loads(body)


def _exactly(channel: socket.socket | Pipes, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        piece = channel.recv(min(1 << 20, count - len(data)))
        if not piece:
            return None
        data += piece
    return bytes(data)


def send(channel: socket.socket | Pipes, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    channel.sendall(struct.pack("!I", len(data)) + data)
