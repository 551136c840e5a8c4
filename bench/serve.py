"""Our server beside llama.cpp's: the same weights, the same requests, turns taken in one run.

    python bench/serve.py --model FOLDER --llama BIN [--concurrency 1,8,64] [--rounds 3] [--json FILE]

FOLDER is a Hugging Face checkpoint with its gguf beside it (FOLDER.bf16.gguf), BIN the folder of llama-server; without
--model a random checkpoint of the Tiny-90M shape is made, without --llama the peer is left out. Every client streams
/v1/completions, greedy, prompts of random token ids, and sends its next request when one ends. "bare" is the same load
given to the engine without HTTP. In every round each side has a turn; a ratio is the median over rounds of our figure
over the other's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import httpx2
import torch

from h1r import LLM
from h1r.model import PRESETS, build, save
from h1r.types import SamplingParams

PATIENCE = 120.0  # seconds a server may take to start


class Load(NamedTuple):
    """What every side is asked to do. requests: per client."""

    clients: int
    requests: int
    prompt: int
    tokens: int


class Turn(NamedTuple):
    """What one turn measured; times in milliseconds, medians over requests. latency: between a request's tokens."""

    requests: float
    tokens: float
    first: float
    latency: float


BETTER = {"requests": 1, "tokens": 1, "first": -1, "latency": -1}
"""Whether more or less of it is better; ratios are turned so that above 1 is better for us."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="checkpoint folder, with FOLDER.bf16.gguf beside it")
    parser.add_argument("--llama", type=Path, help="folder of llama-server")
    parser.add_argument("--concurrency", default="1,8,64")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=4, help="per client and turn")
    parser.add_argument("--prompt", type=int, default=64, help="tokens")
    parser.add_argument("--tokens", type=int, default=64, help="tokens written per request")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as spare:
        model = args.model or _made(Path(spare) / "h1-tiny-90m")
        gguf = model.with_name(f"{model.name}.bf16.gguf")
        if args.llama and not gguf.is_file():
            parser.error(f"--llama needs {gguf}: convert the checkpoint (docs/performance.md)")
        llm = LLM(model, dtype="bfloat16", memory_bytes=1 << 30, prefixes=0, tokenizer=False)
        rows = []
        with ours(model, args.threads) as url:
            for clients in map(int, args.concurrency.split(",")):
                load = Load(clients, args.requests, args.prompt, args.tokens)
                rows.append(measure(load, args.rounds, url, llm, args.llama, gguf, args.threads))
                print(line(rows[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def measure(load: Load, rounds: int, url: str, llm: LLM, peer: Path | None, gguf: Path, threads: int) -> dict[str, Any]:
    """All sides under one load."""
    vocab = llm.loop.engine.vocab
    with ExitStack() as running:
        sides: dict[str, Callable[[int], Turn]] = {
            "ours": lambda seed: asyncio.run(over_http(url, load, vocab, seed)),
            "bare": lambda seed: bare(llm, load, vocab, seed),
        }
        if peer:
            other = running.enter_context(llama(peer, gguf, load, threads))
            sides["llama.cpp"] = lambda seed: asyncio.run(over_http(other, load, vocab, seed))
        warm = load._replace(requests=1)
        asyncio.run(over_http(url, warm, vocab, -1))
        if peer:
            asyncio.run(over_http(other, warm, vocab, -1))
        turns: dict[str, list[Turn]] = {side: [] for side in sides}
        for r in range(rounds):
            for side in sorted(sides, reverse=bool(r % 2)):
                turns[side].append(sides[side](r))
    return row(load, turns)


def row(load: Load, turns: dict[str, list[Turn]]) -> dict[str, Any]:
    """Medians of every side, and of the rounds' ratios."""
    out: dict[str, Any] = {"load": load._asdict(), "rounds": {s: [t._asdict() for t in ts] for s, ts in turns.items()}}
    out["median"] = {
        side: {name: median(getattr(t, name) for t in ts) for name in BETTER} for side, ts in turns.items()
    }
    out["ratio"] = {
        side: {
            name: median((getattr(m, name) / getattr(o, name)) ** sign for m, o in zip(turns["ours"], ts, strict=True))
            for name, sign in BETTER.items()
        }
        for side, ts in turns.items()
        if side != "ours"
    }
    return out


def line(r: dict[str, Any]) -> str:
    """A row as text."""
    mine = r["median"]["ours"]
    text = f"{r['load']['clients']:3} clients: ours {mine['requests']:.2f} requests/s, {mine['tokens']:.0f} tokens/s, "
    text += f"first token {mine['first']:.0f} ms, then {mine['latency']:.2f} ms"
    for side, ratio in r["ratio"].items():
        text += (
            f" | {side}: tokens/s {ratio['tokens']:.2f}x, first {ratio['first']:.2f}x, latency {ratio['latency']:.2f}x"
        )
    return text


