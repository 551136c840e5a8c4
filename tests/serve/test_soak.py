"""`make soak`: many streams at once for a long time, on a server process; and every request schemathesis can think of.

--soak-seconds N: how long (default 120; 600 shows what "flat" is worth). --soak-model FOLDER: another checkpoint than the
tiny one.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from h1r.engine import LLM
from h1r.types import SamplingParams
from serving import process

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

AT_ONCE, IN_ALL = 256, 1000
KINDS = 64  # different prompts
LENGTHS = (8, 24, 40)
GROWTH = 0.05  # of resident memory, warm server to the end


class Case:
    """One prompt, and what it must become."""

    def __init__(self, prompt: list[int], length: int, want: tuple[int, ...]) -> None:
        self.body = {"prompt": prompt, "max_tokens": length, "temperature": 0, "ignore_eos": True, "stream": True}
        self.body |= {"return_token_ids": True, "stream_options": {"include_usage": True}}
        self.want = list(want)


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, checkpoint: Path) -> Path:
    return Path(request.config.getoption("--soak-model", None) or checkpoint)


@pytest.fixture(scope="module")
def cases(place: Path) -> list[Case]:
    """Answers computed one at a time, by an engine of this process."""
    llm, draw = LLM(place, dtype="float32", memory_bytes=256 << 20, prefixes=0), random.Random(5)
    made = []
    for i in range(KINDS):
        prompt = [draw.randrange(3, llm.loop.engine.vocab) for _ in range(draw.choice((3, 17, 65, 130)))]
        length = LENGTHS[i % len(LENGTHS)]
        trace = llm.generate(prompt, SamplingParams(temperature=0, max_tokens=length, ignore_eos=True))[0][0]
        made.append(Case(prompt, length, trace.token_ids))
    return made


@pytest.fixture(scope="module")
def server(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """(process id, address)."""
    log = tmp_path_factory.mktemp("soak") / "log.jsonl"
    arguments = [str(place), "--dtype", "float32", "--memory-gib", "0.25", "--log-file", str(log)]
    with process(*arguments) as (running, url):
        yield running.pid, url


async def ask(client: httpx2.AsyncClient, case: Case) -> str:
    """right, or what went wrong."""
    ids: list[int] = []
    usage, done = 0, False
    async with client.stream("POST", "/v1/completions", json=case.body) as answer:
        if answer.status_code != 200:
            return f"status {answer.status_code}"
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    return str(event["error"]["message"])
                usage = (event.get("usage") or {}).get("completion_tokens", usage)
                for choice in event["choices"]:
                    ids += choice.get("token_ids", [])
    if not done:
        return "lost: the stream broke off"
    return "right" if ids == case.want and usage == len(ids) else "mixed up"


async def vanish(client: httpx2.AsyncClient, case: Case) -> None:
    """A client that leaves after the first token."""
    async with client.stream("POST", "/v1/completions", json=case.body | {"max_tokens": 800}) as answer:
        async for _ in answer.aiter_raw():
            return


async def load(url: str, cases: list[Case], requests: int | None, seconds: float, seed: int) -> Counter[str]:
    """AT_ONCE clients, until so many requests are answered or the time is up."""
    told: Counter[str] = Counter()
    draw, end, begun = random.Random(seed), time.monotonic() + seconds, 0
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=AT_ONCE)
    async with httpx2.AsyncClient(base_url=url, timeout=120, limits=limits) as client:

        async def work() -> None:
            nonlocal begun
            while (requests is None or begun < requests) and time.monotonic() < end:
                begun += 1
                if requests is None and draw.random() < 0.03:
                    await vanish(client, draw.choice(cases))
                    told["vanished"] += 1
                    continue
                try:
                    told[await ask(client, draw.choice(cases))] += 1
                except httpx2.TransportError as e:
                    told[f"lost: {type(e).__name__}"] += 1

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return told


def resident(pid: int) -> int:
    """Bytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found.group(1)) << 10


def gauge(url: str, name: str) -> float:
    return float(re.search(rf"^{name}\{{.*\}} (.*)$", httpx2.get(f"{url}/metrics").text, re.MULTILINE).group(1))  # type: ignore[union-attr]


def test_none_lost_none_mixed_up(server: tuple[int, str], cases: list[Case]):
    begun = time.monotonic()
    told = asyncio.run(load(server[1], cases, IN_ALL, 600, seed=1))
    print(f"\n{IN_ALL} requests, {AT_ONCE} at once: {IN_ALL / (time.monotonic() - begun):.0f} a second")
    assert told == {"right": IN_ALL}


def test_memory_is_flat(server: tuple[int, str], cases: list[Case], request: pytest.FixtureRequest):
    """After a warm-up, resident memory grows by less than GROWTH however long it goes on; no state is left behind."""
    pid, url = server
    seconds = float(request.config.getoption("--soak-seconds", 120))
    asyncio.run(load(url, cases, None, min(30, seconds / 4), seed=2))
    start, sizes, answered, rounds = resident(pid), [], Counter[str](), 8
    for i in range(rounds):
        answered += asyncio.run(load(url, cases, None, seconds / rounds, seed=3 + i))
        sizes.append(resident(pid))
    print(f"\n{answered} in {seconds:.0f} s; {start >> 20} MiB, then {[s >> 20 for s in sizes]}")
    assert set(answered) <= {"right", "vanished"} and answered["right"] > IN_ALL
    assert sizes[-1] < start * (1 + GROWTH)
    deadline = time.monotonic() + 20
    while gauge(url, "vllm:num_requests_running") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert gauge(url, "vllm:num_requests_running") == gauge(url, "vllm:num_requests_waiting") == 0


def test_schemathesis_finds_no_5xx(server: tuple[int, str], tmp_path: Path):
    pytest.importorskip("schemathesis", reason="needs the extra 'conformance'")
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"]
    command += [f"{server[1]}/openapi.json", "--checks", "not_a_server_error", "--max-examples", "60", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=1200)
    print(done.stdout[-2000:])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
