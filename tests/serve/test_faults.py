"""What goes wrong: clients that leave or read slowly, broken bodies, steps that raise, threads that die, disks that are full.

Every time: the others are served, memory is given back, and the next request is answered."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from h1r.engine import LLM
from h1r.errors import ConfigError
from h1r.serve import Limits, Record, Turns, app
from h1r.serve.service import Refused
from serving import serving, until

ENDLESS = {"prompt": [1, 2, 3], "max_tokens": 900, "ignore_eos": True, "temperature": 0}
SHORT = {"prompt": [1, 2, 3], "max_tokens": 4, "ignore_eos": True, "temperature": 0, "return_token_ids": True}
MESSAGES = [{"role": "user", "content": "What is 2+2?"}]


def served(llm: LLM, **options):
    return serving(app(llm, "tiny", **options))


@pytest.fixture(scope="module")
def url(llm: LLM) -> Iterator[str]:
    with served(llm) as address:
        yield address


@pytest.fixture(autouse=True)
def _nothing_lost(request: pytest.FixtureRequest, llm: LLM) -> Iterator[None]:
    """After every fault the server answers as before, and memory is whole."""
    yield
    if "url" in request.fixturenames:
        url = request.getfixturevalue("url")
        got = httpx2.post(f"{url}/v1/completions", json=SHORT, timeout=20).json()["choices"][0]["token_ids"]
        assert len(got) == 4
    until(lambda: not llm.loop.engine.busy)
    llm.loop.call(lambda engine: engine.check_integrity())


def slowly(llm: LLM, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.005) -> list[int]:
    """Steps that take their time; returns what each left behind: pages held."""
    engine, step, held = llm.loop.engine, llm.loop.engine.step, []

    def paced():
        time.sleep(seconds)
        events = step()
        held.append(
            engine.memory.pages.used - len({p for s in engine.scheduler.prefixes.kept.values() for p in s.pages})
        )
        return events

    monkeypatch.setattr(engine, "step", paced)
    return held


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("streamed", [True, False])
def test_client_vanishes_in_the_middle(url: str, llm: LLM, monkeypatch, path: str, streamed: bool):
    held = slowly(llm, monkeypatch)
    aborted: list[int] = []
    abort = llm.loop.engine.abort
    monkeypatch.setattr(llm.loop.engine, "abort", lambda *a: (aborted.append(len(held)), abort(*a))[1])
    body = {k: v for k, v in ENDLESS.items() if k != "prompt"} | {"stream": streamed}
    body |= {"messages": MESSAGES} if "chat" in path else {"prompt": [1, 2, 3]}
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
        client.sendall(head.encode() + data)
        until(lambda: len(held) > 5 and held[-1] > 0)
        seen = len(held)
    until(lambda: bool(aborted))
    until(lambda: len(held) > aborted[0] or not llm.loop.engine.busy)
    # the step that runs while the client leaves, perhaps a second while the news travels, none after the abort
    assert aborted[0] - seen < 50 and all(pages == 0 for pages in held[aborted[0] :])


def test_slow_reader_delays_nobody_and_is_cut(llm: LLM, tmp_path: Path):
    """It takes nothing of an answer larger than all buffers: others are served, and after `stall` seconds it is let go."""
    record = Record(tmp_path / "log.jsonl")
    with served(llm, limits=Limits(stall=0.5), record=record) as url, socket.socket() as client:
        data = json.dumps(ENDLESS | {"stream": True, "return_trace": True, "logprobs": 20, "n": 8}).encode()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        head = f"host: h\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        client.sendall(f"POST /v1/completions HTTP/1.1\r\n{head}".encode() + data)
        until(lambda: llm.loop.engine.busy)
        begun = time.monotonic()
        assert httpx2.post(f"{url}/v1/completions", json=SHORT, timeout=20).status_code == 200
        assert time.monotonic() - begun < 5
        until(lambda: (record.flush(), record.path.read_text().count("\n") == 2)[1], 20)
        entries = [json.loads(line) for line in record.path.read_text().splitlines()]
        assert [e for e in entries if e.get("left")]
        until(lambda: not llm.loop.engine.live, 20)


BROKEN = {
    "not JSON": b'{"prompt": [1, 2',
    "a list": b"[]",
    "empty": b"",
    "invalid UTF-8": b'{"prompt": "\xff\xfe"}',
    "half a surrogate pair": b'{"prompt": "\\ud800", "max_tokens": 2}',
    "half a surrogate pair in a key": b'{"\\ud800": 1}',
    "deeply nested": b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "a huge number": b'{"seed": ' + b"9" * 5000 + b', "prompt": [1]}',
    "NaN": b'{"temperature": NaN, "prompt": [1]}',
    "infinity": b'{"temperature": 1e999, "prompt": [1]}',
    "token id out of range": b'{"prompt": [1, 99999999]}',
    "token id beyond 64 bits": b'{"prompt": [99999999999999999999999]}',
    "negative token id": b'{"prompt": [-1]}',
    "stop id out of range": b'{"prompt": [1], "max_tokens": 2, "stop_token_ids": [99999999999999999999999]}',
    "a huge top_k": b'{"prompt": [1], "max_tokens": 2, "top_k": 99999999999999999999999}',
    "prompt too long": json.dumps({"prompt": [5] * 5000}).encode(),
    "10 MB of prompt": json.dumps({"prompt": [5] * 3_500_000}).encode(),
    "10 MB of an unknown field": json.dumps({"prompt": [5], "filler": "x" * 10_000_000}).encode(),
    "10 MB of text": json.dumps({"prompt": "2+2 " * 2_500_000}).encode(),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_bodies(url: str, what: str):
    response = httpx2.post(
        f"{url}/v1/completions", content=BROKEN[what], headers={"content-type": "application/json"}, timeout=60
    )
    assert response.status_code == 400, response.text[:300]
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error" and 0 < len(error["message"]) < 500


def test_broken_chats(url: str):
    for content, words in (("\ud800", "surrogate"), ("long " * 2000, "shorten the prompt")):
        data = json.dumps({"messages": [{"role": "user", "content": content}]}).encode()
        headers = {"content-type": "application/json"}
        response = httpx2.post(f"{url}/v1/chat/completions", content=data, headers=headers, timeout=20)
        assert response.status_code == 400 and words in response.json()["error"]["message"]


def test_too_large_is_413_and_too_slow_408(llm: LLM):
    with served(llm, limits=Limits(body=1 << 20, stall=0.3)) as url:
        data = b"x" * (10 << 20)
        try:
            response = httpx2.post(f"{url}/v1/completions", content=data, timeout=20)
            assert response.status_code == 413
        except httpx2.WriteError:
            pass  # hung up on in the middle: as good

        def drip():
            yield b'{"prompt": '
            time.sleep(1.0)
            yield b"[1]}"

        response = httpx2.post(f"{url}/v1/completions", content=drip(), timeout=20)
        assert response.status_code == 408


@pytest.mark.parametrize("streamed", [True, False])
def test_step_that_raises_is_told_and_forgotten(url: str, llm: LLM, monkeypatch, streamed: bool):
    run, now = llm.loop.engine.runner.run, threading.Event()

    def broken(plan):
        time.sleep(0.002)
        if now.is_set():
            now.clear()
            raise RuntimeError("the device is gone")
        return run(plan)

    monkeypatch.setattr(llm.loop.engine.runner, "run", broken)
    told = []

    def ask(_: int) -> None:
        response = httpx2.post(f"{url}/v1/completions", json=ENDLESS | {"stream": streamed}, timeout=20)
        if not streamed:
            assert response.status_code == 500
            told.append(response.json()["error"])
            return
        last = [line for line in response.text.split("\n\n") if line][-1]
        told.append(json.loads(last.removeprefix("data: "))["error"])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
    for t in threads:
        t.start()
    until(lambda: len(llm.loop.engine.live) == 3)
    now.set()
    for t in threads:
        t.join()
    assert len(told) == 3
    assert all("RuntimeError" in e["message"] and "goes on" in e["message"] and e["code"] == 500 for e in told)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_dead_engine_thread_is_told_and_replaced(url: str, llm: LLM, monkeypatch):
    step = llm.loop.engine.step

    def dies():
        monkeypatch.setattr(llm.loop.engine, "step", step)
        raise SystemExit(1)

    monkeypatch.setattr(llm.loop.engine, "step", dies)
    response = httpx2.post(f"{url}/v1/completions", json=ENDLESS, timeout=20)
    assert response.status_code == 500 and "thread died (SystemExit" in response.json()["error"]["message"]


def test_abort_that_raises_costs_no_thread(llm: LLM, monkeypatch):
    abort = llm.loop.engine.abort

    def broken(*_):
        monkeypatch.setattr(llm.loop.engine, "abort", abort)
        raise RuntimeError("half-way")

    monkeypatch.setattr(llm.loop.engine, "abort", broken)
    ticket = llm.submit([1, 2, 3], llm.recommended())
    ticket.abort()
    with pytest.raises(RuntimeError, match="half-way"):
        ticket.result(10)


def test_full_disk_costs_lines_not_requests(llm: LLM, tmp_path: Path, caplog):
    """/dev/full: opens, and refuses every byte."""
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    record = Record("/dev/full")
    with served(llm, record=record) as url:
        for _ in range(3):
            assert httpx2.post(f"{url}/v1/completions", json=SHORT, timeout=20).status_code == 200
        # a line is put after its answer has gone
        until(lambda: (record.flush(), record.lost == 3)[1])
        assert caplog.text.count("cannot be written") == 1
        record.path = tmp_path / "log.jsonl"
        assert httpx2.post(f"{url}/v1/completions", json=SHORT, timeout=20).status_code == 200
        until(lambda: (record.flush(), record.path.read_text().count("\n") == 1)[1])
    assert record.lost == 3
    with pytest.raises(ConfigError, match="log-file"):
        Record(tmp_path / "log.jsonl" / "below")


def test_log_knows_tokens_and_no_words(llm: LLM, tmp_path: Path):
    quiet, full = Record(tmp_path / "quiet.jsonl"), Record(tmp_path / "full.jsonl", prompts=True)
    for record in (quiet, full):
        with served(llm, record=record, api_keys=["a-long-secret"], answer_of=lambda trace: "one") as url:
            ask = {"messages": MESSAGES, "max_tokens": 5, "ignore_eos": True}
            headers = {"authorization": "Bearer a-long-secret"}
            httpx2.post(f"{url}/v1/chat/completions", json=ask, headers=headers, timeout=20)
            httpx2.post(f"{url}/v1/chat/completions", json=ask, timeout=20)
            think = {"messages": MESSAGES, "traces": 4, "warmup": 2, "max_tokens": 6}
            thought = httpx2.post(f"{url}/v1/deepthink", json=think, headers=headers, timeout=20).json()
            until(lambda r=record: (r.flush(), r.path.read_text().count("\n") == 3)[1])
    first, second, third = (json.loads(line) for line in quiet.path.read_text().splitlines())
    assert (first["status"], first["completion_tokens"], first["path"]) == (200, 5, "/v1/chat/completions")
    assert first["prompt_tokens"] > 5 and first["seconds"] > 0 and len(first["client"]) == 8
    assert second["status"] == 401 and "completion_tokens" not in second
    assert third["prompt_tokens"] == first["prompt_tokens"] and thought["traces"] == 4
    written = [json.loads(r.path.read_text().splitlines()[2])["completion_tokens"] for r in (quiet, full)]
    assert 4 <= written[0] <= 24 and written[1] == thought["tokens"]
    told = quiet.path.read_text()
    assert "2+2" not in told and "secret" not in told
    assert "What is 2+2?" in json.loads(full.path.read_text().splitlines()[0])["body"]


@pytest.mark.parametrize("streamed", [True, False])
def test_time_limit(llm: LLM, monkeypatch, streamed: bool):
    slowly(llm, monkeypatch)
    with served(llm, limits=Limits(seconds=0.4)) as url:
        begun = time.monotonic()
        response = httpx2.post(f"{url}/v1/completions", json=ENDLESS | {"stream": streamed}, timeout=20)
        assert 0.3 < time.monotonic() - begun < 3
        if streamed:
            last = [line for line in response.text.split("\n\n") if line][-1]
            error = json.loads(last.removeprefix("data: "))["error"]
        else:
            assert response.status_code == 503 and int(response.headers["retry-after"]) > 0
            error = response.json()["error"]
        assert error["code"] == 503 and "longer than 0.4 s" in error["message"]
        until(lambda: not llm.loop.engine.busy)


def test_queue_is_fair_and_bounded(llm: LLM, monkeypatch):
    """One client's twelve requests do not stand before another's one."""
    step, go = llm.loop.engine.step, threading.Event()
    monkeypatch.setattr(llm.loop.engine, "step", lambda: (go.wait(10), step())[1])
    keys = ["first-client", "second-client"]
    limits = Limits(in_flight=14, at_work=1, per_key=12)
    order: list[str] = []
    made = app(llm, "tiny", limits=limits, api_keys=keys)
    with serving(made) as url:

        def ask(key: str) -> httpx2.Response:
            headers = {"authorization": f"Bearer {key}"}
            answer = httpx2.post(f"{url}/v1/completions", json=SHORT, headers=headers, timeout=60)
            order.append(key)
            return answer

        threads = [threading.Thread(target=ask, args=(keys[0],)) for _ in range(12)]
        for t in threads:
            t.start()
        until(lambda: sum(map(len, made.state.turns.waiting.values())) == 11)
        refused = ask(keys[0])
        assert refused.status_code == 429 and "of this key" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"] == "1"
        order.clear()
        threads.append(threading.Thread(target=ask, args=(keys[1],)))
        threads[-1].start()
        until(lambda: len(made.state.turns.waiting) == 2)
        go.set()
        for t in threads:
            t.join()
        assert len(order) == 13 and order.index(keys[1]) <= 3


def test_turns_go_to_who_has_least():
    """The bookkeeping alone: places, order, refusals, a wait that ends, a client that gives up."""

    async def scene() -> None:
        turns = Turns(Limits(in_flight=6, at_work=2))
        await turns.enter("a")
        await turns.enter("a")
        order: list[str] = []

        async def queue(name: str) -> None:
            await turns.enter(name)
            order.append(name)

        tasks = [asyncio.create_task(queue(n)) for n in ("a", "a", "b", "c")]
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="6 requests are in flight"):
            await turns.enter("d")
        tasks[1].cancel()
        await asyncio.sleep(0)
        for name in ("a", "a", "b"):
            turns.leave(name)
            await asyncio.sleep(0.01)
        assert order == ["b", "c", "a"] and turns.working == {"c": 1, "a": 1} and not turns.waiting

        late = Turns(Limits(at_work=1, wait=0.05))
        await late.enter("a")
        with pytest.raises(Refused, match="no turn came") as told:
            await late.enter("b")
        assert told.value.status == 503 and told.value.retry and not late.waiting
        late.draining = True
        with pytest.raises(Refused, match="shutting down"):
            await late.enter("b")

    asyncio.run(scene())
    with pytest.raises(ConfigError, match="at_work"):
        Limits(at_work=0)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/deepthink"])
def test_a_message_that_cannot_fit_is_refused_unread(llm: LLM, path: str):
    """Ten megabytes of one word would take half a minute to encode, in which nobody else is served."""
    with served(llm, answer_of=lambda trace: trace.content, same=lambda a, b: a == b) as url:
        begun = time.monotonic()
        messages = [{"role": "user", "content": "word " * 2_000_000}]
        got = httpx2.post(f"{url}{path}", json={"messages": messages}, timeout=60)
        assert got.status_code == 400 and "shorten the prompt" in got.json()["error"]["message"]
        assert time.monotonic() - begun < 10