def prompts(load: Load, vocab: int, seed: int, client: int) -> Iterator[list[int]]:
    """A client's prompts; the same for every side."""
    draw = random.Random(f"{seed}/{client}")
    for _ in range(load.requests):
        yield [draw.randrange(300, vocab) for _ in range(load.prompt)]


def turn(load: Load, seconds: float, firsts: list[float], lasts: list[float]) -> Turn:
    """firsts, lasts: seconds from a request's start to its first and last token."""
    count = load.clients * load.requests
    assert len(firsts) == len(lasts) == count, "a request was lost"
    pace = [(b - a) / (load.tokens - 1) for a, b in zip(firsts, lasts, strict=True)]
    return Turn(count / seconds, count * load.tokens / seconds, 1e3 * median(firsts), 1e3 * median(pace))


async def over_http(url: str, load: Load, vocab: int, seed: int) -> Turn:
    """One turn of a server."""
    firsts: list[float] = []
    lasts: list[float] = []
    body = {"max_tokens": load.tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    body["stream_options"] = {"include_usage": True}
    # a connection per request: llama-server closes idle ones, now and then just as the next request is sent
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits) as client:

        async def work(number: int) -> None:
            for prompt in prompts(load, vocab, seed, number):
                begun, first, last, written = time.perf_counter(), 0.0, 0.0, 0
                async with client.stream("POST", "/v1/completions", json=body | {"prompt": prompt}) as answer:
                    assert answer.status_code == 200, await answer.aread()
                    async for text in answer.aiter_lines():
                        if not text.startswith("data: {"):
                            continue
                        last = time.perf_counter() - begun
                        first = first or last
                        if '"usage":{' in text.replace(" ", ""):
                            written = json.loads(text[6:])["usage"]["completion_tokens"]
                assert written == load.tokens, f"{written} tokens instead of {load.tokens}"
                firsts.append(first)
                lasts.append(last)

        begun = time.perf_counter()
        await asyncio.gather(*(work(i) for i in range(load.clients)))
        return turn(load, time.perf_counter() - begun, firsts, lasts)


def bare(llm: LLM, load: Load, vocab: int, seed: int) -> Turn:
    """The same load without HTTP: threads that wait for the engine."""
    firsts: list[float] = []
    lasts: list[float] = []
    sampling = SamplingParams(temperature=0, max_tokens=load.tokens, ignore_eos=True)

    def work(number: int) -> None:
        for prompt in prompts(load, vocab, seed, number):
            begun, first = time.perf_counter(), [0.0]

            def heard(_: Any, begun: float = begun, first: list[float] = first) -> None:
                first[0] = first[0] or time.perf_counter() - begun

            llm.submit(prompt, sampling, heard).result()
            firsts.append(first[0])
            lasts.append(time.perf_counter() - begun)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(load.clients)]
    begun = time.perf_counter()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return turn(load, time.perf_counter() - begun, firsts, lasts)


def ours(model: Path, threads: int) -> Any:
    """`h1r serve`, without kept prefixes of use: every prompt is new."""
    command = [sys.executable, "-m", "h1r", "serve", str(model), "--dtype", "bfloat16", "--memory-gib", "1"]
    return server(command, os.environ | {"OMP_NUM_THREADS": str(threads)})


def llama(folder: Path, gguf: Path, load: Load, threads: int) -> Any:
    """llama-server with a slot for every client and no cache of prompts."""
    size = load.clients * (load.prompt + load.tokens + 32)
    command = [str(folder / "llama-server"), "-m", str(gguf), "-t", str(threads), "-np", str(load.clients)]
    command += ["-c", str(size), "--no-webui", "--cache-ram", "0"]
    return server(command, os.environ | {"LD_LIBRARY_PATH": str(folder)})


@contextmanager
def server(command: list[str], environment: dict[str, str]) -> Iterator[str]:
    """A server's process, once it is ready; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryFile() as said:
        running = subprocess.Popen([*command, "--port", str(port)], stdout=said, stderr=said, env=environment)
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
        try:
            while not _ready(url):
                if running.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    raise SystemExit(f"{command[0]} did not start: {said.read()[-2000:].decode(errors='replace')}")
                time.sleep(0.1)
            yield url
        finally:
            running.terminate()
            running.wait()


def _ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


def _made(folder: Path) -> Path:
    """A random checkpoint and a tokenizer of its vocabulary's size."""
    from h1r import text

    config = PRESETS["tiny-90m"]
    save(build(config, 0), folder, dtype=torch.bfloat16)
    text.train(["0 1 2 3 4 5 6 7 8 9 + - * / = a b c d e f g h"], 300).save(folder)
    return folder


if __name__ == "__main__":
    main()
